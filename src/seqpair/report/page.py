"""A study's report as files: a page that opens with no network, and beside it tables, figures, items and a README text.

Below `<study>/report/`: `index.html`, `report.md`, `tables/*.csv` and `*.tex`, `figures/*.svg` and `*.png`,
`items/<task>.csv`. Files of an earlier report that this one does not have are removed from those three folders. The
templates in `templates/` escape everything that comes from files.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from seqpair import __version__
from seqpair.compare.planned import AskedBefore
from seqpair.files import write_bytes, write_json
from seqpair.paths import REPORT_FOLDER
from seqpair.recipe.load import preset_names
from seqpair.report.collect import Study
from seqpair.report.data_table import Cell, DataTable, attention_mark
from seqpair.report.figures import Drawing
from seqpair.report.items import FITS, MOST_ITEMS, Fit, TaskItems, items_csv, page_payload
from seqpair.report.plans import member_facts, order_words, shared_facts
from seqpair.report.study_tables import member_colours
from seqpair.report.view import StudyView, view_of
from seqpair.text import format_count

_TEMPLATES = Path(__file__).parent / "templates"
PAGE_NAME, README_NAME = "index.html", "report.md"
_FOLDERS = ("tables", "figures", "items")
_WRITTEN = ".written.json"
_MASK = "[MASK]"
_LONGEST_SHORT = 60
MOST_BYTES = 5_000_000
"""No page is larger: items are left out first, and the page says how many of them it holds."""
_SPARE_BYTES = 20_000
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&$])")
_TABLES = ("values", "differences", "cost", "published")
_MOST_ROWS = 40
_LONGEST = 200
_PARTS = (
    ("comparison", "Which member is ahead"),
    ("published-values", "Published values"),
    ("shares", "Bias"),
    ("items", "Item by item"),
    ("curves", "Training"),
    ("scaling", "Scaling"),
    ("quality", "Quality by cost"),
    ("samples", "Samples"),
    ("pair", "What differs"),
    ("data", "Data"),
    ("trained", "Cost and environment"),
    ("again", "Reproduce"),
)


@dataclass(frozen=True)
class _Drawn:
    """A figure as it stands in the page."""

    id: str
    caption: str
    colour: int
    svg: Markup


def write_report(
    study: Study,
    *,
    published: bool = False,
    asked: AskedBefore | None = None,
    out: Path | None = None,
    last: int = 1,
) -> Path:
    """Write a study's report and return the page's path.

    Args:
        study: The study.
        published: Whether published values of other models stand beside its own.
        asked: Questions that were written down beforehand; their answers come first.
        out: The folder; by default `report` inside the study's.
        last: Over how many of their last evaluated checkpoints members are averaged before they are compared.

    Raises:
        DiskFullError: The disk is full; a file is whole, or as it was before.
    """
    folder = out or study.folder / REPORT_FOLDER
    view = view_of(study, published=published, asked=asked, last=last)
    written = set()
    for name, make in report_files(view):
        write_bytes(folder / name, make())
        written.add(folder / name)
    _remove_earlier(folder, written)
    return folder / PAGE_NAME


def _remove_earlier(folder: Path, written: set[Path]) -> None:
    """Remove what an earlier report wrote and this one did not; a file that no report wrote is its owner's."""
    listed = folder / _WRITTEN
    try:
        earlier = [str(name) for name in json.loads(listed.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        earlier = []
    names = sorted(path.relative_to(folder).as_posix() for path in written)
    for name in set(earlier) - set(names):
        if Path(name).parent.as_posix() in _FOLDERS:
            (folder / name).unlink(missing_ok=True)
    write_json(listed, names)


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


def render_page(study: Study, *, published: bool = False) -> str:
    """Return the page of a study as HTML, at most `MOST_BYTES` long where leaving out items can make it so.

    Args:
        study: The study.
        published: Whether published values of other models stand beside its own.
    """
    return render_view(view_of(study, published=published))


def render_view(view: StudyView) -> str:
    """Return the page of a view."""
    values = _values(view)
    template = environment().get_template("page.html.jinja")
    bare = template.render(**values, items=_items(view.items, None), most_items=MOST_ITEMS)
    room = MOST_BYTES - len(bare.encode("utf-8", "replace")) - _SPARE_BYTES
    for fit in FITS:
        items = _items(view.items, fit)
        if sum(len(task["payload"]) for task in items) <= room:
            return template.render(**values, items=items, most_items=fit.items)
    return bare


def _values(view: StudyView) -> dict[str, Any]:
    study = view.study
    there = {
        "published-values": view.published is not None,
        "shares": bool(view.share_drawings),
        "items": bool(view.items),
        "scaling": view.table("scaling-laws") is not None,
        "quality": view.table("quality-by-cost") is not None or bool(view.cost_drawings),
    }
    return {
        "study": study,
        "style": page_style(),
        "script": Markup((_TEMPLATES / "page.js").read_text(encoding="utf-8")),
        "parts": [(name, words) for name, words in _PARTS if there.get(name, True)],
        "headline": view.headline,
        "verdicts": view.verdicts,
        "values": view.table("values"),
        "differences_found": view.table("differences"),
        "part_table": view.table("parts"),
        "plan_table": view.table("plan-differences"),
        "checkpoints": view.table("checkpoints"),
        "cost": view.table("cost"),
        "drift": view.table("drift"),
        "environment": view.table("environment"),
        "seconds": view.table("seconds"),
        "sources": view.table("sources"),
        "readings": view.table("readings"),
        "laws": view.table("scaling-laws"),
        "quality": view.table("quality-by-cost"),
        "overtakings": view.table("overtakings"),
        "overtaking_words": view.overtaking_words,
        "disagreements": view.table("disagreements"),
        "law_figures": [drawn(drawing) for drawing in view.law_drawings],
        "cost_figures": [drawn(drawing) for drawing in view.cost_drawings],
        "published": view.published,
        "tree": view.tree,
        "value_figures": [drawn(drawing) for drawing in view.value_drawings],
        "share_figures": [drawn(drawing) for drawing in view.share_drawings],
        "shared_figures": [drawn(drawing) for drawing in view.shared_drawings],
        "figures": {name: [drawn(drawing) for drawing in drawings] for name, drawings in view.own_drawings.items()},
        "shared": shared_facts(study.members),
        "order": order_words(study),
        "facts": {member.name: member_facts(member) for member in study.members},
        "colours": member_colours(study.members),
        "marks": {member.name: Markup(attention_mark(member.direction)) for member in study.members},
        "commands": _commands(study),
        "version": __version__,
    }


def drawn(drawing: Drawing) -> _Drawn:
    """Return a figure as the templates draw it."""
    return _Drawn(drawing.id, drawing.caption, drawing.colour, Markup(drawing.svg))


def _items(tasks: Sequence[TaskItems], fit: Fit | None) -> list[dict[str, Any]]:
    """Return what the page holds of the items; without a fit their number alone."""
    return [
        {
            "key": task.key,
            "file": task.file,
            "title": task.title,
            "suite": task.suite,
            "count": len(task.items),
            "disagreements": task.disagreements,
            "payload": page_payload(task, fit) if fit is not None else "",
        }
        for task in tasks
    ]


def environment() -> jinja2.Environment:
    """Return the templates' environment: everything is escaped, an unknown name is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(masked=_masked, token=_token, shortened=_shortened, count=format_count)
    return made


def page_style() -> Markup:
    """Return the pages' style sheet."""
    return Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8"))


def _commands(study: Study) -> list[str]:
    """Return the commands that make this study again, and look into it."""
    name = study.name
    if any(member.study for member in study.members):
        return [f"seqpair run RECIPE-OF-{part}" for part in dict.fromkeys(m.study for m in study.members if m.study)]
    own = [member.name for member in study.members if member.second_of is None and not member.is_outside]
    if not own:
        return [f"seqpair eval {study.members[0].name}", f"seqpair report {name}"]
    first, *others = own
    commands = [f"seqpair run {name}" if name in preset_names() else "seqpair run RECIPE"]
    recipe = commands[0].removeprefix("seqpair run ")
    commands += [f"seqpair diff {recipe} {first} {other}" for other in others]
    return [*commands, f"seqpair order {recipe} --step 0", f"seqpair report {recipe}"]


def _masked(text: str) -> Markup:
    """Escape a text and mark its `[MASK]`."""
    return Markup(html.escape(text).replace(_MASK, f"<mark>{_MASK}</mark>"))


def _token(text: str) -> str:
    """Return a token with its white space made visible."""
    return (
        text.replace("\n", "\N{RETURN SYMBOL}")
        .replace("\t", "\N{SYMBOL FOR HORIZONTAL TABULATION}")
        .replace(" ", "\N{OPEN BOX}")
    )


def _shortened(text: str) -> str:
    """Return a name short enough for a heading or a list."""
    return text if len(text) <= _LONGEST_SHORT else f"{text[: _LONGEST_SHORT - 3]}..."


def readme_text(view: StudyView) -> str:
    """Return a study's report as Markdown with links to the pictures in `figures/`."""
    lines = [f"# {markdown_text(view.study.name)}", ""]
    for sentence in view.headline:
        lines += [markdown_text(sentence, longest=2000), ""]
    for question, sentences in view.verdicts:
        lines += [f"## {markdown_text(question)}", ""]
        lines += [f"- {markdown_text(sentence, longest=1000)}" for sentence in sentences] + [""]
    for table in [*view.tables, *([view.published] if view.published else [])]:
        if table.id in _TABLES:
            lines += _table(table)
    for drawing in view.pictures:
        lines += [f"![{markdown_text(drawing.title)}](figures/{drawing.id}.png)", ""]
    lines.append(
        f"Made by seqpair {__version__}; `index.html` beside this file has the items, all figures and the plans."
    )
    return "\n".join(lines) + "\n"


def markdown_text(text: str, longest: int = _LONGEST) -> str:
    """Return a text in which nothing is taken for markup, on one line, cut where it is too long."""
    plain = " ".join(text.split())
    plain = plain if len(plain) <= longest else f"{plain[: longest - 3]}..."
    return _MARKUP.sub(r"\\\1", plain)


def _table(table: DataTable) -> list[str]:
    form = ["---:" if column.is_number else "---" for column in table.columns]
    lines = [markdown_text(table.caption, longest=1000), ""]
    lines += ["| " + " | ".join(markdown_text(column.label) or " " for column in table.columns) + " |"]
    lines += ["| " + " | ".join(form) + " |"]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in table.rows[:_MOST_ROWS]]
    left = len(table.rows) - _MOST_ROWS
    return [*lines, *(["", f"{left:,} more rows are in `tables/{table.id}.csv`."] if left > 0 else []), ""]


def _cell(cell: Cell) -> str:
    text = markdown_text(cell.text) or " "
    if cell.low is not None and cell.high is not None:
        text += f" ({markdown_text(cell.all_notes[0])})"
    return f"{text}, {markdown_text(cell.tag)}" if cell.tag else text
