"""From two sides' outcomes to an estimate: which method is used when.

Three seeds and more: items and seeds as crossed random effects. One or two: over items only, and labelled as
conditional on these runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from seqpair.compare.bootstrap import paired_difference
from seqpair.compare.crossed import (
    LEAST_DIFFERING,
    CrossedParts,
    average_parts,
    crossed_interval,
    crossed_p,
    crossed_parts,
)
from seqpair.compare.exact import mcnemar_p, permutation_p
from seqpair.compare.findings import EffectSizes
from seqpair.compare.pairing import Paired
from seqpair.compare.values import FEWEST_SEEDS, OTHER_ITEMS_AND_SEEDS, THESE_RUNS, Estimate, Floats
from seqpair.errors import EvaluationError

CROSSED = "crossed random effects of items and seeds"
MCNEMAR = "interval of Bonett and Price, McNemar's exact test, over items"
BOOTSTRAP = "paired bootstrap and permutation test, over items"
BY_JACKKNIFE = ", by jackknife pseudo-values"
WILSON = "Wilson's interval, over items"
NORMAL = "normal interval, over items"


def difference_estimate(paired: Paired, level: float = 0.95) -> Estimate:
    """Return the mean difference of two sides, first minus second.

    Raises:
        EvaluationError: There are fewer than two items.
    """
    _require_items(paired)
    if len(paired.seeds) >= FEWEST_SEEDS:
        parts = crossed_parts(paired.differences, right_or_wrong=paired.is_right_or_wrong)
        return replace(_of_parts(parts, level), method=CROSSED + (BY_JACKKNIFE if paired.by_jackknife else ""))
    if len(paired.seeds) == 1 and not paired.has_shared_points:
        return _right_or_wrong(paired, level)
    differences = paired.differences.mean(axis=0)
    ones = np.ones(len(differences))
    interval = paired_difference(differences, ones, np.zeros(len(differences)), ones, level=level)
    return Estimate(
        value=interval.value,
        low=interval.low,
        high=interval.high,
        level=level,
        p=permutation_p(differences),
        method=BOOTSTRAP + (BY_JACKKNIFE if paired.by_jackknife else ""),
        scope=THESE_RUNS,
        items=len(differences),
        seeds=len(paired.seeds),
        standard_error=float(differences.std(ddof=1) / math.sqrt(len(differences))),
    )


def average_estimate(paired: Sequence[Paired], level: float = 0.95) -> Estimate:
    """Return the plain mean over tasks of the differences, each task counting the same.

    Raises:
        EvaluationError: There is no task, they have different seeds, or one has fewer than two items.
    """
    if not paired or len({one.seeds for one in paired}) != 1:
        raise EvaluationError(
            "an average needs tasks that were evaluated at the same seeds",
            seen="; ".join(f"{one.task.name}: {', '.join(map(str, one.seeds))}" for one in paired) or "no task",
            fix="evaluate every task at every seed",
        )
    for one in paired:
        _require_items(one)
    seeds, items = paired[0].seeds, sum(len(one.ids) for one in paired)
    if len(seeds) >= FEWEST_SEEDS:
        parts = [crossed_parts(one.differences, right_or_wrong=one.is_right_or_wrong) for one in paired]
        by_seed = np.stack([one.differences.mean(axis=1) for one in paired])
        return _of_parts(average_parts(parts, by_seed), level, items)
    value = float(np.mean([one.differences.mean() for one in paired]))
    error = math.sqrt(sum(_item_variance(one) for one in paired)) / len(paired)
    half = float(stats.norm.ppf(0.5 + level / 2)) * error
    return Estimate(
        value=value,
        low=value - half,
        high=value + half,
        level=level,
        p=float(2 * stats.norm.sf(abs(value) / error)) if error > 0 else float(value == 0),
        method=NORMAL,
        scope=THESE_RUNS,
        items=items,
        seeds=len(seeds),
        standard_error=error,
    )


def value_estimate(outcomes: Floats, *, right_or_wrong: bool, level: float = 0.95) -> Estimate:
    """Return the mean outcome of one side, with its interval and without a test.

    Args:
        outcomes: (S, I), scaled as in `Paired`.
        right_or_wrong: Whether all are 0 or 1; the interval then stays within 0 and 1.
        level: The interval's level.

    Raises:
        EvaluationError: There are fewer than two items.
    """
    seeds, items = outcomes.shape
    if items < 2:
        raise EvaluationError("an interval needs at least two items", seen=items)
    value, error, df, scope = float(outcomes.mean()), None, None, THESE_RUNS
    if seeds >= FEWEST_SEEDS:
        half, errors, dfs = crossed_interval(crossed_parts(outcomes, right_or_wrong=right_or_wrong), level)
        low, high, error, df = value - float(half), value + float(half), float(errors), float(dfs)
        method, scope = CROSSED, OTHER_ITEMS_AND_SEEDS
    elif seeds == 1 and right_or_wrong:
        found = stats.binomtest(round(value * items), items).proportion_ci(level, method="wilson")
        low, high, method = float(found.low), float(found.high), WILSON
    else:
        error = float(outcomes.mean(axis=0).std(ddof=1) / math.sqrt(items))
        half_width = float(stats.norm.ppf(0.5 + level / 2)) * error
        low, high, method = value - half_width, value + half_width, NORMAL
    if right_or_wrong:
        low, high = max(0.0, low), min(1.0, high)
    return Estimate(value, low, high, level, None, method, scope, items, seeds, error, df)


def effect_sizes(paired: Paired) -> EffectSizes:
    """Return how large the difference is in the units that suit its outcomes."""
    differences = paired.differences.mean(axis=0)
    spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    value = float(differences.mean())
    standardised = value / spread if spread > 0 else None
    if not paired.is_right_or_wrong:
        return EffectSizes(points=100 * value, standardised=standardised)
    shares = float(paired.first.mean()), float(paired.second.mean())
    angles = [2 * math.asin(math.sqrt(min(1.0, share))) for share in shares]
    only_first = float((paired.differences > 0).sum()) / len(paired.seeds)
    only_second = float((paired.differences < 0).sum()) / len(paired.seeds)
    return EffectSizes(
        points=100 * value,
        standardised=standardised,
        cohens_h=angles[0] - angles[1],
        odds_ratio=(only_first + 0.5) / (only_second + 0.5),
    )


def _item_variance(paired: Paired) -> float:
    """Return the variance of the mean over items; at least that of two that differ where they are right or wrong."""
    differences = paired.differences.mean(axis=0)
    squares = float(((differences - differences.mean()) ** 2).sum())
    if paired.is_right_or_wrong:
        squares = max(squares, LEAST_DIFFERING)
    return squares / (len(differences) - 1) / len(differences)


def _require_items(paired: Paired) -> None:
    if len(paired.ids) < 2:
        raise EvaluationError(
            f"{paired.task.name} has too few items for an interval", seen=len(paired.ids), allowed="2 or more"
        )


def _of_parts(parts: CrossedParts, level: float, items: int | None = None) -> Estimate:
    half, error, df = crossed_interval(parts, level)
    return Estimate(
        value=float(parts.value),
        low=float(parts.value - half),
        high=float(parts.value + half),
        level=level,
        p=float(crossed_p(parts)),
        method=CROSSED,
        scope=OTHER_ITEMS_AND_SEEDS,
        items=parts.item_count if items is None else items,
        seeds=parts.seed_count,
        standard_error=float(error),
        df=float(df),
    )


def _right_or_wrong(paired: Paired, level: float) -> Estimate:
    """Return the estimate of one run each, right or wrong on every item."""
    differences = paired.differences[0]
    items = len(differences)
    only_first, only_second = int((differences > 0).sum()), int((differences < 0).sum())
    first, second = (only_first + 1) / (items + 2), (only_second + 1) / (items + 2)
    error = math.sqrt((first + second - (first - second) ** 2) / (items + 2))
    half = float(stats.norm.ppf(0.5 + level / 2)) * error
    return Estimate(
        value=float(differences.mean()),
        low=max(-1.0, first - second - half),
        high=min(1.0, first - second + half),
        level=level,
        p=mcnemar_p(only_first, only_second),
        method=MCNEMAR,
        scope=THESE_RUNS,
        items=items,
        seeds=1,
        standard_error=error,
    )
