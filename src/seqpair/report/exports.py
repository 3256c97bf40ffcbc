"""A report as files: the page, and beside it tables, figures, items and a text for a README.

Below `<study>/report/`: `index.html`, `report.md`, `tables/*.csv` and `*.tex`, `figures/*.svg` and `*.png`,
`items/<task>.csv`. Files of an earlier report that this one does not have are removed from those three folders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from seqpair.files import write_bytes
from seqpair.paths import REPORT_FOLDER
from seqpair.report.asked_before import AskedBefore
from seqpair.report.collect import Study
from seqpair.report.items_view import items_csv
from seqpair.report.page import render_view
from seqpair.report.readme_text import readme_text
from seqpair.report.view import StudyView, view_of

PAGE_NAME, README_NAME = "index.html", "report.md"
_FOLDERS = ("tables", "figures", "items")


def write_report(
    study: Study, *, published: bool = False, asked: AskedBefore | None = None, out: Path | None = None
) -> Path:
    """Write a study's report and return the page's path.

    Args:
        study: The study.
        published: Whether published values of other models stand beside its own.
        asked: Questions that were written down beforehand; their answers come first.
        out: The folder; by default `report` inside the study's.

    Raises:
        DiskFullError: The disk is full; a file is whole, or as it was before.
    """
    folder = out or study.folder / REPORT_FOLDER
    view = view_of(study, published=published, asked=asked)
    written = set()
    for name, make in report_files(view):
        write_bytes(folder / name, make())
        written.add(folder / name)
    for inside in _FOLDERS:
        for path in (folder / inside).glob("*.*"):
            if path not in written and path.suffix in (".csv", ".tex", ".svg", ".png"):
                path.unlink()
    return folder / PAGE_NAME


def report_files(view: StudyView) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Yield each file's name and what makes it; the page last, so that what it links to is there."""
    for table in [*view.tables, *([view.published] if view.published else [])]:
        yield f"tables/{table.id}.csv", _making(table.csv)
        yield f"tables/{table.id}.tex", _making(table.latex)
    for drawing in view.drawings:
        yield f"figures/{drawing.id}.svg", _making(drawing.as_svg_file)
    for drawing in view.pictures:
        yield f"figures/{drawing.id}.png", drawing.as_png
    for task in view.items:
        yield f"items/{task.file}.csv", _making(partial(items_csv, task))
    yield README_NAME, _making(partial(readme_text, view))
    yield PAGE_NAME, _making(partial(render_view, view))


def _making(make: Callable[[], str]) -> Callable[[], bytes]:
    return lambda: _bytes(make())


def _bytes(text: str) -> bytes:
    """Return UTF-8; what is no character, half of a surrogate pair, becomes a question mark."""
    return text.encode("utf-8", "replace")
