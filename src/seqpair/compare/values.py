"""What is compared and what comes out: models, tasks, scores, estimates."""

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
"""With fewer seeds nothing is said of other seeds: two values show a spread of one degree of freedom."""

OTHER_ITEMS_AND_SEEDS = "other items and other training seeds"
THESE_RUNS = "conditional on these runs"
THESE_ITEMS = "conditional on these items"


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
        df: Degrees of freedom of the t distribution; None where there is none.
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
    df: float | None = None
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
    def decides(self) -> bool:
        """Return whether zero is ruled out: by the adjusted p where there is one, else by p, else by the interval."""
        p = self.p if self.p_adjusted is None else self.p_adjusted
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
