"""The mean difference of two members over crossed items and seeds: its interval, and a test that is valid at any level.

The model is d[s, i] = mean + seed[s] + item[i] + noise[s, i], all three random: another study would draw other seeds
and other items. With the mean squares A of seeds (S - 1 degrees of freedom), B of items and E of the rest,
(A + B - E) / (S I) estimates the variance of the mean without bias. What is hard is that A rests on two degrees of
freedom where there are three seeds.

All functions take any number of leading axes, one entry a study, so that a simulation runs the code that a report runs.

Source: F. E. Satterthwaite, Biometrics Bulletin 2, 1946; W. G. Cochran and G. M. Cox, Experimental Designs, 1957,
section 4.14 (for `crossed_p`, whose critical value combines those of the two parts as theirs does).
Differs: Satterthwaite's degrees of freedom, (S - 1) / share^2, cover 92 % with three seeds; see `crossed_interval`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from seqpair.compare.values import Floats

_LEAST_NOISE = 0.7
_SEEDS_BEYOND_NOISE = 0.5
_STEEPNESS = 3.0
_MOST_DF = 1e6
_BISECTIONS = 60
LEAST_DIFFERING = 2.0


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
    variance = np.maximum(parts.seeds, _LEAST_NOISE * parts.noise) + np.maximum(parts.items - parts.noise, 0.0)
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
    low, high = np.full(value.shape, -700.0), np.zeros(value.shape)  # natural logarithms of p
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        half = np.exp(middle) / 2
        needed = stats.t.isf(half, parts.seed_count - 1) ** 2 * seeds + stats.norm.isf(half) ** 2 * items
        too_small = needed > value**2
        low, high = np.where(too_small, middle, low), np.where(too_small, high, middle)
    return np.where(value == 0, 1.0, np.exp(high))
