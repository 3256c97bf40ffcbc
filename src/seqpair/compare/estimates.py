"""From two sides' outcomes to an estimate: which method is used when, and the method for three seeds and more.

An outcome y[s, i] of one side is mean + seed[s] + cluster[c(i)] + item[i] + noise[s, i]; all but the mean is random:
another study would have other seeds and other items. Items that belong together (a paradigm) come as one cluster; an
item without a cluster is its own. The variance of the mean difference is A1 + A2 + (B - E), with Ak the variance over
the seeds of side k of its mean, divided by S (the runs of two sides are independent), B the variance over clusters of
the difference, and E, seed by cluster, what both count. Half the width of the interval is

    h = sqrt(t(f)^2 (A1 + A2) + t(G - 1)^2 max(B - E, 0)),    f = (A1 + A2)^2 / ((A1^2 + A2^2) / (S - 1))

with t(f) the critical value of Student's t, f the degrees of freedom of Welch and Satterthwaite, and G the effective
number of clusters, (sum of sizes)^2 / sum of squared sizes. p is the level at which h is the difference itself, so
interval and p always agree. One or two seeds: over clusters only, and labelled as conditional on these runs.

The functions of variances take any number of leading axes, one entry per study, so that a simulation
(`bench/coverage.py`) runs the code that a report runs.

Source: W. G. Howe, Journal of the American Statistical Association 69, 1974 (the interval of a sum of two independent
parts); B. L. Welch, Biometrika 34, 1947; F. E. Satterthwaite, Biometrics Bulletin 2, 1946; E. Miller, arXiv 2411.00640
(item variance over clusters); A. V. Carter, K. T. Schnepel and D. G. Steigerwald, Review of Economics and Statistics
99, 2017 (effective number of clusters); S. Holm, Scandinavian Journal of Statistics 6, 1979.
Differs: one t with Satterthwaite's degrees of freedom for the whole variance rejects up to three times too often at the
small p that a family asks for, where there are three seeds and one side varies more; Howe's combination does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from seqpair.compare.pairing import Codes, Paired
from seqpair.compare.resampling import mcnemar_p, paired_difference, permutation_p
from seqpair.compare.values import FEWEST_SEEDS, OTHER_ITEMS_AND_SEEDS, THESE_RUNS, EffectSizes, Estimate, Floats
from seqpair.errors import EvaluationError

BY_SEEDS = "Howe's interval with Welch's degrees of freedom, over items and the seeds of each side"
MCNEMAR = "interval of Bonett and Price, McNemar's exact test, over items"
BOOTSTRAP = "paired bootstrap and permutation test, over items"
BY_JACKKNIFE = ", by jackknife pseudo-values"
WILSON = "Wilson's interval, over items"
NORMAL = "normal interval, over items"
BY_CLUSTERS = ", items in {} clusters"
_MOST_DF = 1e6
_BISECTIONS = 60
_LEAST_LOG_P = -300.0  # the square of Cauchy's quantile there is still a number
LEAST_DIFFERING = 2.0


def difference_estimate(paired: Paired, level: float = 0.95) -> Estimate:
    """Return the mean difference of two sides, first minus second.

    Raises:
        EvaluationError: There are fewer than two items.
    """
    _require_items(paired)
    extra = BY_JACKKNIFE if paired.by_jackknife else ""
    if paired.clusters is not None:
        extra += BY_CLUSTERS.format(len(np.unique(paired.clusters)))
    if len(paired.seeds) >= FEWEST_SEEDS:
        return replace(_of_parts(parts_of(paired), level), method=BY_SEEDS + extra)
    if len(paired.seeds) == 1 and paired.clusters is None and not paired.has_shared_points:
        return _right_or_wrong(paired, level)
    differences = paired.differences.mean(axis=0)
    sums, sizes = cluster_sums(differences, paired.clusters)
    # A cluster is drawn and sign-flipped as a whole: as one item whose weight is its size.
    interval = paired_difference(sums / sizes, sizes, np.zeros(len(sums)), sizes, level=level)
    return Estimate(
        value=interval.value,
        low=interval.low,
        high=interval.high,
        level=level,
        p=permutation_p(sums),
        method=BOOTSTRAP + extra,
        scope=THESE_RUNS,
        items=len(differences),
        seeds=len(paired.seeds),
        standard_error=math.sqrt(_variance_over_clusters(differences, paired.clusters)),
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
        by_seed = [np.stack([side.mean(axis=1) for side in (one.first, one.second)]) for one in paired]
        return _of_parts(average_parts([parts_of(one) for one in paired], np.stack(by_seed)), level, items)
    # Items of two tasks are independent, so variances add; seeds are not part of this interval.
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


def value_estimate(
    outcomes: Floats, *, right_or_wrong: bool, level: float = 0.95, clusters: Codes | None = None
) -> Estimate:
    """Return the mean outcome of one side, with its interval and without a test.

    Args:
        outcomes: (S, I), scaled as in `Paired`.
        right_or_wrong: Whether all are 0 or 1; the interval then stays within 0 and 1.
        level: The interval's level.
        clusters: The cluster of each item, (I,); None if each is its own.

    Raises:
        EvaluationError: There are fewer than two items.
    """
    seeds, items = outcomes.shape
    if items < 2:
        raise EvaluationError("an interval needs at least two items", seen=items, fix="evaluate on more items")
    value, error, scope = float(outcomes.mean()), None, THESE_RUNS
    if seeds >= FEWEST_SEEDS:
        parts = variance_parts(outcomes, clusters=clusters, right_or_wrong=right_or_wrong)
        half, error = float(interval_half(parts, level)), float(error_of_parts(parts))
        low, high = value - half, value + half
        method, scope = BY_SEEDS, OTHER_ITEMS_AND_SEEDS
    elif seeds == 1 and right_or_wrong and clusters is None:
        found = stats.binomtest(round(value * items), items).proportion_ci(level, method="wilson")
        low, high, method = float(found.low), float(found.high), WILSON
    else:
        error = math.sqrt(_variance_over_clusters(outcomes.mean(axis=0), clusters))
        half_width = float(stats.norm.ppf(0.5 + level / 2)) * error
        low, high, method = value - half_width, value + half_width, NORMAL
    if right_or_wrong:
        low, high = max(0.0, low), min(1.0, high)
    return Estimate(value, low, high, level, None, method, scope, items, seeds, error)


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
    items = len(paired.ids)
    found = _variance_over_clusters(paired.differences.mean(axis=0), paired.clusters)
    return max(found, LEAST_DIFFERING / (items - 1) / items) if paired.is_right_or_wrong else found


def _variance_over_clusters(values: Floats, clusters: Codes | None) -> float:
    """Return the variance of the mean of values, (I,), over the choice of clusters."""
    sums, sizes = cluster_sums(values - values.mean(), clusters)
    count = len(sizes)
    return float(count / (count - 1) * (sums**2).sum() / len(values) ** 2) if count > 1 else 0.0


def _require_items(paired: Paired) -> None:
    if len(paired.ids) < 2:
        raise EvaluationError(
            f"{paired.task.name} has too few items for an interval", seen=len(paired.ids), allowed="2 or more"
        )


def _of_parts(parts: VarianceParts, level: float, items: int | None = None) -> Estimate:
    half = interval_half(parts, level)
    return Estimate(
        value=float(parts.value),
        low=float(parts.value - half),
        high=float(parts.value + half),
        level=level,
        p=float(p_value(parts)),
        method=BY_SEEDS,
        scope=OTHER_ITEMS_AND_SEEDS,
        items=parts.item_count if items is None else items,
        seeds=parts.seed_count,
        standard_error=float(error_of_parts(parts)),
    )


def _right_or_wrong(paired: Paired, level: float) -> Estimate:
    """Return the estimate of one run each, right or wrong on every item."""
    differences = paired.differences[0]
    items = len(differences)
    only_first, only_second = int((differences > 0).sum()), int((differences < 0).sum())
    # Bonett and Price (2012): one item is added to each way of differing, which keeps the interval from collapsing
    # where hardly an item differs. The value itself stays unadjusted.
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


@dataclass(frozen=True)
class VarianceParts:
    """What the variance of a mean, or of a difference of two, is made of; see the module.

    Attributes:
        value: The mean or the difference, (...).
        seeds: A of each side, (...) each.
        items: B, (...).
        noise: E, (...).
        items_df: Degrees of freedom of B, (...).
        seed_count: S.
        item_count: I; of an average over tasks, the smallest task's.
    """

    value: Floats
    seeds: tuple[Floats, ...]
    items: Floats
    noise: Floats
    items_df: Floats
    seed_count: int
    item_count: int


def parts_of(paired: Paired) -> VarianceParts:
    """Return the parts of the variance of two sides' difference."""
    return variance_parts(
        paired.first, paired.second, clusters=paired.clusters, right_or_wrong=paired.is_right_or_wrong
    )


def cluster_sums(values: npt.ArrayLike, clusters: Codes | None) -> tuple[Floats, Floats]:
    """Return the sums of values, (..., I), over clusters, (..., C), and the clusters' sizes, (C,)."""
    v = np.asarray(values, dtype=np.float64)
    if clusters is None:
        return v, np.ones(v.shape[-1])
    order = np.argsort(clusters, kind="stable")
    _, starts, sizes = np.unique(clusters[order], return_index=True, return_counts=True)
    return np.add.reduceat(v[..., order], starts, axis=-1), sizes.astype(np.float64)


def variance_parts(
    first: npt.ArrayLike,
    second: npt.ArrayLike | None = None,
    *,
    clusters: Codes | None = None,
    right_or_wrong: bool = False,
) -> VarianceParts:
    """Split the variance of a side's mean, or of the difference of two sides' means.

    Args:
        first: (..., S, I), S >= 2.
        second: The other side's outcomes on the same items, (..., S, I); None for the mean of one side.
        clusters: The cluster of each item, (I,), two clusters at least; None if each item is its own.
        right_or_wrong: Whether outcomes are right or wrong. B is then at least that of two items that differ at every
            seed, one each way: where hardly an item differs it would be estimated too small, and as zero where none
            does.

    Raises:
        ValueError: There are fewer than two seeds, items or clusters.
    """
    sides = [np.asarray(side, dtype=np.float64) for side in (first, second) if side is not None]
    shape = sides[0].shape
    if len(shape) < 2 or min(shape[-2:]) < 2:
        raise ValueError(f"two seeds and two items at least are needed, got the shape {shape}")
    seeds, items = shape[-2:]
    variances, tables = [], []
    noise: Floats = np.zeros(shape[:-2])
    sizes = np.ones(items)
    for side in sides:
        by_seed = side.mean(axis=-1)
        # What a cluster adds to the deviation of the mean at each seed; the sums over clusters are zero.
        table, sizes = cluster_sums((side - by_seed[..., None]) / items, clusters)
        rest = table - table.mean(axis=-2, keepdims=True)
        count = len(sizes)
        if count < 2:
            raise ValueError("two clusters at least are needed")
        variances.append(by_seed.var(axis=-1, ddof=1) / seeds)
        tables.append(table)
        noise = noise + (rest**2).sum(axis=(-2, -1)) / (seeds - 1) * count / (count - 1) / seeds
    difference = (tables[0] - tables[1] if len(tables) == 2 else tables[0]).mean(axis=-2)
    of_items = count / (count - 1) * (difference**2).sum(axis=-1)
    if right_or_wrong:
        of_items = np.maximum(of_items, LEAST_DIFFERING / (items - 1) / items)
    value = sides[0].mean(axis=(-2, -1)) - (sides[1].mean(axis=(-2, -1)) if len(sides) == 2 else 0.0)
    effective = float(sizes.sum() ** 2 / (sizes**2).sum())
    return VarianceParts(
        value=np.asarray(value),
        seeds=tuple(np.asarray(one) for one in variances),
        items=np.asarray(of_items),
        noise=np.asarray(noise),
        items_df=np.full(np.shape(of_items), max(effective - 1, 1.0)),
        seed_count=seeds,
        item_count=items,
    )


def average_parts(parts: Sequence[VarianceParts], by_seed: npt.ArrayLike) -> VarianceParts:
    """Return the parts of the plain mean over tasks.

    Items of two tasks are independent; seeds are not: one model does all tasks. So the seeds' part is taken from the
    tasks' mean at each seed, and the others are added.

    Args:
        parts: Each task's, over the same seeds.
        by_seed: The mean of each task, side and seed, (T, sides, S).

    Raises:
        ValueError: There is no task, or they have different numbers of seeds.
    """
    if not parts or len({part.seed_count for part in parts}) != 1:
        raise ValueError("an average needs tasks with the same seeds")
    tasks, seeds = len(parts), parts[0].seed_count
    # One model does all tasks, so a seed's luck is shared: the tasks are averaged before seeds are compared.
    averaged = np.asarray(by_seed, dtype=np.float64).mean(axis=0)  # (sides, S)
    items = np.sum([part.items for part in parts], axis=0) / tasks**2
    uncertain = np.sum([part.items**2 / part.items_df for part in parts], axis=0) / tasks**4
    return VarianceParts(
        value=np.mean([part.value for part in parts], axis=0),
        seeds=tuple(np.asarray(side.var(ddof=1) / seeds) for side in averaged),
        items=items,
        noise=np.sum([part.noise for part in parts], axis=0) / tasks**2,
        items_df=np.divide(items**2, uncertain, out=np.full_like(items, _MOST_DF), where=uncertain > 0),
        seed_count=seeds,
        item_count=min(part.item_count for part in parts),
    )


def interval_half(parts: VarianceParts, level: float = 0.95) -> Floats:
    """Return half the width of the interval, (...)."""
    return _half_width(parts, np.asarray(1 - level))


def _half_width(parts: VarianceParts, alpha: Floats) -> Floats:
    """Return half the width of the interval at level 1 - alpha; alpha is one number or one per study."""
    of_seeds = np.sum(parts.seeds, axis=0)
    uncertain = np.sum(np.square(parts.seeds), axis=0) / (parts.seed_count - 1)
    df = np.divide(of_seeds**2, uncertain, out=np.full_like(of_seeds, parts.seed_count - 1), where=uncertain > 0)
    of_items = np.maximum(parts.items - parts.noise, 0.0)
    squares = stats.t.isf(alpha / 2, df) ** 2 * of_seeds + stats.t.isf(alpha / 2, parts.items_df) ** 2 * of_items
    return np.asarray(np.sqrt(squares))


def error_of_parts(parts: VarianceParts) -> Floats:
    """Return the standard error of the value, (...)."""
    return np.asarray(np.sqrt(np.sum(parts.seeds, axis=0) + np.maximum(parts.items - parts.noise, 0.0)))


def p_value(parts: VarianceParts) -> Floats:
    """Return the two-sided p of "it is zero", (...): below 1 - level exactly where the interval excludes zero.

    The level at which half the width is the value itself, by bisection of the logarithm of p.
    """
    size = np.abs(parts.value)
    # In log p, since small p need the same relative accuracy as large ones; the half width falls as p rises.
    low, high = np.full(size.shape, _LEAST_LOG_P), np.zeros(size.shape)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        is_too_wide = _half_width(parts, np.exp(middle)) > size
        low, high = np.where(is_too_wide, middle, low), np.where(is_too_wide, high, middle)
    return np.where(size == 0, 1.0, np.exp(high))


def holm(p_values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return p corrected for the family, so that none of them errs with more than the level's probability.

    adjusted of the k-th smallest = max over j <= k of (m - j + 1) p_j, at most 1; no independence is needed.

    Args:
        p_values: (..., m), each in [0, 1]; a family on the last axis.

    Raises:
        ValueError: A number is no probability.

    Source: S. Holm, Scandinavian Journal of Statistics 6, 1979.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim == 0 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p values between 0 and 1 were expected")
    order = np.argsort(p, axis=-1, kind="stable")
    family = p.shape[-1]
    ascending = np.take_along_axis(p, order, axis=-1) * (family - np.arange(family))
    # The smallest p is multiplied by m, the next by m - 1, ...; the running maximum keeps their order.
    adjusted = np.minimum(np.maximum.accumulate(ascending, axis=-1), 1.0)
    found = np.empty_like(p)
    np.put_along_axis(found, order, adjusted, axis=-1)
    return found


def adjust_family(estimates: Sequence[Estimate | None]) -> list[Estimate | None]:
    """Return the estimates with p adjusted for the family of those that have one; None stays where it was."""
    tested = [estimate for estimate in estimates if estimate is not None and estimate.p is not None]
    if not tested:
        return list(estimates)
    adjusted = iter(holm([estimate.p for estimate in tested if estimate.p is not None]))
    return [
        estimate if estimate is None or estimate.p is None else estimate.adjusted(float(next(adjusted)), len(tested))
        for estimate in estimates
    ]
