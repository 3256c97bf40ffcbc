"""The page: one file, nothing loaded from elsewhere, everything escaped; and the files beside it."""

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from typer.testing import CliRunner

from seqpair.cli.app import app
from seqpair.compare.planned import read_questions
from seqpair.compare.values import ELSEWHERE
from seqpair.evaluate.registry import SUITES
from seqpair.evaluate.results import ItemOutcome, TaskResult, write_result
from seqpair.report.collect import collect_study, scores_of_members
from seqpair.report.page import markdown_text, render_page, write_report
from seqpair.report.published import published_rows
from seqpair.report.view import view_of


def page_of(folder):
    return render_page(collect_study(folder))


QUESTIONS = """
written: 2026-11-25, before anything was evaluated
questions:
  continuing: {tasks: [continuation]}
  masks: {tasks: [masked_accuracy], first: encoder, second: both}
"""
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
    assert "Only the encoder has run, so there is nothing to compare yet." in page


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


def test_the_files_are_where_the_contract_says_and_old_ones_go(finished_study):
    stale = finished_study / "report" / "figures" / "of-an-earlier-report.svg"
    stale.parent.mkdir(parents=True)
    own = stale.with_name("of-somebody.svg")
    for path in (stale, own):
        path.write_text("<svg/>")
    (finished_study / "report" / ".written.json").write_text('["figures/of-an-earlier-report.svg"]')
    page = write_report(collect_study(finished_study))
    assert page == finished_study / "report" / "index.html"
    assert not stale.exists()
    own.unlink()  # what no report wrote stays
    names = {str(path.relative_to(page.parent)) for path in page.parent.rglob("*.*")}
    assert {"report.md", "tables/values.csv", "tables/values.tex", "figures/train-encoder.svg",
            "figures/train-encoder.png", "items/continuation.csv"} <= names  # fmt: skip
    for drawn in page.parent.glob("figures/*.svg"):
        assert ElementTree.parse(drawn).getroot().tag == "{http://www.w3.org/2000/svg}svg"
        assert "var(" not in drawn.read_text(encoding="utf-8")
    assert (page.parent / "figures" / "train-encoder.png").read_bytes().startswith(b"\x89PNG")
    text = (page.parent / "report.md").read_text(encoding="utf-8")
    assert "| Task | encoder | decoder |" in text
    assert all((page.parent / after.split(")")[0]).is_file() for after in text.split("](")[1:])


def test_markdown_takes_nothing_for_markup():
    assert markdown_text("<b>*x*|[y](z)\n# w") == r"\<b\>\*x\*\|\[y\](z) \# w"
    assert len(markdown_text("long" * 5000)) == 200


def test_a_published_value_names_its_source_and_belongs_to_a_task_or_a_suite():
    rows = published_rows()
    assert {"Ettin encoder", "Ettin decoder", "ModernBERT", "SmolLM2", "Llama 3.2"} <= {row.family for row in rows}
    assert all(row.source and row.values and (row.tasks or row.suite) for row in rows)
    ours = {task.name for tasks in SUITES.values() for task in tasks}
    assert {task for row in rows for task in row.tasks} <= ours
    assert {row.suite for row in rows} <= {*SUITES, ""}
    mnli = next(row for row in rows if row.tasks == ("glue_mnli",) and row.family == "Ettin encoder")
    assert mnli.points[0] == (150_000_000.0, pytest.approx(0.892))


def test_several_studies_are_one_report_and_members_keep_their_colours(finished_study):
    shutil.copytree(finished_study, finished_study.parent / "again")
    study = collect_study(finished_study.parent)
    assert [member.name for member in study.members] == [
        "again/encoder", "again/decoder", "demo/encoder", "demo/decoder"
    ]  # fmt: skip
    assert [(check.first, check.second) for check in study.order] == [
        ("again/encoder", "again/decoder"), ("demo/encoder", "demo/decoder")
    ]  # fmt: skip
    colours = {drawings[0].id: drawings[0].colour for drawings in view_of(study).own_drawings.values()}
    assert sorted(colours.values()) == [0, 0, 1, 1]


def test_results_of_a_model_from_elsewhere_stand_beside_and_are_compared(finished_study, tmp_path):
    shutil.copytree(finished_study / "encoder" / "evaluation", tmp_path / "some-model")
    (tmp_path / "some-model" / "samples.json").unlink()
    study = collect_study(finished_study, also=[tmp_path / "some-model"])
    outside = study.members[-1]
    assert (outside.name, outside.is_outside) == ("some-model", True)
    scores = scores_of_members(study.members)
    assert {one.model.member for one in scores if one.model.is_elsewhere} == {"some-model"}
    view = view_of(study)
    assert "some-model" in [column.label for column in view.table("values").columns]
    pairs = {(one.first.label, one.second.label) for one in view.answers if one.question == ELSEWHERE}
    assert pairs == {("1m encoder", "some-model"), ("1m decoder", "some-model")}
    assert any(question.startswith("With a model from elsewhere") for question, _ in view.verdicts)


def test_results_with_a_limit_stand_beside_the_full_ones(finished_study):
    folder = finished_study / "encoder" / "evaluation"
    result = json.loads((folder / "continuation.json").read_text())
    quick = TaskResult(**(result | {"n": 2, "value": 0.5, "suite": "blimp"}))
    write_result(folder / "limit-2", quick, [ItemOutcome(id="a", value=1.0), ItemOutcome(id="b", value=0.0)])
    outcomes = collect_study(finished_study).members[0].outcomes
    assert outcomes["continuation"].result.n == 400
    assert outcomes["continuation@limit-2"].title == "True continuation among four (limit-2)"


def test_an_evaluated_checkpoint_is_a_point_of_a_curve(finished_study):
    folder = finished_study / "encoder"
    manifest = json.loads(next(folder.glob("checkpoints/*/manifest.json")).read_text())
    early = manifest | {"name": "step10", "phase_step": 10, "total_steps": 10, "content_tokens": 1_000_000}
    (folder / "checkpoints" / "step10").mkdir()
    (folder / "checkpoints" / "step10" / "manifest.json").write_text(json.dumps(early))
    record = json.loads((folder / "export" / "seqpair_export.json").read_text())
    (folder / "export-early").mkdir()
    (folder / "export-early" / "seqpair_export.json").write_text(json.dumps(record | {"checkpoint": "step10"}))
    shutil.copytree(folder / "evaluation", folder / "evaluation-early")
    study = collect_study(finished_study)
    scores = [one for one in scores_of_members(study.members) if one.model.checkpoint == "step10"]
    assert {one.model.tokens for one in scores} == {1_000_000}
    titles = [drawing.title for drawing in view_of(study).shared_drawings]
    assert "True continuation among four, by tokens" in titles


def test_the_verb_writes_where_it_is_told_and_shows_what_it_is_asked(finished_study, tmp_path):
    out = tmp_path / "elsewhere"
    done = CliRunner().invoke(app, ["report", str(finished_study), "--out", str(out), "--published", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["page"] == str(out / "index.html")
    assert "arXiv 2507.11412" in (out / "tables" / "published.csv").read_text(encoding="utf-8")
    assert 'id="published-values"' in (out / "index.html").read_text(encoding="utf-8")


def test_the_answers_come_first_on_the_page_and_in_the_readme(finished_study, tmp_path):
    path = tmp_path / "questions.yaml"
    path.write_text(QUESTIONS)
    page = write_report(collect_study(finished_study), asked=read_questions(path), out=tmp_path / "out")
    text = page.read_text()
    heading = "Asked beforehand (2026-11-25, before anything was evaluated)"
    assert text.index(heading) < text.index("Encoder against decoder at equal size")
    assert "On continuing (" in text
    assert heading in (tmp_path / "out" / "report.md").read_text()
    rows = (tmp_path / "out" / "tables" / "differences.csv").read_text().splitlines()
    assert rows[1].lstrip('"').startswith("continuing: ")
    assert "has no result" in json.dumps(rows[2])
