"""What is compared and what comes out: models, tasks, scores, estimates, and the answers to questions as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpair.recipe.diff import PairIdentity

Floats = npt.NDArray[np.float64]
FEWEST_ITEMS = 10
"""With fewer items than this there is no interval."""
FEWEST_SEEDS = 3
"""With fewer seeds there is no verdict about other seeds: two values leave one degree of freedom for their spread."""
OTHER_ITEMS_AND_SEEDS = "other items and other training seeds"
THESE_RUNS = "conditional on these runs"
THESE_ITEMS = "conditional on these items"
NOT_DECIDED = "not decided"
LEVEL = "level"
NEITHER_ABOVE_CHANCE = "neither above chance"
"""Whatever their difference: nobody is ahead on what nobody can do."""
NO_BETTER_END = "no better end"
"""Of a bias measure: a difference is reported, but neither side is better."""
NOT_COMPARED = "not compared"
NO_TRAINING_VERDICT = "no verdict about training"
"""With fewer than three seeds: what these runs show is said, what other runs would show is not."""
MOSTLY_AT_CHANCE = "no verdict: most tasks at chance"
"""Of a mean over tasks: where both sides guess on most of them it says little of either."""
EQUAL_SIZE = "encoder against decoder at equal size"


@dataclass(frozen=True)
class Interval:
    """A value and the two ends of its interval."""

    value: float
    low: float
    high: float

    def contains(self, point: float) -> bool:
        """Return whether a point lies in the closed interval, or is its value, which rounding can leave outside."""
        return self.low <= point <= self.high or point == self.value


@dataclass(frozen=True)
class Estimate:
    """A quantity with its interval and the test that it is zero.

    Attributes:
        value, low, high: The quantity and its interval.
        level: The interval's level.
        p: Two-sided p of "it is zero", or None where nothing can be tested.
        method: How interval and p were made, in a few words.
        scope: What the interval is about: `OTHER_ITEMS_AND_SEEDS`, `THESE_RUNS` or `THESE_ITEMS`.
        items, seeds: How many of each.
        standard_error: Of the value; None where the method has none.
        p_adjusted: p after the correction for its family of tests; None if it was in no family.
        family: How many tests that family has; 1 without one.
    """

    value: float
    low: float
    high: float
    level: float
    p: float | None
    method: str
    scope: str
    items: int
    seeds: int
    standard_error: float | None = None
    p_adjusted: float | None = None
    family: int = 1

    @property
    def interval(self) -> Interval:
        """Return the value with the ends of its interval alone."""
        return Interval(self.value, self.low, self.high)

    @property
    def is_about_training(self) -> bool:
        """Return whether it says anything of runs that were not made."""
        return self.scope == OTHER_ITEMS_AND_SEEDS

    @property
    def tested_p(self) -> float | None:
        """Return the adjusted p where there is one, else p."""
        return self.p if self.p_adjusted is None else self.p_adjusted

    @property
    def decides(self) -> bool:
        """Return whether zero is ruled out: by `tested_p` where there is one, else by the interval."""
        p = self.tested_p
        return p < 1 - self.level if p is not None else not self.interval.contains(0.0)

    def adjusted(self, p: float, family: int) -> Estimate:
        """Return it with a p that was corrected for `family` tests."""
        return replace(self, p_adjusted=p, family=family)


@dataclass(frozen=True)
class Model:
    """One trained model, at one moment of its training.

    Attributes:
        member: The member's name; for a model from elsewhere, the name it is known by.
        size: The size label.
        seed: The training seed; members are paired by it.
        direction: `causal` or `bidirectional`.
        identity: What a pair must share; None for a model from elsewhere.
        checkpoint: The checkpoint's name; empty for the last one.
        tokens: Content tokens read so far; None if unknown.
        parameters, non_embedding_parameters: Counts; None if unknown.
        train_flops: Training FLOPs so far; None if unknown.
        train_seconds: Wall-clock seconds of training so far; None if unknown.
    """

    member: str
    size: str
    seed: int
    direction: str = ""
    identity: PairIdentity | None = None
    checkpoint: str = ""
    tokens: int | None = None
    parameters: int | None = None
    non_embedding_parameters: int | None = None
    train_flops: float | None = None
    train_seconds: float | None = None

    @property
    def label(self) -> str:
        """Return the name in words: `4m encoder`."""
        return f"{self.size} {self.member}".strip()

    @property
    def is_elsewhere(self) -> bool:
        """Return whether it was not trained here, so that there is one run of it and nothing that a pair must share."""
        return self.identity is None


def metric_words(metric: str, *, higher_is_better: bool, is_lean: bool) -> str:
    """Return a metric and its direction in words: `accuracy, higher is better`."""
    better = "neither end" if is_lean else "higher" if higher_is_better else "lower"
    return f"{metric.replace('_', ' ')}, {better} is better"


@dataclass(frozen=True)
class Task:
    """What was measured.

    Attributes:
        name, version, title, metric, unit: As in the result; items of two versions are not comparable.
        higher_is_better: The direction of the metric.
        is_lean: Whether neither end of the metric is better, as of a bias.
        chance: What guessing gives, or None.
        settings: What fixes the task for both sides alike.
    """

    name: str
    version: int = 1
    title: str = ""
    metric: str = ""
    unit: str = ""
    higher_is_better: bool = True
    is_lean: bool = False
    chance: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def measured(self) -> str:
        """Return the metric and its direction in words."""
        return metric_words(self.metric, higher_is_better=self.higher_is_better, is_lean=self.is_lean)


@dataclass(frozen=True, eq=False)
class Scores:
    """One model's outcomes on one task.

    Attributes:
        model, task: Whose and on what.
        ids: The items' names, (n,); each once. Two models are paired by them, in any order.
        values: The items' outcomes, (n,).
        weights: How much each counts, (n,); the task's value is sum(weight * value) / sum(weight).
        value: The task's own value where that is no mean of the values here and they cannot be compared; else None.
        why_not: Then why not.
        by_jackknife: Whether the values are jackknife pseudo-values of a metric of all items together (a correlation).
        details: What else is known of an item, by its name: the texts, the prediction.
        clusters: The cluster of an item, by its name: a paradigm, an article; an item without one is its own.
    """

    model: Model
    task: Task
    ids: tuple[str, ...]
    values: Floats
    weights: Floats
    value: float | None = None
    why_not: str = ""
    by_jackknife: bool = False
    details: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    clusters: Mapping[str, str] = field(default_factory=dict)


NATIVE_OR_CROSSED = "native against cross-objective"
CROSSING = "a smaller model against a larger one"
TWO_MEMBERS = "two members at equal size"
ELSEWHERE = "with a model from elsewhere"
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
    """Two sides compared on one task, or on the mean over several.

    Attributes:
        question: Which question it answers, such as `EQUAL_SIZE`.
        tasks: The task, or all tasks of the average.
        first, second: The sides; every difference is first minus second.
        difference: The paired difference; None if they are not compared.
        verdict: About training: the label of the side ahead, `LEVEL`, `NOT_DECIDED`, `NEITHER_ABOVE_CHANCE`,
            `NO_BETTER_END`, `NOT_COMPARED`, `NO_TRAINING_VERDICT` with fewer than three seeds, or `MOSTLY_AT_CHANCE`
            of a mean over tasks.
        on_these_runs: The same of the runs that were made; with three seeds and more equal to `verdict`.
        effects: Effect sizes; None if they are not compared.
        detectable: The smallest true difference that such items and seeds show with 80 % power in a test of its own;
            None if unknown.
        reason: Why they are not compared, or empty.
        cautions: What a reader must know, one sentence each.
        at_chance: Whether neither side is above chance, nor the value of both sides taken together. Such a task is in
            no family of tests: swapping the sides changes nothing, so leaving it out favours neither.
        tasks_at_chance: Of a mean over tasks: on how many of them neither side is above chance.
        without_chance: Whether it is the mean over those tasks alone that are not at chance.
        name: What a question that was asked beforehand is called; empty for others.
        margin: The largest difference that its question counts as none; None without one.
        within: The interval of two one-sided tests, which lies within the margin where the sides are level.
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
    at_chance: bool = False
    tasks_at_chance: int = 0
    without_chance: bool = False
    name: str = ""
    margin: float | None = None
    within: Interval | None = None

    @property
    def is_level(self) -> bool:
        """Return whether the difference is shown to be smaller than the margin (two one-sided tests)."""
        if self.margin is None or self.within is None:
            return False
        return -self.margin < self.within.low and self.within.high < self.margin

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
        pair = f"{self.first.label} minus {self.second.label} is"
        if self.on_these_runs == MOSTLY_AT_CHANCE:
            return f"On {what} there is no verdict, since most tasks are at chance: {pair} {span}; {seeds}."
        if self.on_these_runs == NEITHER_ABOVE_CHANCE:
            return f"On {what} neither is above chance: {pair} {span}; {seeds}."
        if self.on_these_runs == NO_BETTER_END:
            return f"On {what}, where neither direction is better, {pair} {span}; {seeds}."
        if self.on_these_runs == LEVEL:
            return f"On {what} the two are level within {self.margin:g}: {pair} {span}; {seeds}."
        if self.on_these_runs == NOT_DECIDED:
            return f"On {what} it is not decided which is ahead: {pair} {span}; {seeds}."
        return f"On {what} the {self.on_these_runs} is ahead: {pair} {span}; {seeds}."
