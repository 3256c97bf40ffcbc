"""Tests of two members' outcomes on the same items: McNemar's and the permutation test.

What they say is conditional on the runs that were made.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

PERMUTATIONS = 10_000
SEED = 2507
_ENUMERATED = 14
_CHUNK_SIGNS = 4_000_000


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
        raise ValueError(f"one number an item was expected, got the shape {d.shape}")
    if not np.isfinite(d).all():
        raise ValueError(f"item {int(np.flatnonzero(~np.isfinite(d))[0])} has a value that is not finite")
    sizes = np.abs(d[d != 0])
    if len(sizes) == 0:
        return 1.0
    seen = abs(d.sum()) * (1 - 1e-12)
    if len(sizes) <= _ENUMERATED:
        bits = np.arange(2 ** len(sizes))[:, None] >> np.arange(len(sizes)) & 1
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
        octets = generator.integers(0, 256, (drawn, -(-len(sizes) // 8)), dtype=np.uint8)
        bits = np.unpackbits(octets, axis=1, count=len(sizes))
        sums[start : start + drawn] = 2.0 * (bits @ sizes) - sizes.sum()
    return sums
