"""From two sides' outcomes to an estimate: which method is used when, and the method for three seeds and more.

Three seeds and more are crossed with the items. The model is d[s, i] = mean + seed[s] + item[i] + noise[s, i], all
three random: another study would have other seeds and other items. With the mean squares A of seeds (S - 1 degrees of
freedom), B of items and E of the rest, (A + B - E) / (S I) estimates the variance of the mean without bias. The
difficulty is that A rests on two degrees of freedom where there are three seeds. One or two seeds: over items only, and
labelled as conditional on these runs.

The functions of the crossed model take any number of leading axes, one entry per study, so that a simulation
(`bench/coverage.py`) runs the code that a report runs.

Source: F. E. Satterthwaite, Biometrics Bulletin 2, 1946; W. G. Cochran and G. M. Cox, Experimental Designs, 1957,
section 4.14 (for `crossed_p`, whose critical value combines those of the two parts as theirs does); S. Holm,
Scandinavian Journal of Statistics 6, 1979.
Differs: Satterthwaite's degrees of freedom, (S - 1) / share^2, cover 92 % with three seeds; see `crossed_interval`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import stats

from seqpair.compare.pairing import Paired
from seqpair.compare.resampling import mcnemar_p, paired_difference, permutation_p
from seqpair.compare.values import FEWEST_SEEDS, OTHER_ITEMS_AND_SEEDS, THESE_RUNS, EffectSizes, Estimate, Floats
from seqpair.errors import EvaluationError

CROSSED = "crossed random effects of items and seeds"
MCNEMAR = "interval of Bonett and Price, McNemar's exact test, over items"
BOOTSTRAP = "paired bootstrap and permutation test, over items"
BY_JACKKNIFE = ", by jackknife pseudo-values"
WILSON = "Wilson's interval, over items"
NORMAL = "normal interval, over items"
_LEAST_NOISE = 0.7
_SEEDS_BEYOND_NOISE = 0.5
_STEEPNESS = 3.0
_MOST_DF = 1e6
_BISECTIONS = 60
LEAST_DIFFERING = 2.0


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
    # The outcomes are scaled already, so a paired bootstrap of two means is one of their differences against zeros.
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
    # Items of two tasks are independent, so variances add; seeds are not part of this interval.
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
class CrossedParts:
    """What the variance of a mean is made of; each part already divided by S I.

    Attributes:
        value: The mean difference, (...).
        seeds, items, noise: A / (S I), B / (S I), E / (S I), (...) each.
        seed_count: S.
        item_count: I; of an average over tasks, the smallest task's.
    """

    value: Floats
    seeds: Floats
    items: Floats
    noise: Floats
    seed_count: int
    item_count: int


def crossed_parts(differences: npt.ArrayLike, *, right_or_wrong: bool = False) -> CrossedParts:
    """Split the variance of the mean of d[s, i].

    Args:
        differences: (..., S, I), S >= 2 and I >= 2.
        right_or_wrong: Whether outcomes are right or wrong. The sum of squares of items is then at least that of two
            items that differ at every seed, one each way: where hardly an item differs the variance would be estimated
            too small, and as zero where none does.

    Raises:
        ValueError: There are fewer than two seeds or items.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim < 2 or d.shape[-1] < 2 or d.shape[-2] < 2:
        raise ValueError(f"two seeds and two items at least are needed, got the shape {d.shape}")
    seeds, items = d.shape[-2:]
    by_seed, by_item = d.mean(axis=-1), d.mean(axis=-2)
    mean = by_seed.mean(axis=-1)
    seed_squares = items * ((by_seed - mean[..., None]) ** 2).sum(axis=-1)
    item_squares = seeds * ((by_item - mean[..., None]) ** 2).sum(axis=-1)
    all_squares = np.einsum("...si,...si->...", d, d) - seeds * items * mean**2
    # The three sums of squares add up to the total; where nothing is left, rounding can make the rest negative.
    noise_squares = np.maximum(all_squares - seed_squares - item_squares, 0.0)
    if right_or_wrong:
        item_squares = np.maximum(item_squares, seeds * LEAST_DIFFERING)
    size = seeds * items
    return CrossedParts(
        value=np.asarray(mean),
        seeds=np.asarray(seed_squares / (seeds - 1) / size),
        items=np.asarray(item_squares / (items - 1) / size),
        noise=np.asarray(noise_squares / ((seeds - 1) * (items - 1)) / size),
        seed_count=seeds,
        item_count=items,
    )


def average_parts(parts: Sequence[CrossedParts], by_seed: npt.ArrayLike) -> CrossedParts:
    """Return the parts of the plain mean over tasks.

    Items of two tasks are independent; seeds are not: one model does all tasks. So the seeds' part is taken from the
    tasks' mean at each seed, and the others are added.

    Args:
        parts: Each task's, over the same seeds.
        by_seed: The mean difference of each task at each seed, (T, ..., S).

    Raises:
        ValueError: There is no task, or they have different numbers of seeds.
    """
    if not parts or len({part.seed_count for part in parts}) != 1:
        raise ValueError("an average needs tasks with the same seeds")
    tasks, seeds = len(parts), parts[0].seed_count
    # One model does all tasks, so a seed's luck is shared: the tasks are averaged before seeds are compared.
    averaged = np.asarray(by_seed, dtype=np.float64).mean(axis=0)
    noise = np.sum([part.noise for part in parts], axis=0) / tasks**2
    return CrossedParts(
        value=averaged.mean(axis=-1),
        seeds=averaged.var(axis=-1, ddof=1) / seeds,
        items=np.sum([part.items for part in parts], axis=0) / tasks**2,
        noise=noise,
        seed_count=seeds,
        item_count=min(part.item_count for part in parts),
    )


def crossed_interval(parts: CrossedParts, level: float = 0.95) -> tuple[Floats, Floats, Floats]:
    """Return half the interval's width, the standard error and the degrees of freedom, (...) each.

    variance = max(A, 0.7 E) + B - E, and 1 / df = share / (S - 1) + (B / variance)^2 / (I - 1), where
    share = min(A, 3 max(A - E / 2, 0)) / variance is what of it is laid to the seeds. By quadrature for normal data
    this covers 93.3 to 96.6 % at any ratio of the seeds' variance to the items', any share of noise, and any number
    of seeds from three (`bench/coverage.py`); with share^2, Satterthwaite's own, 92.2 to 98.2 %.
    """
    variance, share = _variance_and_share(parts)
    items_share = np.divide(parts.items, variance, out=np.ones_like(variance), where=variance > 0)
    inverse = share / (parts.seed_count - 1) + items_share**2 / (parts.item_count - 1)
    df = 1.0 / np.maximum(inverse, 1.0 / _MOST_DF)
    error = np.sqrt(variance)
    return stats.t.ppf(0.5 + level / 2, df) * error, error, df


def _variance_and_share(parts: CrossedParts) -> tuple[Floats, Floats]:
    # With three seeds A is a chi-square of two degrees of freedom: it often comes out far below the noise E that it
    # contains, and an interval of that width would be too narrow. So A counts for at least 0.7 E.
    variance = np.maximum(parts.seeds, _LEAST_NOISE * parts.noise) + np.maximum(parts.items - parts.noise, 0.0)
    # Only what goes beyond noise is the seeds' own and has their few degrees of freedom. The slope of 3 turns the
    # correction on gradually, so that A near E does not jump between many degrees of freedom and S - 1.
    beyond = _STEEPNESS * np.maximum(parts.seeds - _SEEDS_BEYOND_NOISE * parts.noise, 0.0)
    laid_to_seeds = np.minimum(parts.seeds, beyond)
    share = np.divide(laid_to_seeds, variance, out=np.zeros_like(variance), where=variance > 0)
    return variance, np.minimum(share, 1.0)


def crossed_p(parts: CrossedParts) -> Floats:
    """Return the two-sided p of "the mean difference is zero", (...), valid at every level.

    It is the p at which value^2 = t^2 A + z^2 max(B - E, 0), with t and z the critical values for S - 1 and for many
    degrees of freedom. For normal data it errs at most p of the time, at any ratio and any level, which the
    interval's own t does not where a family of tasks asks for small p: at 0.5 % it would err up to six times too
    often with three seeds. The price is that the interval can exclude zero where p is a little above 0.05.
    """
    value, seeds = np.abs(parts.value), parts.seeds
    items = np.maximum(parts.items - parts.noise, 0.0)
    # Bisection in log p: the critical value falls as p rises, and small p need the same relative accuracy as large.
    # exp(-700) is close to the smallest double.
    low, high = np.full(value.shape, -700.0), np.zeros(value.shape)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        half = np.exp(middle) / 2
        needed = stats.t.isf(half, parts.seed_count - 1) ** 2 * seeds + stats.norm.isf(half) ** 2 * items
        too_small = needed > value**2
        low, high = np.where(too_small, middle, low), np.where(too_small, high, middle)
    return np.where(value == 0, 1.0, np.exp(high))


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
    # The smallest p is multiplied by m, the next by m - 1, ...; the running maximum keeps their order.
    ascending = np.take_along_axis(p, order, axis=-1) * (family - np.arange(family))
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
