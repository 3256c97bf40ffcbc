"""The answers to a study's questions, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from seqpair.compare.values import FEWEST_SEEDS, Estimate, Task

NOT_DECIDED = "not decided"
NEITHER_ABOVE_CHANCE = "neither above chance"
"""Whatever their difference: nobody is ahead on what nobody can do."""
NO_BETTER_END = "no better end"
"""Of a lean: a difference is told, and nobody is ahead."""
NOT_COMPARED = "not compared"
NO_TRAINING_VERDICT = "no verdict about training"
"""With fewer than three seeds: what these runs show is said, what other runs would show is not."""
MOSTLY_AT_CHANCE = "no verdict: most tasks at chance"
"""Of a mean over tasks: where both sides guess on most of them it says little of either."""

EQUAL_SIZE = "encoder against decoder at equal size"
NATIVE_OR_CROSSED = "native against cross-objective"
CROSSING = "a smaller model against a larger one"
TWO_MEMBERS = "two members at equal size"
PLANNED = "asked beforehand"


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a member at a size, over its seeds.

    Attributes:
        member, size, direction: Which.
        seeds: The seeds that the comparison uses, ascending.
        tokens: Content tokens each of them had read; None if unknown or not equal.
        value: The mean over seeds and items, with its own interval.
        not_above_chance: Whether that interval includes what guessing gives, or lies on its worse side.
    """

    member: str
    size: str
    direction: str
    seeds: tuple[int, ...]
    tokens: int | None
    value: Estimate | None
    not_above_chance: bool = False

    @property
    def label(self) -> str:
        """Return the name in words: `4m encoder`."""
        return f"{self.size} {self.member}".strip()


@dataclass(frozen=True)
class EffectSizes:
    """How large a difference is, in several units.

    Attributes:
        points: The difference times 100: percentage points of an accuracy.
        standardised: The difference by the standard deviation of the items' differences, seeds averaged; None where
            no two items differ.
        cohens_h: 2 asin(sqrt(p1)) - 2 asin(sqrt(p2)); None where the values are no shares of right items.
        odds_ratio: The conditional odds ratio of a pair: items that only the first had right by items that only the
            second had, half an item added to each; None where the values are not right or wrong.
    """

    points: float
    standardised: float | None = None
    cohens_h: float | None = None
    odds_ratio: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Two sides held against each other on one task, or on the average of several.

    Attributes:
        question: Which question it answers, such as `EQUAL_SIZE`.
        tasks: The task, or all tasks of the average.
        first, second: The sides; every difference is first minus second.
        difference: The paired difference; None if they are not compared.
        verdict: About training: the label of the side ahead, `NOT_DECIDED`, `NEITHER_ABOVE_CHANCE`, `NO_BETTER_END`,
            `NOT_COMPARED`, or `NO_TRAINING_VERDICT` with fewer than three seeds, or `MOSTLY_AT_CHANCE` of a mean over
            tasks.
        on_these_runs: The same of the runs that were made; with three seeds and more equal to `verdict`.
        effects: Effect sizes; None if they are not compared.
        detectable: The smallest true difference that such items and seeds show with 80 % power in a test of its own;
            None if unknown.
        reason: Why they are not compared, or empty.
        cautions: What a reader must know, one sentence each.
        tasks_at_chance: Of a mean over tasks: on how many of them neither side is above chance.
        without_chance: Whether it is the mean over those tasks alone that are not at chance.
        name: What a question that was asked beforehand is called; empty for others.
    """

    question: str
    tasks: tuple[Task, ...]
    first: Side
    second: Side
    difference: Estimate | None
    verdict: str
    on_these_runs: str
    effects: EffectSizes | None = None
    detectable: float | None = None
    reason: str = ""
    cautions: tuple[str, ...] = ()
    tasks_at_chance: int = 0
    without_chance: bool = False
    name: str = ""

    @property
    def title(self) -> str:
        """Return what was compared on, in words; a mean says how many of its tasks are at chance."""
        if not self.is_average:
            return self.tasks[0].title or self.tasks[0].name
        if self.without_chance:
            return f"mean of the {len(self.tasks)} tasks that are not at chance"
        both = f", {self.tasks_at_chance} of them with neither above chance" if self.tasks_at_chance else ""
        return f"mean of {len(self.tasks)} tasks{both}"

    @property
    def is_average(self) -> bool:
        """Return whether it is over several tasks."""
        return len(self.tasks) > 1

    @property
    def is_without_skill(self) -> bool:
        """Return whether neither side is better than guessing."""
        return self.first.not_above_chance and self.second.not_above_chance

    @property
    def is_mostly_at_chance(self) -> bool:
        """Return whether it is a mean over tasks on most of which both sides guess."""
        return self.is_average and 2 * self.tasks_at_chance > len(self.tasks)

    @property
    def is_about_training(self) -> bool:
        """Return whether there are seeds enough for a word about other runs."""
        return self.difference is not None and self.difference.seeds >= FEWEST_SEEDS

    @property
    def sentence(self) -> str:
        """Return the verdict in one plain sentence."""
        what = f"the {self.title}" if self.is_average else f'"{self.title}"'
        what = f"{self.name} ({what})" if self.name else what
        if self.difference is None:
            return f"On {what} the {self.first.label} and the {self.second.label} are not compared: {self.reason}."
        found = self.difference
        span = f"{found.value:+.3g} ({found.low:+.3g} to {found.high:+.3g})"
        seeds = f"{found.seeds} seed{'' if found.seeds == 1 else 's'}, {found.items} items"
        if not self.is_about_training:
            seeds = f"{found.scope}: {seeds}; {NO_TRAINING_VERDICT}"
        pair = f"the {self.first.label} against the {self.second.label}"
        if self.on_these_runs == MOSTLY_AT_CHANCE:
            return f"On {what} there is no verdict, since most tasks are at chance, {pair} {span}; {seeds}."
        if self.on_these_runs == NEITHER_ABOVE_CHANCE:
            return f"On {what} neither is above chance, {pair} {span}; {seeds}."
        if self.on_these_runs == NO_BETTER_END:
            return f"On {what}, a lean without a better end, {pair} {span}; {seeds}."
        if self.on_these_runs == NOT_DECIDED:
            return f"On {what} it is not decided, {pair} {span}; {seeds}."
        return f"On {what} the {self.on_these_runs} is ahead, {pair} {span}; {seeds}."


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


@dataclass(frozen=True)
class Disagreement:
    """One item on which two sides differ.

    Attributes:
        id: The item's name.
        first, second: Their outcomes, averaged over seeds.
        seeds_for_first, seeds_for_second: At how many seeds the first or the second was better.
        weight: How much the item counts.
        detail: The texts and predictions that were kept of the item, by side: `first`, `second`.
    """

    id: str
    first: float
    second: float
    seeds_for_first: int
    seeds_for_second: int
    weight: float
    detail: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def difference(self) -> float:
        """Return first minus second."""
        return self.first - self.second
