"""Quality along an axis and by cost: curves, where one curve passes another, and which models are worth their cost."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from seqpair.compare.estimates import value_estimate
from seqpair.compare.pairing import outcome_table
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
class Overtaking:
    """Between which two points of an axis one curve passes another.

    Attributes:
        ahead: The label of the one ahead afterwards.
        behind: The label of the one that it passes.
        after, until: The last shared point before and the first one after.
        at: Where straight lines between the two points meet.
        is_sure: Whether the intervals of both points are apart, so that both orders are more than noise.
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
    if axis not in AXES:
        raise EvaluationError("there is no such axis", seen=repr(axis), allowed=", ".join(AXES))
    groups: dict[tuple[str, str, str], dict[object, dict[int, Scores]]] = defaultdict(lambda: defaultdict(dict))
    for one in scores:
        if AXES[axis](one.model) is None or one.value is not None or (axis == "parameters" and one.model.checkpoint):
            continue
        size = "" if axis == "parameters" else one.model.size
        moment = one.model.size if axis == "parameters" else _moment(one.model)
        groups[one.model.member, size, one.task.name][moment].setdefault(one.model.seed, one)
    found = []
    for (member, size, _), moments in groups.items():
        points = sorted((_point(list(seeds.values()), axis, level) for seeds in moments.values()), key=lambda p: p.x)
        task = next(iter(next(iter(moments.values())).values())).task
        found.append(Curve(member, size, task, axis, tuple(points)))
    return found


def _moment(model: Model) -> object:
    """Return what the seeds of one point share: the tokens read, or the checkpoint where those are unknown."""
    return model.checkpoint if model.tokens is None else model.tokens


def _point(seeds: Sequence[Scores], axis: str, level: float) -> CurvePoint:
    xs = [x for one in seeds if (x := AXES[axis](one.model)) is not None]
    return CurvePoint(math.fsum(xs) / len(xs), _value(seeds, level), seeds[0].model.checkpoint)


def _value(seeds: Sequence[Scores], level: float) -> Estimate:
    """Return the mean of a model's scores over its seeds and items."""
    alike = [replace(one, model=replace(one.model, checkpoint="")) for one in seeds]
    outcomes, right_or_wrong = outcome_table(alike)
    return value_estimate(outcomes, right_or_wrong=right_or_wrong, level=level)


def overtakings(first: Curve, second: Curve) -> list[Overtaking]:
    """Return where one curve passes the other, between points that both have.

    Points are shared where x is equal to 0.1 %. Between two of them the curves are taken as straight in log x.

    Raises:
        EvaluationError: The curves are of different tasks or axes.
    """
    if (first.task.name, first.axis) != (second.task.name, second.axis):
        raise EvaluationError(
            "two curves of different tasks or axes do not pass each other",
            seen=f"{first.task.name} by {first.axis} and {second.task.name} by {second.axis}",
        )
    sign = 1.0 if first.task.higher_is_better else -1.0
    shared = [(one, two) for one in first.points for two in second.points if math.isclose(one.x, two.x, rel_tol=1e-3)]
    found: list[Overtaking] = []
    last: tuple[CurvePoint, CurvePoint] | None = None
    for one, two in shared:
        lead = sign * (one.value.value - two.value.value)
        if lead == 0:
            continue  # neither is ahead here: the last point with a leader is what a later one is compared with
        if last is not None:
            before = sign * (last[0].value.value - last[1].value.value)
            if before * lead < 0:
                names = (first.label, second.label) if lead > 0 else (second.label, first.label)
                at = _between(last[0].x, one.x, before / (before - lead))
                sure = _apart(*last) and _apart(one, two)
                found.append(Overtaking(names[0], names[1], last[0].x, one.x, at, sure))
        last = one, two
    return found


def _between(start: float, end: float, share: float) -> float:
    if start <= 0:
        return start + share * (end - start)
    return float(np.exp(np.log(start) + share * (np.log(end) - np.log(start))))


def _apart(one: CurvePoint, two: CurvePoint) -> bool:
    return one.value.low > two.value.high or two.value.low > one.value.high


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
