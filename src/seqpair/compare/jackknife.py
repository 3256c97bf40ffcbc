"""Statistics with each item left out in turn, and the pseudo-values that they give.

Every function returns the statistic of all n items and, (n,), that of the n - 1 others; what is undefined, such as a
correlation with a constant, is not a number (NaN), never 0.

Source: J. W. Tukey, Annals of Mathematical Statistics 29, 1958, p. 614 (pseudo-values).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import stats

from seqpair.compare.values import Floats

_CHUNK_PAIRS = 4_000_000


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
    first, second = _columns(x, y)
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
    first, second = _columns(x, y)
    n = len(first)
    a, b = first - first.mean(), second - second.mean()
    sums = [np.append(total, total - n / (n - 1) * own) for own, total in ((a * a, a @ a), (b * b, b @ b))]
    product = np.append(a @ b, a @ b - n / (n - 1) * a * b)
    flat = _is_constant(first) | _is_constant(second)
    squares = np.where(flat, 0.0, np.maximum(sums[0], 0.0) * np.maximum(sums[1], 0.0))
    found = np.divide(product, np.sqrt(squares), out=np.full(n + 1, math.nan), where=squares > 0)
    return float(found[0]), found[1:]


def _is_constant(x: Floats) -> npt.NDArray[np.bool_]:
    """Return whether all values are equal, and whether they are without each item, (1 + n,)."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
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
    numerator, denominator = _columns(above, below)
    tops = np.append(numerator.sum(), numerator.sum() - numerator)
    bottoms = np.append(denominator.sum(), denominator.sum() - denominator)
    found = np.divide(tops, bottoms, out=np.full(len(tops), math.nan), where=bottoms > 0)
    return float(found[0]), found[1:]


def _columns(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats]:
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or len(first) < 3:
        raise ValueError(f"two columns of three items or more were expected, got {first.shape} and {second.shape}")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("a number is not finite")
    return first, second
