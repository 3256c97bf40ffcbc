"""The page in headless Chromium: nothing loaded or broken, sorted, filtered, quick, small, hostile text as text."""

import csv
import io
import time
from pathlib import Path

import pytest

from seqpair.report.page import MOST_BYTES

pytestmark = pytest.mark.browser

SORTED_COLUMN = 1
MOST_PAINT_SECONDS = 1.5
MOST_ELEMENTS = 60_000


def column(page, table: str, index: int) -> list[str]:
    text = "one => one === null || one.matches?.('small') ? '' : one.textContent"
    return page.eval_on_selector_all(
        f"#{table} tbody tr:not(.opened)", f"rows => rows.map(row => row.cells[{index}].firstChild).map({text})"
    )


def count_words(page, table: str) -> str:
    return page.text_content(f"#{table}-block [role=status]")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_asks_nobody_says_nothing_and_fits(open_page, small_page, scheme, width):
    opened = open_page(small_page, color_scheme=scheme, viewport={"width": width, "height": 800})
    assert opened.problems == []
    assert [url for url in opened.requests if not url.startswith(("file:", "data:"))] == []
    assert len(opened.requests) == 1
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    dark = opened.page.evaluate("getComputedStyle(document.body).backgroundColor").startswith("rgb(20")
    assert dark == (scheme == "dark")


def test_a_table_is_sorted_by_its_heading_and_says_so(open_page, small_page):
    page = open_page(small_page).page
    head = page.locator(f"#values thead th:nth-child({SORTED_COLUMN + 1})")
    assert head.get_attribute("aria-sort") == "none"
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    shown = [float(text) for text in column(page, "values", SORTED_COLUMN) if text]
    assert shown == sorted(shown)
    assert len(shown) >= 3
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    again = [float(text) for text in column(page, "values", SORTED_COLUMN) if text]
    assert again == shown[::-1]
    assert page.locator("#values th[aria-sort=ascending], #values th[aria-sort=descending]").count() == 1


def test_a_table_is_filtered_by_words(open_page, small_page):
    page = open_page(small_page).page
    every = page.locator("#values tbody tr").count()
    page.get_by_label("Filter rows").first.fill("bits byte")
    assert column(page, "values", 0) == ["Held-out text, bits per byte"]
    assert count_words(page, "values") == f"1 of {every} rows"
    page.get_by_label("Filter rows").first.fill("no such task")
    assert page.locator("#values tbody tr").count() == 0
    page.get_by_label("Filter rows").first.fill("")
    assert page.locator("#values tbody tr").count() == every


def test_items_open_below_their_row_and_a_task_leads_to_its_items(open_page, small_page):
    opened = open_page(small_page)
    page = opened.page
    page.locator("#values a", has_text="Held-out text, masked tokens").click()
    assert "masked tokens" in page.inner_text("#items-of-task caption")
    item = page.locator("#items-of-task button.item").first
    item.click()
    assert item.get_attribute("aria-expanded") == "true"
    assert page.locator("#items-of-task tr.opened").count() == 1
    item.click()
    assert page.locator("#items-of-task tr.opened").count() == 0
    assert opened.problems == []


def test_tables_and_figures_can_be_taken_away(open_page, small_page, tmp_path):
    page = open_page(small_page, accept_downloads=True).page
    with page.expect_download() as waiting:
        page.locator("#values-block a", has_text="CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(waiting.value.path()).read_text(encoding="utf-8"))))
    assert {"Task", "encoder", "encoder low", "encoder high"} <= set(rows[0])
    with page.expect_download() as waiting:
        page.locator("figure .save").first.click()
    drawn = Path(waiting.value.path()).read_text(encoding="utf-8")
    assert waiting.value.suggested_filename.endswith(".svg")
    assert "var(" not in drawn
    assert drawn.startswith("<svg")
    (tmp_path / "figure.svg").write_text(drawn, encoding="utf-8")
    alone = page.context.new_page()
    alone.goto((tmp_path / "figure.svg").as_uri())
    assert alone.evaluate("document.documentElement.localName") == "svg"


def test_a_reader_without_a_mouse_and_without_eyes_finds_the_way(open_page, small_page):
    page = open_page(small_page).page
    for mark in ("header", "nav", "main", "footer"):
        assert page.locator(f"body > {mark}").count() == 1
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("table, [role=region], select, input, svg[role=img]")].filter((one) =>
          !(one.caption || one.getAttribute("aria-label") || one.labels?.length
            || document.getElementById(one.getAttribute("aria-labelledby")))).length"""
    )
    assert nameless == 0
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(one => Number(one.localName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))


def test_hostile_text_is_shown_as_text(open_page, hostile_page):
    opened = open_page(hostile_page, viewport={"width": 390, "height": 800})
    page = opened.page
    assert opened.problems == []
    assert "broken" not in page.title()
    assert page.locator("#values tbody th", has_text="<script>document.title='broken'</script>").count() == 1
    page.select_option("#item-task", "hostile")
    page.locator("#items-of-task button.item").first.click()
    assert "</script>\"'>&amp;" in page.inner_text("#items-of-task tr.opened")
    assert page.evaluate("[...document.scripts].filter(one => one.type !== 'application/json').length") == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert hostile_page.stat().st_size <= MOST_BYTES


@pytest.mark.slow
def test_a_large_study_is_small_quick_and_not_all_in_the_document(open_page, large_page):
    assert large_page.stat().st_size <= MOST_BYTES
    began = time.monotonic()
    opened = open_page(large_page)
    page = opened.page
    painted = page.evaluate(
        """() => new Promise((done) => {
          const seen = () => performance.getEntriesByName("first-contentful-paint")[0];
          if (seen()) return done(seen().startTime / 1000);
          const watch = new PerformanceObserver(() => seen() && done(seen().startTime / 1000));
          watch.observe({ type: "paint", buffered: true });
        })"""
    )
    assert painted <= MOST_PAINT_SECONDS, time.monotonic() - began
    assert opened.problems == []
    assert page.evaluate("document.querySelectorAll('*').length") <= MOST_ELEMENTS
    assert page.locator("#checkpoints tbody tr").count() == 25
    assert "of 4,000 rows" in count_words(page, "checkpoints")
    page.locator("#checkpoints-block").get_by_role("button", name="Later rows").click()
    assert "26 to 50 of 4,000 rows" in count_words(page, "checkpoints")
    page.locator("#checkpoints thead button").nth(3).click()
    page.locator("#checkpoints thead button").nth(3).click()
    assert column(page, "checkpoints", 3)[0] == "1,990"


def test_a_table_wider_than_the_window_says_that_it_scrolls(open_page, small_page):
    page = open_page(small_page, viewport={"width": 390, "height": 844}).page
    tables = page.query_selector_all(".scroll")
    # A part of the page is laid out once it is near the window.
    for table in tables:
        table.scroll_into_view_if_needed()
        wide = table.evaluate("one => one.scrollWidth > one.clientWidth + 1")
        page.wait_for_function("([one, wide]) => one.nextElementSibling.hidden !== wide", arg=[table, wide])
    assert len(tables) == page.locator(".scroll + .hint").count()
    assert page.locator(".scroll + .hint:not([hidden])").count() > 0
