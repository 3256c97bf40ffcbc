"""The difference of two members on the same items, with an interval by the percentile bootstrap.

The items of two members are the same items: one resample draws items, and takes both members'
outcomes of the drawn items. What an interval covers is the choice of items, and nothing else: not
the seed of the training run, not the tokenizer.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from seqpair.compare.values import Floats, Interval

RESAMPLES = 10_000
SEED = 2507
LEVEL = 0.95
_CHUNK_DRAWS = 4_000_000


def paired_difference(
    first_values: npt.ArrayLike,
    first_weights: npt.ArrayLike,
    second_values: npt.ArrayLike,
    second_weights: npt.ArrayLike,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Return the difference of two weighted means with its interval; row i of all four is the same item.

    A weighted mean, sum(weight * value) / sum(weight), is the form of every corpus figure: bits per byte
    with bytes as weights is the sum of bits over the sum of bytes, not the mean of the documents' ratios.
    With weights of one it is an ordinary mean.

    Args:
        first_values: The first member's outcome on the items, (n,).
        first_weights: How much each item counts, (n,), none negative, not all zero.
        second_values: The second member's outcomes, (n,).
        second_weights: Their weights, (n,).
        resamples: How often the items are drawn anew.
        level: The interval's level.

    Raises:
        ValueError: The lengths differ, there are no items, a number is not finite, or the weights are
            negative or sum to zero.
    """
    first, second = _columns(first_values, first_weights), _columns(second_values, second_weights)
    if len(first) != len(second):
        raise ValueError(f"the members have different numbers of items: {len(first)} and {len(second)}")
    columns = np.hstack([first, second])  # (n, 4)
    sums = _resampled_sums(columns, resamples)
    total = columns.sum(axis=0)
    differences = sums[:, 0] / _no_zero(sums[:, 1]) - sums[:, 2] / _no_zero(sums[:, 3])
    tail = 100.0 * (1.0 - level) / 2.0
    low, high = np.percentile(differences, [tail, 100.0 - tail])
    return Interval(float(total[0] / total[1] - total[2] / total[3]), float(low), float(high))


def _column(values: npt.ArrayLike) -> Floats:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1 or len(column) == 0:
        raise ValueError(f"one number an item was expected, got the shape {column.shape}")
    if not np.isfinite(column).all():
        raise ValueError(f"item {int(np.flatnonzero(~np.isfinite(column))[0])} has a value that is not finite")
    return column


def _columns(values: npt.ArrayLike, weights: npt.ArrayLike) -> Floats:
    """Return (n, 2): what each item adds above and below the line."""
    outcome, weight = _column(values), _column(weights)
    if len(outcome) != len(weight):
        raise ValueError(f"{len(outcome)} values and {len(weight)} weights")
    if (weight < 0).any() or weight.sum() == 0:
        raise ValueError("the weights must not be negative and must not all be zero")
    return np.stack([outcome * weight, weight], axis=1)


def _no_zero(denominators: Floats) -> Floats:
    """Guard the resamples that drew only items of weight zero; they are too rare to move a percentile."""
    return np.where(denominators > 0, denominators, np.inf)


def _resampled_sums(columns: Floats, resamples: int) -> Floats:
    """Return the column sums (resamples, c) of `resamples` draws of n rows with replacement."""
    generator = np.random.default_rng(SEED)
    rows, counts = np.unique(columns, axis=0, return_counts=True)
    if len(rows) <= len(columns) // 8:
        return _sums_by_counts(generator, rows, counts, resamples)
    return _sums_by_draws(generator, columns, resamples)


def _sums_by_counts(
    generator: np.random.Generator, rows: Floats, counts: npt.NDArray[np.int64], resamples: int
) -> Floats:
    """Resample by drawing how often each distinct row occurs; the same distribution, for few distinct rows."""
    items = int(counts.sum())
    return np.asarray(generator.multinomial(items, counts / items, size=resamples) @ rows, dtype=np.float64)


def _sums_by_draws(generator: np.random.Generator, columns: Floats, resamples: int) -> Floats:
    """Resample by drawing the rows themselves, some resamples at a time."""
    items = len(columns)
    sums = np.empty((resamples, columns.shape[1]))
    chunk = max(1, _CHUNK_DRAWS // items)
    for start in range(0, resamples, chunk):
        draws = generator.integers(0, items, size=(min(chunk, resamples - start), items))
        for axis in range(columns.shape[1]):
            sums[start : start + len(draws), axis] = columns[:, axis][draws].sum(axis=1)
    return sums
