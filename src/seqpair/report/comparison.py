"""What each member reached and who is ahead, if anyone is: the tables that the page, its files and a terminal show.

Differences and verdicts are the answers to the study's questions (`compare.questions`), and a terminal shows the page's
own tables, narrowed to its width: the two never disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from seqpair.compare.values import FEWEST_SEEDS, NOT_COMPARED, Comparison, metric_words
from seqpair.report.data_table import Cell, Column, DataTable, estimate_cell, interval_mark, number_cell
from seqpair.report.member import MemberOutcome, MemberRun, first_outcome, tasks_done
from seqpair.report.study_tables import member_colours, suite_name
from seqpair.report.words import ahead_words, answer_title, p_words

_TASK_WIDTH, _VALUE_WIDTH, _VERDICTS_WIDTH = 30, 18, 50
_MOST_ROWS = 40
"""A terminal shows so many rows of a table; the page has all."""


def values_table(members: Sequence[MemberRun]) -> DataTable | None:
    """Return what each member reached: a row per task, a column per member."""
    colours = member_colours(members)
    columns = [Column("Task"), *(Column(member.name, True, f"m{colours[member.name]}") for member in members)]
    columns += [Column("Chance", True), Column("Items", True), Column("Metric"), Column("Suite")]
    caption = "Each member through its exported model, with 95 % intervals over the choice of items."
    outside = [member.name for member in members if member.is_outside]
    if outside:
        caption += f" {', '.join(outside)}: from elsewhere, one run. More than the objective differs."
    rows = [_values_row(task, members) for task in tasks_done(members)]
    return DataTable("values", caption, columns, rows) if rows else None


def _values_row(task: str, members: Sequence[MemberRun]) -> list[Cell]:
    some = first_outcome(task, members)
    result = some.result
    said = [member.outcomes[task].result.note for member in members if task in member.outcomes]
    notes = (
        metric_words(result.metric, higher_is_better=result.higher_is_better, is_lean=result.is_lean),
        *(f"{name.replace('_', ' ')}: {value:.3f}" for name, value in result.baselines.items()),
        *dict.fromkeys(note for note in said if note),
    )
    return [
        Cell(some.title, notes=notes, link=task),
        *(_value_cell(member.outcomes.get(task), is_evaluated=bool(member.outcomes)) for member in members),
        number_cell(result.chance) if result.chance is not None else Cell("none"),
        Cell(f"{result.n:,}", result.n),
        Cell(result.metric.replace("_", " ")),
        Cell(suite_name(result.suite)),
    ]


def _value_cell(outcome: MemberOutcome | None, *, is_evaluated: bool) -> Cell:
    if outcome is None:
        return Cell("", notes=("not applicable" if is_evaluated else "not evaluated",))
    result = outcome.result
    return estimate_cell(result.value, *result.interval, tag="at chance" if outcome.at_chance else "")


def differences_table(answers: Sequence[Comparison]) -> DataTable | None:
    """Return the answers: a row for each question, task and pair of sides."""
    columns = [
        Column("Task"), Column("First"), Column("Second"), Column("Difference", True), Column("On these runs"),
        Column("About training"), Column("p", True), Column("Detectable from", True), Column("Items", True),
        Column("Seeds", True), Column("Question"), Column("Notes"),
    ]  # fmt: skip
    caption = (
        "Differences on the same items, first minus second, with 95 % intervals; p is corrected over a question's "
        "tasks (Holm). With fewer than three seeds an interval is conditional on these runs: it covers other items, "
        "not other training runs, and there is no verdict about training. 'Detectable from': the smallest true "
        "difference that these items and seeds detect with 80 % power. Metrics that are not means over items (a "
        "correlation, F1) are compared by jackknife pseudo-values. A mean gives no verdict if most of its tasks are at "
        "chance for both sides together. Near chance the log-probability of the right answer is a better measure than "
        "accuracy (arXiv 2508.13144); an encoder's is computed by filling masks from left to right."
    )
    return DataTable("differences", caption, columns, [_differences_row(one) for one in answers]) if answers else None


def _differences_row(answer: Comparison) -> list[Cell]:
    found = answer.difference
    head = [
        Cell(answer_title(answer), link="" if answer.is_average else answer.tasks[0].name),
        Cell(answer.first.label),
        Cell(answer.second.label),
    ]
    verdicts = [Cell(ahead_words(answer.on_these_runs)), Cell(ahead_words(answer.verdict))]
    if found is None:
        return [*head, Cell(""), *verdicts, *[Cell("")] * 4, Cell(answer.question), Cell(answer.reason)]
    mark = interval_mark(found.interval, span=1.15 * max(abs(found.low), abs(found.high), 1e-9))
    p = found.tested_p
    return [
        *head,
        estimate_cell(found.value, found.low, found.high, is_signed=True, mark=mark),
        *verdicts,
        Cell("" if p is None else p_words(p), p),
        number_cell(answer.detectable),
        Cell(f"{found.items:,}", found.items),
        Cell(str(found.seeds), found.seeds),
        Cell(answer.question),
        Cell("; ".join(answer.cautions)),
    ]


def terminal_tables(values: DataTable | None, differences: DataTable | None, width: int) -> list[DataTable]:
    """Return what a terminal of this width shows of the page's two tables.

    The differences of a single pair stand beside its values. Of more pairs they are a table of their own, with what was
    asked beforehand first. More members than fit as columns are rows, with a column for each of the first tasks.
    """
    if values is None:
        return []
    members = [column.label for column in values.columns if column.style]
    fits = _fits(len(members), width)
    shown = values.narrowed(["Task", *members, "Chance", "Items"]) if fits else _by_member(values, width)
    if differences is None:
        return [shown]
    told = replace(differences, rows=[_with_reason(row) for row in differences.rows])
    verdicts = ["On these runs"]
    if any((cell.value or 0) >= FEWEST_SEEDS for cell in told.column("Seeds")):
        verdicts.append("About training")
    pairs = {(row[1].text, row[2].text) for row in told.rows}
    if len(pairs) == 1 and _fits(len(members), width - _VERDICTS_WIDTH):
        return [_with_differences(values, told, members, verdicts)]
    return [shown, told.narrowed(["Task", "First", "Second", "Difference", *verdicts, "p"], _MOST_ROWS)]


def _with_reason(row: Sequence[Cell]) -> list[Cell]:
    """Return a row of differences with the reason why there is none below its verdict."""
    return [replace(cell, notes=(row[-1].text,)) if cell.text == NOT_COMPARED else cell for cell in row]


def _fits(columns: int, width: int) -> bool:
    return _TASK_WIDTH + _VALUE_WIDTH * (columns + 1) <= width


def _with_differences(
    values: DataTable, differences: DataTable, members: Sequence[str], verdicts: Sequence[str]
) -> DataTable:
    """Return the values with the one pair's differences beside them, and its means and asked questions below them."""
    first, second = differences.rows[0][1].text, differences.rows[0][2].text
    added = differences.narrowed(["Task", "Difference", *verdicts])
    # A question that was asked beforehand comes before the task's own row, which is the one that stays here.
    by_task = {row[0].link: row for row in added.rows}
    beside = values.narrowed(["Task", *members, "Chance", "Items"])
    none = [Cell("")] * max(len(beside.columns), len(added.columns))
    rows = [[*row, *by_task.get(row[0].link, none[: len(added.columns)])[1:]] for row in beside.rows]
    others = [row for row in added.rows if not row[0].link or by_task[row[0].link] is not row]
    rows += [[row[0], *none[1 : len(beside.columns)], *row[1:]] for row in others]
    heads = [Column(f"{first} - {second}", True), *added.columns[2:]]
    return replace(values, columns=[*beside.columns, *heads], rows=rows)


def _by_member(values: DataTable, width: int) -> DataTable:
    """Return a row per member and a column for each of the first tasks, as many as fit."""
    most = max(1, (width - _TASK_WIDTH) // _VALUE_WIDTH)
    columns = [Column("Member"), *(Column(row[0].text, True) for row in values.rows[:most])]
    rows = [
        [Cell(column.label), *(row[index] for row in values.rows[:most])]
        for index, column in enumerate(values.columns)
        if column.style
    ]
    left = len(values.rows) - most
    more = f" The first {most} of {len(values.rows)} tasks; the page has all." if left > 0 else ""
    return replace(values, columns=columns, rows=rows, caption=values.caption + more)


def comparison_as_json(members: Sequence[MemberRun], answers: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Return a JSON object per task: what was measured, each member's value, and the answers of each pair of sides."""
    kept = ("suite", "metric", "unit", "higher_is_better", "is_lean", "n", "chance", "baselines")
    rows = []
    for task in tasks_done(members):
        some = first_outcome(task, members)
        outcomes = {member.name: member.outcomes.get(task) for member in members}
        asked = [one for one in answers if not one.is_average and one.tasks[0].name == task]
        rows.append(
            {
                "task": task,
                "title": some.title,
                **{name: getattr(some.result, name) for name in kept},
                "cells": {name: None if one is None else _cell_as_json(one) for name, one in outcomes.items()},
                "differences": [_answer_as_json(one) for one in asked],
            }
        )
    return rows


def _cell_as_json(outcome: MemberOutcome) -> dict[str, Any]:
    low, high = outcome.result.interval
    interval = {"value": outcome.result.value, "low": low, "high": high}
    return {"interval": interval, "at_chance": outcome.at_chance, "figures": dict(outcome.result.figures)}


def _answer_as_json(answer: Comparison) -> dict[str, Any]:
    found = answer.difference
    return {
        "question": answer.question,
        "first": answer.first.label,
        "second": answer.second.label,
        "interval": None if found is None else asdict(found.interval),
        "verdict": answer.on_these_runs,
        "reason": answer.reason,
        "is_about_training": answer.is_about_training,
        "p": None if found is None else found.tested_p,
        "method": "" if found is None else found.method,
        "seeds": 0 if found is None else found.seeds,
        "cautions": list(answer.cautions),
    }
