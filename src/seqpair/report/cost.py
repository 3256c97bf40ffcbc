"""What quality costs on the page: curves over FLOPs, wall time and the cost of scoring, and where curves cross."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from seqpair.compare.progress import CostPoint, Curve, cost_points, curves, gaps, overtakings
from seqpair.compare.values import Scores, Task
from seqpair.recipe.cost import SPECIALS_PER_SEQUENCE, flops_per_token
from seqpair.report.comparison_figures import Line, lines_drawing
from seqpair.report.data_table import Cell, Column, DataTable, estimate_cell
from seqpair.report.figures import Drawing, figure_id
from seqpair.report.member import MemberRun
from seqpair.report.shared_figures import DIRECTIONS, common_sources, curve_lines, runs_by_line, thinned_line
from seqpair.report.study_tables import (
    CONTEXT_TOKENS,
    SCORED_TOKENS,
    base_name,
    held_out_means,
    item_cost,
    member_colours,
)
from seqpair.text import format_count, format_seconds

MOST_TASKS = 3
"""So many tasks have figures by cost; the table has all."""

_FLOPS, _SECONDS = "training FLOPs", "seconds of training"
_SCORING = f"FLOPs to score {SCORED_TOKENS} tokens after {CONTEXT_TOKENS}"
_AXES = {"tokens": "content tokens", "train_flops": _FLOPS, "train_seconds": _SECONDS, "parameters": "parameters"}
_MOST_LOOKS = 60
_WIDE = 4.0
"""An axis whose values span more than this factor is logarithmic."""


def points_by_cost(scores: Sequence[Scores], members: Sequence[MemberRun]) -> list[CostPoint]:
    """Return every final model's value on every task with its costs; of two runs of one seed the first counts."""
    inference: dict[str, tuple[float, float]] = {}
    for member in members:
        if member.plan is not None:
            name = member.plan.member if member.objective is None else f"{member.plan.member} as {member.objective}"
            inference[f"{member.plan.size} {name}".strip()] = item_cost(member.plan, member.objective)
    runs: dict[tuple[str, str, int], Scores] = {}
    for one in scores:
        if not one.model.checkpoint:
            runs.setdefault((one.model.label, one.task.name, one.model.seed), one)
    return cost_points(list(runs.values()), inference)


def cost_drawings(scores: Sequence[Scores], points: Sequence[CostPoint], members: Sequence[MemberRun]) -> list[Drawing]:
    """Return held-out text by FLOPs and by wall time, then some tasks' values by those and by the cost of scoring.

    Values by FLOPs and by time have a figure where some member has two moments or there are two sizes; ends of members
    of one size are in the table alone.
    """
    colours = {base_name(member): colour for member, colour in zip(members, _colours(members), strict=True)}
    drawings = [
        drawing
        for direction in DIRECTIONS
        for axis in (_FLOPS, _SECONDS)
        if (drawing := _held_out(members, direction, axis)) is not None
    ]
    tasks = _tasks_drawn(points)
    some = [one for one in scores if one.task.name in tasks]
    for axis in ("train_flops", "train_seconds"):
        found = curves(some, axis)
        for task in tasks:
            own = [curve for curve in found if curve.task.name == task]
            if max((len(curve.points) for curve in own), default=0) > 1 or len({curve.size for curve in own}) > 1:
                drawings.append(_by_training(axis, own, colours))
    return [*drawings, *(_by_scoring([p for p in points if p.task.name == task], colours) for task in tasks)]


def _colours(members: Sequence[MemberRun]) -> list[int]:
    colours = member_colours(members)
    return [colours[member.name] for member in members]


def _tasks_drawn(points: Sequence[CostPoint]) -> list[str]:
    """Return the tasks that most models do, at least two, by name."""
    count: dict[str, int] = {}
    for point in points:
        count[point.task.name] = count.get(point.task.name, 0) + 1
    several = [task for task, models in count.items() if models > 1]
    return sorted(several, key=lambda task: (-count[task], task))[:MOST_TASKS]


def _held_out(members: Sequence[MemberRun], direction: str, axis: str) -> Drawing | None:
    here = [m for m in members if m.direction == direction and m.held_out and m.train and m.plan and not m.second_of]
    sources = common_sources(here)
    colours = member_colours(members)
    seen: dict[int, int] = {}
    lines = []
    for label, runs in runs_by_line(here).items():
        colour = colours[runs[0].name]
        for run in runs:
            seen[colour] = seen.get(colour, -1) + 1
            tokens, bits = zip(*held_out_means(run, sources), strict=True)
            own = label if len(runs) == 1 else f"{label}, seed {run.plan.seed if run.plan else ''}"
            lines.append(thinned_line(own, colour, seen[colour], _spent(run, tokens, axis), bits, most=_MOST_LOOKS))
    if not lines:
        return None
    title = f"Held-out text by {axis}, {DIRECTIONS[direction]}, mean of {', '.join(sources) or 'the sources'}"
    name = figure_id("flops" if axis == _FLOPS else "seconds", direction)
    return lines_drawing(name, title, "bits per byte, lower is better", axis, lines)


def _spent(run: MemberRun, tokens: Sequence[float], axis: str) -> list[float]:
    """Return a run's FLOPs or seconds when it had read so many tokens, along its own training steps."""
    phases = {phase.name: phase for phase in run.plan.phases} if run.plan is not None else {}
    each = {
        name: flops_per_token(run.plan.model, phase) * (1 + SPECIALS_PER_SEQUENCE / phase.mean_tokens)
        for name, phase in phases.items()
        if run.plan is not None
    }
    read = [0, *(point.tokens for point in run.train)]
    steps = [
        point.seconds if axis == _SECONDS else each.get(point.phase, math.nan) * (point.tokens - before)
        for point, before in zip(run.train, read, strict=False)
    ]
    return [float(x) for x in np.interp(tokens, read, np.concatenate(([0.0], np.cumsum(steps))))]


def _by_training(axis: str, found: Sequence[Curve], colours: Mapping[str, int]) -> Drawing:
    task = found[0].task
    words = _AXES[axis]
    name = figure_id("flops" if axis == "train_flops" else "seconds", task.name)
    return _value_drawing(name, f"{task.title or task.name}, by {words}", words, curve_lines(found, colours), task)


def _by_scoring(points: Sequence[CostPoint], colours: Mapping[str, int]) -> Drawing:
    seen: dict[int, int] = {}
    lines = []
    for point in points:
        colour = colours.get(point.label.split(" ", 1)[-1], 0)
        seen[colour] = seen.get(colour, -1) + 1
        found = point.value
        x = [point.inference_flops or math.nan]
        lines.append(Line(point.label, colour, seen[colour], x, [found.value], [found.low], [found.high]))
    task = points[0].task
    name = figure_id("scoring", task.name)
    return _value_drawing(name, f"{task.title or task.name}, by the cost of scoring", _SCORING, lines, task)


def _value_drawing(name: str, title: str, horizontal: str, lines: Sequence[Line], task: Task) -> Drawing:
    xs = [x for line in lines for x in line.xs if x > 0]
    is_log = len(xs) == sum(len(line.xs) for line in lines) and max(xs) > _WIDE * min(xs)
    return lines_drawing(name, title, task.measured, horizontal, lines, is_log=is_log, chance=task.chance)


def quality_table(points: Sequence[CostPoint]) -> DataTable | None:
    """Return what each final model reaches on each task and what it costs, and which models make it not worth it."""
    columns = [
        Column("Task"), Column("Model"), Column("Value", True), Column("Training FLOPs", True),
        Column("Training time", True), Column("Rows to score", True), Column("FLOPs to score", True),
        Column("Better at no higher cost"),
    ]  # fmt: skip
    body = []
    for point in points:
        value, flops, seconds = point.value, point.train_flops, point.train_seconds
        scoring, rows = point.inference_flops, point.rows_per_item
        body.append(
            [
                Cell(point.task.title or point.task.name, link=point.task.name),
                Cell(point.label),
                estimate_cell(value.value, value.low, value.high),
                Cell("") if flops is None else Cell(f"{flops:.2e}", flops),
                Cell("") if seconds is None else Cell(format_seconds(seconds), seconds),
                Cell("") if rows is None else Cell(f"{rows:g}", rows),
                Cell("") if scoring is None else Cell(f"{scoring:.2e}", scoring),
                Cell(", ".join(point.is_dominated_by) or "none"),
            ]
        )
    caption = (
        "The value and the cost of each model, as means over its seeds. For a member that continues another one, only "
        f"its own training is counted. Scoring means {SCORED_TOKENS} tokens after {CONTEXT_TOKENS} from left to right, "
        "for which an encoder reads one row per token. 'Better at no higher cost': models with a higher value that "
        "cost no more to score. It compares the values alone, without their intervals."
    )
    return DataTable("quality-by-cost", caption, columns, body) if body else None


def overtakings_table(scores: Sequence[Scores]) -> tuple[DataTable | None, str]:
    """Return where a curve passes another by tokens or by size, and in words what was looked at.

    By tokens the members of one size are compared, by size all of them. By FLOPs and by seconds members share no points
    at which they could be.
    """
    along = [gap for axis in ("tokens", "parameters") for gap in gaps(scores, axis) if len(gap.points) > 1]
    found = [(gap, one) for gap in along for one in overtakings(gap)]
    if not along:
        return (
            None,
            "No two members have values of a task at two checkpoints or two sizes, so curves cannot be compared.",
        )
    if not found:
        words = f"Of {len(along)} pairs of curves by tokens or by size, none crosses between shared points."
        return None, words
    columns = [
        Column("Task"), Column("Along"), Column("Ahead afterwards"), Column("Passed"), Column("After", True),
        Column("Until", True), Column("At about", True), Column("Sure"),
    ]  # fmt: skip
    rows = [
        [
            Cell(gap.task.title or gap.task.name, link=gap.task.name),
            Cell(_AXES[gap.axis]),
            Cell(one.ahead),
            Cell(one.behind),
            *(Cell(format_count(x), x) for x in (one.after, one.until, one.at)),
            Cell("yes" if one.is_sure else "no: an interval includes zero"),
        ]
        for gap, one in found
    ]
    caption = (
        "Where one curve passes another, between two points that both have; 'at about' interpolates linearly. "
        "Sure: the interval of the paired difference excludes zero at both points."
    )
    return DataTable("overtakings", caption, columns, rows), f"{len(found)} among {len(along)} pairs of curves."
