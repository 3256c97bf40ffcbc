"""A table as data, one source for the page, for CSV and for LaTeX, and the small drawings that stand in its cells."""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from markupsafe import Markup
from rich.table import Table
from rich.text import Text

from seqpair.compare.values import Interval

MOST_ROWS_IN_PAGE_SOURCE = 60
"""A longer table has its first rows in the page, and all of them as data for the script."""
MOST_LINK_BYTES = 60_000
"""A table whose CSV is longer is a file beside the page; a shorter one is inside the link itself."""
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_CELLS = 7
_STEP, _SIDE = 10, 8
_WIDTH, _HEIGHT = 120, 18


@dataclass(frozen=True)
class Cell:
    """One place of a table.

    Attributes:
        text: What is shown; empty for nothing.
        value: What is sorted and exported: a number, or None to take the text.
        low, high: The ends of the value's interval, where it has one.
        notes: Smaller lines below.
        tag: A word in a frame, such as `at chance`.
        mark: A drawing beside it.
        link: The id of the task whose items it leads to, or empty.
    """

    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    notes: tuple[str, ...] = ()
    tag: str = ""
    mark: Markup = field(default_factory=Markup)
    link: str = ""

    @property
    def sort_key(self) -> float | str:
        """Return what a column is sorted by."""
        return self.text if self.value is None else self.value

    @property
    def all_notes(self) -> tuple[str, ...]:
        """Return the interval in words, then the notes."""
        span = () if self.low is None or self.high is None else (f"{_short(self.low)} to {_short(self.high)}",)
        return (*span, *self.notes)


@dataclass(frozen=True)
class Column:
    """One column: its heading, whether it holds numbers, and a class for the colour of its heading."""

    label: str
    is_number: bool = False
    style: str = ""


@dataclass(frozen=True)
class DataTable:
    """A table with a name.

    Attributes:
        id: Its name in the page and of its files: letters, digits and dashes.
        caption: What it holds, in a sentence.
        columns: Its columns; the first holds the rows' headings.
        rows: Its rows, as long as `columns` each.
        filters: Whether a reader may want to filter and sort it; short tables of facts need no such tools.
    """

    id: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    filters: bool = True

    def column(self, label: str) -> list[Cell]:
        """Return the cells of a column."""
        place = [column.label for column in self.columns].index(label)
        return [row[place] for row in self.rows]

    def narrowed(self, labels: Sequence[str], most_rows: int | None = None) -> DataTable:
        """Return some of its columns, by their headings, and its first rows; the caption says how many are left out."""
        places = [index for label in labels for index, column in enumerate(self.columns) if column.label == label]
        rows = [[row[place] for place in places] for row in self.rows[:most_rows]]
        left = len(self.rows) - len(rows)
        caption = f"{self.caption} {left:,} more rows are on the page." if left else self.caption
        return replace(self, caption=caption, columns=[self.columns[place] for place in places], rows=rows)

    @property
    def is_long(self) -> bool:
        """Return whether only its first rows are in the page as elements."""
        return len(self.rows) > MOST_ROWS_IN_PAGE_SOURCE

    @property
    def first_rows(self) -> Sequence[Sequence[Cell]]:
        """Return the rows that are in the page as elements."""
        return self.rows[:MOST_ROWS_IN_PAGE_SOURCE]

    def all_rows_json(self) -> Markup:
        """Return all rows for the script: a cell is its text, or text, value, notes, tag, link."""
        return script_json([[_short_form(cell) for cell in row] for row in self.rows])

    def csv(self) -> str:
        """Return it as CSV; a value with an interval takes three columns, numbers have all their digits."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        spans = [any(row[index].low is not None for row in self.rows) for index in range(len(self.columns))]
        heading: list[str] = []
        for column, has_span in zip(self.columns, spans, strict=True):
            heading += [column.label, f"{column.label} low", f"{column.label} high"] if has_span else [column.label]
        writer.writerow(heading)
        for row in self.rows:
            line: list[object] = []
            for cell, has_span in zip(row, spans, strict=True):
                line.append(formula_safe(cell.text) if cell.value is None else cell.value)
                if has_span:
                    line += ["" if end is None else end for end in (cell.low, cell.high)]
            writer.writerow(line)
        return out.getvalue()

    def latex(self) -> str:
        """Return it as a LaTeX table for the package `booktabs`."""
        form = "".join("r" if column.is_number else "l" for column in self.columns)
        heading = " & ".join(latex_text(column.label) for column in self.columns)
        lines = [" & ".join(_latex_cell(cell) for cell in row) + r" \\" for row in self.rows]
        return "\n".join(
            [
                r"\begin{table}", r"\centering", rf"\caption{{{latex_text(self.caption)}}}",
                rf"\label{{tab:{self.id}}}", rf"\begin{{tabular}}{{{form}}}", r"\toprule", heading + r" \\",
                r"\midrule", *lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
            ]
        )  # fmt: skip

    def links(self) -> list[tuple[str, str, str]]:
        """Return (kind, file name, address) of its exports: the content itself, or a file beside the page."""
        found = []
        for kind, suffix, media, text in (
            ("CSV", "csv", "text/csv", self.csv()),
            ("LaTeX", "tex", "application/x-tex", self.latex()),
        ):
            name = f"{self.id}.{suffix}"
            raw = text.encode("utf-8", "replace")
            inside = f"data:{media};charset=utf-8;base64,{base64.b64encode(raw).decode('ascii')}"
            found.append((kind, name, inside if len(raw) <= MOST_LINK_BYTES else f"tables/{name}"))
        return found


def _short_form(cell: Cell) -> object:
    parts = [cell.text, cell.value, list(cell.all_notes), cell.tag, cell.link]
    while len(parts) > 1 and parts[-1] in (None, [], ""):
        parts.pop()
    return parts[0] if len(parts) == 1 else parts


def script_json(value: object) -> Markup:
    """Return JSON that may stand inside a script element: nothing in it can end that element."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def latex_text(text: str) -> str:
    """Return a text with LaTeX's own characters escaped, on one line."""
    clean = " ".join(_CONTROL.sub("", text).split())
    return "".join(_LATEX.get(character, character) for character in clean)


def formula_safe(text: str) -> str:
    """Return a text that a spreadsheet takes as text, not as a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") and len(text) > 1 else text


def number_cell(value: float | None, digits: int = 3, notes: tuple[str, ...] = ()) -> Cell:
    """Return a number with so many decimals; an empty cell for None or what is not finite."""
    if value is None or not math.isfinite(value):
        return Cell("", notes=notes)
    return Cell(f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}"), value, notes=notes)


def estimate_cell(
    value: float, low: float, high: float, *, is_signed: bool = False, tag: str = "", mark: str = ""
) -> Cell:
    """Return a value with the ends of its interval."""
    text = f"{value:+.3f}" if is_signed else f"{value:.3f}"
    return Cell(text.replace("-", "\N{MINUS SIGN}"), value, low, high, tag=tag, mark=Markup(mark))


def _short(value: float) -> str:
    return f"{value:.3f}".replace("-", "\N{MINUS SIGN}")


def _latex_cell(cell: Cell) -> str:
    text = latex_text(cell.text).replace("\N{MINUS SIGN}", "$-$")
    if cell.low is None or cell.high is None:
        return text
    ends = f"{_short(cell.low)}, {_short(cell.high)}".replace("\N{MINUS SIGN}", "$-$")
    return rf"{text} {{\small[{ends}]}}"


def attention_mark(direction: str) -> str:
    """Return the attention matrix of a direction: row i is a token, filled cells are what it sees."""
    causal = direction == "causal"
    cells = []
    for row in range(_CELLS):
        for column in range(_CELLS):
            seen = column <= row or not causal
            style = "seen" if seen else "unseen"
            cells.append(
                f'<rect class="{style}" x="{column * _STEP + 1}" y="{row * _STEP + 1}" width="{_SIDE}" '
                f'height="{_SIDE}" rx="1.5"/>'
            )
    label = "each token sees itself and the tokens before it" if causal else "each token sees every token"
    side = _CELLS * _STEP
    return f'<svg class="mark" viewBox="0 0 {side} {side}" role="img" aria-label="{label}">{"".join(cells)}</svg>'


def interval_mark(interval: Interval, span: float) -> str:
    """Return an interval as a whisker with a dot, on a scale from -span to span with a line at zero."""

    def place(value: float) -> float:
        inside = max(-span, min(span, value))
        return _WIDTH / 2 + inside / span * (_WIDTH / 2 - 4)

    low, high, middle, half = place(interval.low), place(interval.high), place(interval.value), _HEIGHT / 2
    return (
        f'<svg class="whisker" viewBox="0 0 {_WIDTH} {_HEIGHT}" aria-hidden="true">'
        f'<line class="zero" x1="{_WIDTH / 2}" x2="{_WIDTH / 2}" y1="0" y2="{_HEIGHT}"/>'
        f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" y1="{half}" y2="{half}"/>'
        f'<circle cx="{middle:.1f}" cy="{half}" r="3.4"/></svg>'
    )


def terminal_table(table: DataTable, title: str = "") -> Table:
    """Return a table for a terminal: below a cell's text its interval, or else its first note, and its tag.

    Args:
        table: The table.
        title: What stands above it; by default the first sentence of its caption.
    """
    shown = Table(title=Text(title or table.caption.partition(". ")[0]), title_justify="left")
    for column in table.columns:
        shown.add_column(Text(column.label), justify="right" if column.is_number else "left", overflow="fold")
    for row in table.rows:
        shown.add_row(*map(_terminal_cell, row))
    return shown


def _terminal_cell(cell: Cell) -> Text:
    below = [(text, "dim") for text in (*cell.all_notes[:1], cell.tag) if text]
    lines = [Text(text.replace("\N{MINUS SIGN}", "-"), style) for text, style in [(cell.text, ""), *below] if text]
    return Text("\n").join(lines)
