"""The comparison table for a terminal, and the wording that terminal and page share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from seqpair.compare.findings import NEITHER_ABOVE_CHANCE, NO_BETTER_END, NOT_COMPARED, NOT_DECIDED
from seqpair.compare.values import Interval
from seqpair.report.tables import PairDifference, Row


def signed(value: float) -> str:
    """Return a difference with its sign, three decimals."""
    return f"{value:+.3f}"


def verdict_words(difference: PairDifference) -> str:
    """Return a verdict in words."""
    if difference.verdict == NOT_COMPARED:
        return f"{NOT_COMPARED}: {difference.reason}"
    if difference.verdict in (NOT_DECIDED, NEITHER_ABOVE_CHANCE, NO_BETTER_END):
        return difference.verdict
    return f"{difference.verdict} ahead{'' if difference.is_about_training else ' on these runs'}"


def comparison_table(rows: Sequence[Row], members: Sequence[str], study: str) -> Table:
    """Return the table: task, chance, each member with its interval, paired differences, verdicts."""
    table = Table(title=f"{escape(study)}: the members on the same items, 95 % intervals", title_justify="left")
    table.add_column("task")
    table.add_column("chance", justify="right")
    for member in members:
        table.add_column(escape(member), justify="right")
    for pair in rows[0].differences if rows else ():
        table.add_column(f"{escape(pair.first)} - {escape(pair.second)}", justify="right")
        table.add_column("verdict")
    for row in rows:
        cells = [
            f"{escape(row.title)}\n[dim]{escape(row.measured)}, {row.n} items[/dim]",
            "" if row.chance is None else f"{row.chance:.3f}",
        ]
        for member in members:
            cell = row.cells[member]
            text = "-" if cell is None else f"{cell.interval.value:.3f}\n[dim]{_ends(cell.interval)}[/dim]"
            cells.append(f"{text}\n[dim]at chance[/dim]" if cell is not None and cell.at_chance else text)
        for difference in row.differences:
            interval = difference.interval
            cells.append("-" if interval is None else f"{signed(interval.value)}\n[dim]{_ends(interval)}[/dim]")
            cells.append(escape(verdict_words(difference)))
        table.add_row(*cells)
    return table


def rows_as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows as JSON values."""
    return [asdict(row) for row in rows]


def _ends(interval: Interval) -> str:
    return rf"\[{interval.low:.3f}, {interval.high:.3f}]"
