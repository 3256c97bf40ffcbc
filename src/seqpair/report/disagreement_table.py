"""Where two sides of a question disagree, item by item, over their seeds, with the texts that were kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from seqpair.compare.disagreements import disagreements
from seqpair.compare.findings import EQUAL_SIZE, NATIVE_OR_CROSSED, Comparison, Disagreement, Side
from seqpair.compare.pairing import pair_sides
from seqpair.compare.values import Scores
from seqpair.report.data_table import Cell, Column, DataTable, number_cell

MOST_ITEMS = 6
_MOST_ROWS = 300
_LONGEST_TEXT, _LONGEST_NAME = 240, 80
_QUESTIONS = (EQUAL_SIZE, NATIVE_OR_CROSSED)


def disagreements_table(answers: Sequence[Comparison], scores: Sequence[Scores]) -> DataTable | None:
    """Return the items on which the sides of the named questions differ most, both sides in turn; None without any.

    Args:
        answers: The answers, which say who was compared on what.
        scores: The scores they were reached from.
    """
    compared = [
        one for one in answers if one.question in _QUESTIONS and not one.is_average and one.difference is not None
    ][:_MOST_ROWS]
    if not compared:
        return None
    most = max(1, min(MOST_ITEMS, _MOST_ROWS // len(compared)))
    by_model: dict[tuple[str, str, str], list[Scores]] = {}
    for one in scores:
        if not one.model.checkpoint:
            by_model.setdefault((one.model.size, one.model.member, one.task.name), []).append(one)
    rows = []
    for answer in compared:
        first, second = (_of(by_model, side, answer) for side in (answer.first, answer.second))
        found = disagreements(pair_sides(first, second), first, second, most=most)
        rows += [_row(answer, item) for item in found]
    columns = [
        Column("Task"), Column("Item"), Column("First"), Column("Second"), Column("First's value", True),
        Column("Second's value", True), Column("Seeds for first", True), Column("Seeds for second", True),
        Column("Kept of the item"), Column("Kept of the first"), Column("Kept of the second"),
    ]  # fmt: skip
    caption = (
        f"Where two members disagree: at most {most} items a task and pair, those first on which they differ most, "
        "items for the first and for the second in turn. Values are means over the seeds; what was kept is of the "
        f"lowest seed, cut after {_LONGEST_TEXT} characters. The CSV of the task has all items with whole texts."
    )
    return DataTable("disagreements", caption, columns, rows) if rows else None


def _of(by_model: Mapping[tuple[str, str, str], list[Scores]], side: Side, answer: Comparison) -> list[Scores]:
    return by_model[side.size, side.member, answer.tasks[0].name]


def _row(answer: Comparison, item: Disagreement) -> list[Cell]:
    first, second = item.detail.get("first", {}), item.detail.get("second", {})
    shared = {key: value for key, value in first.items() if key in second and second[key] == value}
    task = answer.tasks[0]
    return [
        Cell(_cut(task.title or task.name, _LONGEST_NAME), link=task.name),
        Cell(_cut(item.id, _LONGEST_NAME)),
        Cell(answer.first.label),
        Cell(answer.second.label),
        number_cell(item.first),
        number_cell(item.second),
        Cell(str(item.seeds_for_first), item.seeds_for_first),
        Cell(str(item.seeds_for_second), item.seeds_for_second),
        Cell(_told(shared)),
        Cell(_told({key: value for key, value in first.items() if key not in shared})),
        Cell(_told({key: value for key, value in second.items() if key not in shared})),
    ]


def _told(detail: Mapping[str, Any]) -> str:
    """Return what was kept in one text, texts before numbers; empty if nothing was."""
    parts = sorted(detail.items(), key=lambda part: not isinstance(part[1], str))
    return _cut("; ".join(f"{key}: {_text(value)}" for key, value in parts), _LONGEST_TEXT)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
