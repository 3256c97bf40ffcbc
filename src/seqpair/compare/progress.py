"""Quality along an axis and by cost: curves, where one curve passes another, and which models are worth their cost."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from seqpair.compare.estimates import difference_estimate, value_estimate
from seqpair.compare.pairing import LAST_SETTING, cluster_codes, outcome_table, pair_sides
from seqpair.compare.values import Estimate, Model, Scores, Task
from seqpair.errors import EvaluationError

AXES: dict[str, Callable[[Model], float | None]] = {
    "tokens": lambda model: model.tokens,
    "train_flops": lambda model: model.train_flops,
    "train_seconds": lambda model: model.train_seconds,
    "parameters": lambda model: model.non_embedding_parameters,
}
"""What a curve may run along; of a model, or None where it is unknown."""


@dataclass(frozen=True)
class CurvePoint:
    """One moment of a curve: where it stands on the axis, what was reached, and at which checkpoint."""

    x: float
    value: Estimate
    checkpoint: str = ""


@dataclass(frozen=True)
class Curve:
    """A member's quality along an axis.

    Attributes:
        member, size: Whose.
        task: On what.
        axis: `tokens`, `train_flops`, `train_seconds` or `parameters`.
        points: By ascending x.
    """

    member: str
    size: str
    task: Task
    axis: str
    points: tuple[CurvePoint, ...]

    @property
    def label(self) -> str:
        """Return the name in words: `4m encoder`."""
        return f"{self.size} {self.member}".strip()


@dataclass(frozen=True)
class Gap:
    """The paired difference of two members along an axis, at the points that both have.

    Attributes:
        first, second: Their labels; every value is first minus second, on the same items and seeds.
        task, axis: On what, and along what.
        points: By ascending x.
    """

    first: str
    second: str
    task: Task
    axis: str
    points: tuple[CurvePoint, ...]

    @property
    def label(self) -> str:
        """Return the name in words: `4m encoder - 4m decoder`."""
        return f"{self.first} - {self.second}"


@dataclass(frozen=True)
class Overtaking:
    """Between which two points of an axis one curve passes another.

    Attributes:
        ahead: The label of the one ahead afterwards.
        behind: The label of the one that it passes.
        after, until: The last shared point before and the first one after.
        at: Where straight lines between the two points meet.
        is_sure: Whether the intervals of the paired difference exclude zero at both points, so that both orders are
            more than noise.
    """

    ahead: str
    behind: str
    after: float
    until: float
    at: float
    is_sure: bool


@dataclass(frozen=True)
class CostPoint:
    """What a model costs and what it reaches.

    Attributes:
        label: `4m encoder`.
        task: On what.
        value: What it reaches.
        train_flops, train_seconds: Of one run; None if unknown.
        inference_flops: FLOPs to answer one item of the task.
        rows_per_item: Rows of the model that an item takes: one for a decoder, one a token for an encoder that is
            scored from left to right.
        is_dominated_by: Labels of models that cost no more in inference and are better, by their values alone.
    """

    label: str
    task: Task
    value: Estimate
    train_flops: float | None
    train_seconds: float | None
    inference_flops: float | None
    rows_per_item: float | None
    is_dominated_by: tuple[str, ...] = ()


def curves(scores: Sequence[Scores], axis: str = "tokens", level: float = 0.95) -> list[Curve]:
    """Return every member's quality along an axis, from the evaluations of its checkpoints.

    Seeds of one checkpoint are one point, at their mean on the axis; a final model and the checkpoint of its last step
    are one too if they have read equally many tokens. Along `parameters` a member's sizes make one curve, of its final
    models. A model that has no value on the axis is left out.

    Args:
        scores: Evaluations of final models and of checkpoints.
        axis: One of `AXES`.
        level: Of the intervals.

    Raises:
        EvaluationError: There is no such axis.
    """
    found = []
    for (member, size, _), moments in _along(scores, axis).items():
        points = sorted((_point(list(seeds.values()), axis, level) for seeds in moments.values()), key=lambda p: p.x)
        task = next(iter(next(iter(moments.values())).values())).task
        found.append(Curve(member, size, task, axis, tuple(points)))
    return found


_Moments = dict[object, dict[int, Scores]]


def _along(scores: Sequence[Scores], axis: str) -> dict[tuple[str, str, str], _Moments]:
    """Return the scores by member, size and task, then by moment and seed."""
    if axis not in AXES:
        raise EvaluationError("there is no such axis", seen=repr(axis), allowed=", ".join(AXES))
    groups: dict[tuple[str, str, str], _Moments] = defaultdict(lambda: defaultdict(dict))
    for one in scores:
        if AXES[axis](one.model) is None or one.value is not None or (axis == "parameters" and one.model.checkpoint):
            continue
        size = "" if axis == "parameters" else one.model.size
        moment = one.model.size if axis == "parameters" else _moment(one.model)
        groups[one.model.member, size, one.task.name][moment].setdefault(one.model.seed, one)
    return groups


def gaps(scores: Sequence[Scores], axis: str = "tokens", level: float = 0.95) -> list[Gap]:
    """Return the paired difference of every two members of a size on every task, where they share two points or more.

    A point whose items or settings differ cannot be paired and is left out.

    Args:
        scores: Evaluations of final models and of checkpoints.
        axis: One of `AXES`.
        level: Of the intervals.

    Raises:
        EvaluationError: There is no such axis.
    """
    found = []
    for (one, first), (two, second) in combinations(_along(scores, axis).items(), 2):
        shared = [moment for moment in first if moment in second]
        if one[1:] != two[1:] or len(shared) < 2:
            continue
        points = [_difference(first[moment], second[moment], axis, level) for moment in shared]
        kept = sorted((point for point in points if point is not None), key=lambda point: point.x)
        task = next(iter(next(iter(first.values())).values())).task
        if kept:
            labels = [f"{size} {member}".strip() for member, size, _ in (one, two)]
            found.append(Gap(labels[0], labels[1], task, axis, tuple(kept)))
    return found


def _difference(
    first: Mapping[int, Scores], second: Mapping[int, Scores], axis: str, level: float
) -> CurvePoint | None:
    # At one moment: what a checkpoint is called does not matter, and members may have run other phases since.
    sides = [_final(side.values()) for side in (first, second)]
    try:
        paired = pair_sides(sides[0], sides[1], unpaired=True)
    except EvaluationError:
        return None
    xs = [x for seed in paired.seeds if (x := AXES[axis](first[seed].model)) is not None]
    checkpoint = first[paired.seeds[0]].model.checkpoint
    return CurvePoint(math.fsum(xs) / len(xs), difference_estimate(paired, level), checkpoint)


def _final(seeds: Iterable[Scores]) -> list[Scores]:
    return [replace(one, model=replace(one.model, checkpoint="")) for one in seeds]


def _moment(model: Model) -> object:
    """Return what the seeds of one point share: the tokens read, or the checkpoint where those are unknown."""
    return model.checkpoint if model.tokens is None else model.tokens


def _point(seeds: Sequence[Scores], axis: str, level: float) -> CurvePoint:
    xs = [x for one in seeds if (x := AXES[axis](one.model)) is not None]
    return CurvePoint(math.fsum(xs) / len(xs), _value(seeds, level), seeds[0].model.checkpoint)


def over_last(scores: Sequence[Scores], count: int) -> list[Scores]:
    """Return the scores with every final model's outcomes averaged over its last moments of training.

    One checkpoint differs from the next by chance, and the mean of several by less. A task of a model that was
    evaluated at fewer moments, or on other items there, stays as it is; it is compared with its like only.

    Args:
        scores: Evaluations of final models and of checkpoints.
        count: How many moments, the final model among them; 1 changes nothing.
    """
    moments: dict[tuple[str, str, int, str], dict[object, Scores]] = defaultdict(dict)
    for one in sorted(scores, key=lambda own: bool(own.model.checkpoint)):  # a final model before its own checkpoint
        key = one.model.member, one.model.size, one.model.seed, one.task.name
        moments[key].setdefault(_moment(one.model), one)
    found = []
    for one in scores:
        own = moments[one.model.member, one.model.size, one.model.seed, one.task.name].values()
        last = sorted(own, key=lambda moment: moment.model.tokens or 0)[-count:]
        alike = all(set(moment.ids) == set(one.ids) and moment.value is None for moment in last)
        if one.model.checkpoint or count < 2 or len(last) < count or not alike:
            found.append(one)
            continue
        by_name = [dict(zip(moment.ids, moment.values, strict=True)) for moment in last]
        values = np.mean([[own_values[name] for name in one.ids] for own_values in by_name], axis=0)
        settings = {**one.task.settings, LAST_SETTING: count}
        title = f"{one.task.title or one.task.name}, mean of the last {count} checkpoints"
        found.append(replace(one, values=values, task=replace(one.task, settings=settings, title=title)))
    return found


def _value(seeds: Sequence[Scores], level: float) -> Estimate:
    """Return the mean of a model's scores over its seeds and items."""
    alike = _final(seeds)
    outcomes, right_or_wrong = outcome_table(alike)
    ids = alike[0].ids if len(alike) == 1 else tuple(sorted(alike[0].ids))  # the order of the table
    clusters = cluster_codes(alike, ids)
    return value_estimate(outcomes, right_or_wrong=right_or_wrong, level=level, clusters=clusters)


def overtakings(gap: Gap) -> list[Overtaking]:
    """Return where one curve passes the other, between points that both have.

    Between two of them the curves are taken as straight in log x.
    """
    sign = 1.0 if gap.task.higher_is_better else -1.0
    found: list[Overtaking] = []
    last: CurvePoint | None = None
    for point in gap.points:
        lead = sign * point.value.value
        if lead == 0:
            continue  # neither is ahead here: the last point with a leader is what a later one is compared with
        before = 0.0 if last is None else sign * last.value.value
        if last is not None and before * lead < 0:
            names = (gap.first, gap.second) if lead > 0 else (gap.second, gap.first)
            at = _between(last.x, point.x, before / (before - lead))
            sure = not any(one.value.interval.contains(0.0) for one in (last, point))
            found.append(Overtaking(names[0], names[1], last.x, point.x, at, sure))
        last = point
    return found


def _between(start: float, end: float, share: float) -> float:
    if start <= 0:
        return start + share * (end - start)
    return float(np.exp(np.log(start) + share * (np.log(end) - np.log(start))))


def cost_points(
    scores: Sequence[Scores], inference: Mapping[str, tuple[float, float]], level: float = 0.95
) -> list[CostPoint]:
    """Return, for every final model and task, what it costs and what it reaches.

    Args:
        scores: The study's scores; checkpoints are left out.
        inference: By the model's label: rows and FLOPs to answer one item, from `recipe.cost.scoring_cost`.
        level: Of the intervals.
    """
    groups: dict[tuple[str, str], list[Scores]] = defaultdict(list)
    for one in scores:
        if not one.model.checkpoint and one.value is None:
            groups[one.task.name, one.model.label].append(one)
    points = []
    for (_, label), seeds in groups.items():
        rows, flops = inference.get(label, (None, None))
        points.append(
            CostPoint(
                label=label,
                task=seeds[0].task,
                value=_value(seeds, level),
                train_flops=_mean([one.model.train_flops for one in seeds]),
                train_seconds=_mean([one.model.train_seconds for one in seeds]),
                inference_flops=flops,
                rows_per_item=rows,
            )
        )
    return [replace(point, is_dominated_by=tuple(_dominating(point, points))) for point in points]


def _dominating(point: CostPoint, points: Sequence[CostPoint]) -> list[str]:
    if point.inference_flops is None:
        return []
    sign = 1.0 if point.task.higher_is_better else -1.0
    return [
        other.label
        for other in points
        if other.task.name == point.task.name
        and other.inference_flops is not None
        and other.inference_flops <= point.inference_flops
        and sign * (other.value.value - point.value.value) > 0
    ]


def _mean(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return math.fsum(known) / len(known) if len(known) == len(numbers) else None
