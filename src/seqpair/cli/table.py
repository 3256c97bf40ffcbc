"""Tables on standard output: plain columns in which nothing is cut off, so that the lines can be searched."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from seqpair.text import printable

if TYPE_CHECKING:
    from rich.console import Console

WIDTH_WITHOUT_TERMINAL = 140
_LEAST_FOLDED_WIDTH = 20


def print_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    right: Collection[int] = (),
    fold: Collection[int] = (),
    title: str = "",
    indent: int = 2,
) -> None:
    """Print a table.

    Args:
        headings: The columns' names; there is no heading line if all of them are empty.
        rows: The cells; whole numbers get separators, and a cell may have several lines.
        right: Columns that are aligned to the right, in addition to those of whole numbers.
        fold: Columns whose long cells continue on further lines where the table is wider than the terminal.
        title: A line above the table.
        indent: Spaces before each line.
    """
    if title:
        print(title)
    cells = [[f"{cell:,}" if isinstance(cell, int) else printable(str(cell)) for cell in row] for row in rows]
    cells = [list(headings), *cells] if any(headings) else cells
    at_right = {column for column in range(len(headings)) if rows and isinstance(rows[0][column], int)} | set(right)
    widths = _widths(cells, len(headings), set(fold), indent)
    for row in cells:
        parts = [
            _lines(cell, width, column in fold) for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        for number in range(max(map(len, parts))):
            texts = [part[number] if number < len(part) else "" for part in parts]
            padded = (
                text.rjust(width) if column in at_right else text.ljust(width)
                for column, (text, width) in enumerate(zip(texts, widths, strict=True))
            )
            print((" " * indent + "  ".join(padded)).rstrip())


def _widths(cells: list[list[str]], columns: int, fold: set[int], indent: int) -> list[int]:
    """Return the columns' widths; those that fold share what the others leave of the terminal."""
    widths = [
        max((len(line) for row in cells for line in row[column].split("\n")), default=0) for column in range(columns)
    ]
    room = (
        terminal_width()
        - indent
        - 2 * (columns - 1)
        - sum(widths[column] for column in range(columns) if column not in fold)
    )
    waiting = sorted(fold, key=lambda column: widths[column])
    while waiting:
        # The narrowest column first: what it does not need goes to the others.
        column = waiting.pop(0)
        share = max(_LEAST_FOLDED_WIDTH, room // (len(waiting) + 1))
        widths[column] = min(widths[column], share)
        room -= widths[column]
    return widths


def _lines(cell: str, width: int, folds: bool) -> list[str]:
    if not folds:
        return cell.split("\n")
    wrapped = (textwrap.wrap(line, max(1, width), break_on_hyphens=False) or [""] for line in cell.split("\n"))
    return [line for lines in wrapped for line in lines]


def terminal_width() -> int:
    """Return the columns of the terminal; where nobody watches (a pipe, a file) a width that most lines fit in."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH_WITHOUT_TERMINAL


def wide_console() -> Console:
    """Return rich's console for its own tables, as wide as `print_table`'s."""
    from rich.console import Console

    return Console(highlight=False, markup=False, width=terminal_width())


def counted(count: int, what: str) -> str:
    """Return a number with its word: 1 document, 1,200 documents."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")
