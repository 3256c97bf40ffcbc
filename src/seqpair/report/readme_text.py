"""A report as Markdown, for a README or a pull request: verdicts, values, and pictures beside it."""

from __future__ import annotations

import re

from seqpair import __version__
from seqpair.report.data_table import Cell, DataTable
from seqpair.report.view import StudyView

_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&$])")
_TABLES = ("values", "differences", "cost", "published")
_MOST_ROWS = 40
_LONGEST = 200


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
