"""The page: one file, nothing loaded from elsewhere, everything escaped, all parts in their order."""

import re
from html.parser import HTMLParser

import pytest

from seqpair.report.collect import collect_study
from seqpair.report.page import render_page


def page_of(folder):
    return render_page(collect_study(folder))


VOID = {"meta", "br", "input", "img", "hr", "link"}


class Outline(HTMLParser):
    """Collects tags, attributes and text, and checks that every element is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes, self.text, self.elements = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.elements.append((tag, dict(attrs)))
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def page(finished_study):
    return page_of(finished_study)


def outline_of(text):
    outline = Outline()
    outline.feed(text)
    outline.close()
    assert outline.open == []
    return outline


def test_nothing_is_loaded_and_one_script_is_run(page):
    outline = outline_of(page)
    assert not {"iframe", "img", "object", "embed"} & set(outline.tags)
    scripts = [attributes for tag, attributes in outline.elements if tag == "script"]
    assert [one for one in scripts if one.get("type") != "application/json"] == [{}]
    for tag, name, value in outline.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in ("src", "srcset", "action"), (tag, name)
        if name == "href":
            assert value.startswith(("#", "data:", "items/", "tables/")), value
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", page))


def test_the_parts_come_in_their_order_and_the_list_of_parts_leads_to_each(page):
    parts = re.findall(r'<section id="([\w-]+)">', page)
    assert parts == [
        "comparison", "items", "curves", "scaling", "quality", "samples", "pair", "data", "trained", "again"
    ]  # fmt: skip
    assert re.findall(r'<li><a href="#([\w-]+)">', page) == parts


def test_what_comes_from_files_is_escaped(page):
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "Return &lt;b&gt;True&lt;/b&gt; if the <mark>[MASK]</mark> exists." in page


def test_every_table_has_a_caption_and_every_drawing_says_what_it_shows(page):
    outline = outline_of(page)
    assert outline.tags.count("table") == outline.tags.count("caption") >= 8
    drawings = re.findall(r"<svg[^>]*>", page)
    assert len(drawings) >= 7
    assert all("aria-label=" in drawing or "aria-hidden" in drawing for drawing in drawings)


def test_ids_are_unique(page):
    ids = [value for _, name, value in outline_of(page).attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_the_page_holds_the_facts(page):
    text = " ".join(" ".join(outline_of(page).text).split())
    for fact in (
        "encoder ahead",
        "neither above chance",
        "derived.hub_class",
        "its logits differ by at most 3.1e-06 (allowed: 1e-04), on 24 texts",
        "digests, over positions and content, are equal at all",
        "seqpair run demo",
        "seqpair diff demo encoder decoder",
        "4 min 15 s",
        "2.13.0",
    ):
        assert fact in text, fact


def test_the_page_is_the_same_twice(finished_study, page):
    assert page_of(finished_study) == page


def test_an_unfinished_study_has_a_page_that_names_what_is_missing(finished_study):
    for path in ("decoder/metrics.jsonl", "encoder/export/seqpair_export.json", "decoder/plan.json"):
        (finished_study / path).write_text("no json\n")
    for path in finished_study.glob("*/evaluation/*"):
        path.unlink()
    page = page_of(finished_study)
    outline_of(page)
    assert "There are no results yet." in page
    assert "What this page could not read" in page
    assert "encoder: export/seqpair_export.json cannot be read" in page


def test_a_lone_member_has_a_page(finished_study):
    (finished_study / "decoder" / "plan.json").unlink()
    page = page_of(finished_study)
    assert "Only the encoder is here, so there is nothing to compare yet." in page


def test_a_second_export_has_a_column_but_no_curve(hybrid_study):
    page = page_of(hybrid_study)
    outline_of(page)
    assert page.count('<span class="name">both as clm</span></th>') == 1
    assert re.search(r"<td>[^<]*encoder</td><td>[^<]*both as clm</td>", page)
    assert "the second export of both: the same weights, read as clm" in page
    assert "OfTheSecondExport" in page
    assert 'id="figure-train-both"' in page
    assert "train-both-as-clm" not in page
    assert "seqpair diff demo encoder both\n" in page
    assert "seqpair diff demo encoder both as clm" not in page
