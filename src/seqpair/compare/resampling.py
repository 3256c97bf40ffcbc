"""What the items of one comparison say by themselves: bootstrap, permutation and McNemar's tests, and the jackknife.

An interval or a p from here covers the choice of items and nothing else: not the seed of the training run, not the
tokenizer. `compare.estimates` says when it is used and labels it as conditional on the runs that were made.

Source: J. W. Tukey, Annals of Mathematical Statistics 29, 1958, p. 614 (pseudo-values).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import stats

from seqpair.compare.values import Floats, Interval

RESAMPLES = 10_000
PERMUTATIONS = 10_000
SEED = 2507
LEVEL = 0.95
_CHUNK_DRAWS = 4_000_000
_CHUNK_SIGNS = 4_000_000
_CHUNK_PAIRS = 4_000_000
_ENUMERATED = 14


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
        raise ValueError(f"one number per item was expected, got the shape {column.shape}")
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
    # Right and wrong answers have few distinct rows: how often each is drawn is multinomial, which needs one small
    # draw per resample in place of n.
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


def mcnemar_p(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p of McNemar's test.

    Under the null each item that one member alone had right is the first's or the second's with probability 1/2.

    Args:
        only_first: Items that only the first had right.
        only_second: Items that only the second had right.

    Raises:
        ValueError: A count is negative.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts of items were expected, got {only_first} and {only_second}")
    differing = only_first + only_second
    # Items that both had right, or both wrong, say nothing of which is better.
    return 1.0 if differing == 0 else float(stats.binomtest(only_first, differing, 0.5).pvalue)


def permutation_p(differences: npt.ArrayLike, *, permutations: int = PERMUTATIONS) -> float:
    """Return the two-sided p of the permutation test: the sign of each item's difference is a coin's.

    All 2^n signs are taken where at most 14 items differ; else `permutations` random ones with a fixed seed, and p is
    (1 + as large or larger) / (1 + permutations), which errs at most p of the time. Items that tie change nothing.

    Args:
        differences: First minus second, one an item, (n,).
        permutations: How many random sign vectors.

    Raises:
        ValueError: There are no items or a number is not finite.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or len(d) == 0:
        raise ValueError(f"one number per item was expected, got the shape {d.shape}")
    if not np.isfinite(d).all():
        raise ValueError(f"item {int(np.flatnonzero(~np.isfinite(d))[0])} has a value that is not finite")
    sizes = np.abs(d[d != 0])
    if len(sizes) == 0:
        return 1.0
    # Sums in another order round differently; without this slack the observed signs might not count themselves.
    seen = abs(d.sum()) * (1 - 1e-12)
    if len(sizes) <= _ENUMERATED:
        bits = np.arange(2 ** len(sizes))[:, None] >> np.arange(len(sizes)) & 1  # row k is k in binary
        return float((np.abs((2.0 * bits - 1) @ sizes) >= seen).mean())
    sums = _random_sums(sizes, permutations)
    return float((1 + (np.abs(sums) >= seen).sum()) / (1 + permutations))


def _random_sums(sizes: npt.NDArray[np.float64], permutations: int) -> npt.NDArray[np.float64]:
    """Return sums of `sizes` with random signs; few distinct sizes are drawn by how many of each are positive."""
    generator = np.random.default_rng(SEED)
    distinct, counts = np.unique(sizes, return_counts=True)
    if len(distinct) <= len(sizes) // 8:
        positive = generator.binomial(counts, 0.5, size=(permutations, len(counts)))
        return np.asarray((2.0 * positive - counts) @ distinct)
    sums = np.empty(permutations)
    chunk = max(1, _CHUNK_SIGNS // len(sizes))
    for start in range(0, permutations, chunk):
        drawn = min(chunk, permutations - start)
        # Eight signs per random byte; sum(sign * size) = 2 * sum(bit * size) - sum(size).
        octets = generator.integers(0, 256, (drawn, -(-len(sizes) // 8)), dtype=np.uint8)
        bits = np.unpackbits(octets, axis=1, count=len(sizes))
        sums[start : start + drawn] = 2.0 * (bits @ sizes) - sizes.sum()
    return sums


def pseudo_values(whole: float, without: npt.ArrayLike) -> Floats:
    """Return n whole - (n - 1) without[i], (n,): what each item adds, with a mean that is free of the first bias.

    They enter an analysis of variance as outcomes of items do. Their mean differs from `whole` by the order of 1 / n.

    Args:
        whole: The statistic of all items.
        without: The statistic without each item, (n,).
    """
    others = np.asarray(without, dtype=np.float64)
    n = len(others)
    return np.asarray(n * whole - (n - 1) * others)


def spearman_without_each(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[float, Floats]:
    """Return Spearman's correlation and that without each item, ranked anew, ties at their mean rank.

    Without item i the rank of item j falls by 1 if x[j] > x[i], by a half if they tie. All ranks are whole or half
    numbers, so no rounding hides a constant. Time grows with n^2, memory does not.
    """
    first, second = _two_columns(x, y)
    n = len(first)
    ranks = [stats.rankdata(first), stats.rankdata(second)]
    whole = _correlation(n, *(rank[None, :] for rank in ranks))[0]
    without = np.empty(n)
    rows = max(1, _CHUNK_PAIRS // n)
    for start in range(0, n, rows):
        places = np.arange(start, min(start + rows, n))
        lowered = [_ranks_without(rank, places) for rank in ranks]
        without[places] = _correlation(n - 1, *lowered)
    return float(whole), without


def _ranks_without(ranks: Floats, places: npt.NDArray[np.int64]) -> Floats:
    """Return each row's ranks without one item, (rows, n); the item's own is the middle, so it adds nothing."""
    own = ranks[places][:, None]
    lowered = ranks[None, :] - ((ranks > own) + 0.5 * (ranks == own))
    # The middle of the ranks 1 to n - 1, about which `_correlation` takes deviations.
    lowered[np.arange(len(places)), places] = len(ranks) / 2
    return np.asarray(lowered)


def _correlation(n: int, first: Floats, second: Floats) -> Floats:
    """Return the correlation of each row's ranks 1 to n about their middle."""
    a, b = first - (n + 1) / 2, second - (n + 1) / 2
    squares = np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b)
    product = np.einsum("ij,ij->i", a, b)
    found = np.divide(product, np.sqrt(squares), out=np.full(len(a), math.nan), where=squares > 0)
    return np.asarray(found)


def pearson_without_each(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[float, Floats]:
    """Return Pearson's correlation and that without each item.

    With deviations from the means of all, a sum of products falls by n / (n - 1) of the item's own product.
    """
    first, second = _two_columns(x, y)
    n = len(first)
    a, b = first - first.mean(), second - second.mean()
    # Without item i the mean moves too: a sum of squared deviations falls by n / (n - 1) times the item's own.
    sums = [np.append(total, total - n / (n - 1) * own) for own, total in ((a * a, a @ a), (b * b, b @ b))]
    product = np.append(a @ b, a @ b - n / (n - 1) * a * b)
    # A constant column has no correlation, but its rounded sum of squares may be a little above zero: decided exactly.
    flat = _is_constant(first) | _is_constant(second)
    squares = np.where(flat, 0.0, np.maximum(sums[0], 0.0) * np.maximum(sums[1], 0.0))
    found = np.divide(product, np.sqrt(squares), out=np.full(n + 1, math.nan), where=squares > 0)
    return float(found[0]), found[1:]


def _is_constant(x: Floats) -> npt.NDArray[np.bool_]:
    """Return whether all values are equal, and whether they are without each item, (1 + n,)."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    # Taking an item out removes a distinct value only where it is the only item that has it.
    left = len(counts) - (counts[inverse] == 1)
    return np.append(len(counts) == 1, left == 1)


def classes_without_each(
    gold: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], classes: int, measure: Callable[[Floats], float]
) -> tuple[float, Floats]:
    """Return a measure of confusion counts and that without each item; items of one cell share theirs.

    Args:
        gold: Each item's class, (n,).
        predicted: Each item's predicted class, (n,).
        classes: How many classes there are.
        measure: Counts (classes, classes), gold by predicted, to the measure.
    """
    # Items of one cell of the confusion matrix are interchangeable, so the measure is computed once per cell.
    cells, inverse = np.unique(gold * classes + predicted, return_inverse=True)
    counts = np.bincount(gold * classes + predicted, minlength=classes**2).astype(np.float64)
    of_cells = np.empty(len(cells))
    for index, cell in enumerate(cells):
        fewer = counts.copy()
        fewer[cell] -= 1
        of_cells[index] = measure(fewer.reshape(classes, classes))
    return float(measure(counts.reshape(classes, classes))), of_cells[inverse]


def ratio_without_each(above: npt.ArrayLike, below: npt.ArrayLike) -> tuple[float, Floats]:
    """Return sum(above) / sum(below) and that without each item."""
    numerator, denominator = _two_columns(above, below)
    tops = np.append(numerator.sum(), numerator.sum() - numerator)
    bottoms = np.append(denominator.sum(), denominator.sum() - denominator)
    found = np.divide(tops, bottoms, out=np.full(len(tops), math.nan), where=bottoms > 0)
    return float(found[0]), found[1:]


def _two_columns(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats]:
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or len(first) < 3:
        raise ValueError(f"two columns of three items or more were expected, got {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("a number is not finite")
    return first, second
