"""The items behind each task and where members disagree on them, with what was kept of every item.

An item on which members differ most comes first. The page holds at most 200 items a task; all of them, with their
whole texts, are in a CSV file beside it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from markupsafe import Markup

from seqpair.compare.pairing import Disagreement, disagreements, pair_sides
from seqpair.compare.values import EQUAL_SIZE, NATIVE_OR_CROSSED, Comparison, Scores, Side
from seqpair.report.data_table import Cell, Column, DataTable, formula_safe, number_cell, script_json
from seqpair.report.member import MemberOutcome, MemberRun

MOST_ITEMS = 200
MOST_DISAGREEMENTS = 6
_MOST_ROWS = 300
_LONGEST_TEXT, _LONGEST_NAME = 240, 80
_QUESTIONS = (EQUAL_SIZE, NATIVE_OR_CROSSED)


@dataclass(frozen=True)
class Fit:
    """How much of the items goes into the page: items a task, characters of a text, and each member's own details."""

    items: int
    characters: int
    own_details: bool


FITS = (
    Fit(MOST_ITEMS, 2000, True),
    Fit(MOST_ITEMS, 600, True),
    Fit(MOST_ITEMS, 300, False),
    Fit(100, 200, False),
    Fit(50, 120, False),
    Fit(20, 80, False),
    Fit(5, 80, False),
)
"""Tried in this order until the page is small enough."""


@dataclass(frozen=True)
class Item:
    """One item.

    Attributes:
        id: Its name.
        values: Each member's outcome, None where the member has none.
        weight: How much it counts for the first member that has it.
        shared: Details that all members have alike: the question, the answer.
        own: Each member's other details: the scores, the prediction.
        spread: How far the members' outcomes are apart: their standard deviation.
    """

    id: str
    values: tuple[float | None, ...]
    weight: float
    shared: Mapping[str, Any]
    own: tuple[Mapping[str, Any], ...]
    spread: float


@dataclass(frozen=True)
class TaskItems:
    """A task's items, those on which members differ first.

    Attributes:
        key: The task's name among the outcomes.
        file: The name of its files: letters, digits, dashes and underlines.
        title, suite, metric: What was measured.
        higher_is_better: The direction.
        members: The members that did it.
        items: All items.
    """

    key: str
    file: str
    title: str
    suite: str
    metric: str
    higher_is_better: bool
    members: tuple[str, ...]
    items: Sequence[Item] = field(default_factory=tuple)

    @property
    def disagreements(self) -> int:
        """Return on how many items the members do not all have the same outcome."""
        return sum(item.spread > 0 for item in self.items)


def task_items(members: Sequence[MemberRun]) -> list[TaskItems]:
    """Return every task's items, first the tasks that most members do.

    Results of another version of a task than the first member's are left out.
    """
    keys = sorted({key for member in members for key, own in member.outcomes.items() if not own.is_derived})
    tasks = [_task(key, members) for key in keys]
    return sorted(tasks, key=lambda task: -len(task.members))


def _task(key: str, members: Sequence[MemberRun]) -> TaskItems:
    found = [(member.name, member.outcomes[key]) for member in members if key in member.outcomes]
    first = found[0][1].result
    doers = [(name, outcome) for name, outcome in found if outcome.result.version == first.version]
    places = [{item: index for index, item in enumerate(outcome.ids)} for _, outcome in doers]
    ids = sorted({item for outcome in places for item in outcome})
    items = [_item(item, [outcome for _, outcome in doers], places) for item in ids]
    items.sort(key=lambda item: (-item.spread, item.id))
    return TaskItems(
        key=key,
        file=key.replace("@", "--"),
        title=found[0][1].title,
        suite=first.suite,
        metric=first.metric,
        higher_is_better=first.higher_is_better,
        members=tuple(name for name, _ in doers),
        items=items,
    )


def _item(name: str, outcomes: Sequence[MemberOutcome], places: Sequence[Mapping[str, int]]) -> Item:
    at = [place.get(name) for place in places]
    values = tuple(
        None if index is None else float(outcome.values[index]) for outcome, index in zip(outcomes, at, strict=True)
    )
    details: list[Mapping[str, Any]] = [
        outcome.details[index] if index is not None and outcome.details else {}
        for outcome, index in zip(outcomes, at, strict=True)
    ]
    here = [detail for detail, index in zip(details, at, strict=True) if index is not None]
    shared = {
        key: value for key, value in here[0].items() if all(key in other and other[key] == value for other in here[1:])
    }
    own = tuple({key: value for key, value in detail.items() if key not in shared} for detail in details)
    known = [value for value in values if value is not None]
    weight = next(
        float(outcome.weights[index]) for outcome, index in zip(outcomes, at, strict=True) if index is not None
    )
    return Item(name, values, weight, shared, own, float(np.std(known)))


def page_payload(task: TaskItems, fit: Fit) -> Markup:
    """Return a task's items for the page's script."""
    rows = []
    for item in task.items[: fit.items]:
        own = [_cut(detail, fit.characters) for detail in item.own] if fit.own_details and any(item.own) else []
        values = [None if value is None else float(f"{value:.5g}") for value in item.values]
        rows.append([_cut_text(item.id, fit.characters), values, _cut(item.shared, fit.characters), own])
    return script_json({"title": task.title, "metric": task.metric, "members": task.members, "items": rows})


def items_csv(task: TaskItems) -> str:
    """Return all of a task's items as CSV: what members share of an item once, then each member's own as JSON."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    shared = list(dict.fromkeys(key for item in task.items for key in item.shared))
    writer.writerow(["id", "weight", *task.members, *shared, *(f"{member}: details" for member in task.members)])
    for item in task.items:
        writer.writerow(
            [
                formula_safe(item.id),
                item.weight,
                *("" if value is None else value for value in item.values),
                *(formula_safe(_text(item.shared[key])) if key in item.shared else "" for key in shared),
                *(json.dumps(dict(own), ensure_ascii=False) if own else "" for own in item.own),
            ]
        )
    return out.getvalue()


def _cut(detail: Mapping[str, Any], characters: int) -> dict[str, str]:
    return {_cut_text(key, characters): _cut_text(_text(value), characters) for key, value in detail.items()}


def _text(value: Any) -> str:
    """Return a detail as text: texts as they are, numbers short, the rest as JSON."""
    if isinstance(value, str):
        return value
    return f"{value:.5g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def _cut_text(text: str, characters: int) -> str:
    """Return a text, cut with a word on what was left out."""
    return text if len(text) <= characters else f"{text[:characters]}... [{len(text) - characters:,} more in the CSV]"


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
    most = max(1, min(MOST_DISAGREEMENTS, _MOST_ROWS // len(compared)))
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
        Column("Details of the item"), Column("Details of the first"), Column("Details of the second"),
    ]  # fmt: skip
    caption = (
        f"Items on which two members disagree most: at most {most} per task and pair, in turn one that favours the "
        "first member and one that favours the second. Values are means over the seeds; the details are those of the "
        f"lowest seed, cut after {_LONGEST_TEXT} characters. The CSV of the task has all items with their whole texts."
    )
    return DataTable("disagreements", caption, columns, rows) if rows else None


def _of(by_model: Mapping[tuple[str, str, str], list[Scores]], side: Side, answer: Comparison) -> list[Scores]:
    return by_model[side.size, side.member, answer.tasks[0].name]


def _row(answer: Comparison, item: Disagreement) -> list[Cell]:
    first, second = item.detail.get("first", {}), item.detail.get("second", {})
    shared = {key: value for key, value in first.items() if key in second and second[key] == value}
    task = answer.tasks[0]
    return [
        Cell(_cut_short(task.title or task.name, _LONGEST_NAME), link=task.name),
        Cell(_cut_short(item.id, _LONGEST_NAME)),
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
    return _cut_short("; ".join(f"{key}: {_plain(value)}" for key, value in parts), _LONGEST_TEXT)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut_short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
