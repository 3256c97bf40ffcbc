"""What random rankings would score, and the standard error of a rank correlation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

DEPTH = 10


def chance_of(gains: Iterable[Sequence[int]], documents: int, depth: int = DEPTH) -> dict[str, float]:
    """Return the expected scores of a uniformly random ranking, exactly, as the mean over queries.

    With N documents every rank holds a given document with probability 1/N, so the expected discounted gain is
    sum(gains) / N * sum_{r<=k} 1 / log2(r + 1), and the expected recall k / N. For the reciprocal rank the first of R
    relevant documents stands at rank r with probability C(N - r, R - 1) / C(N, R).

    Args:
        gains: For each query the gains of its relevant documents.
        documents: Documents of the corpus.
        depth: How many ranks count.

    Returns:
        The keys `ndcg`, `recall` and `mrr`.
    """
    ranks = range(1, min(depth, documents) + 1)
    discounts = [1.0 / math.log2(rank + 1) for rank in ranks]
    known: dict[tuple[int, ...], tuple[float, float]] = {}
    found = []
    for own in gains:
        best = tuple(sorted(own, reverse=True))
        if best not in known:
            ideal = math.fsum(gain * discount for gain, discount in zip(best, discounts, strict=False))
            first = math.fsum(
                math.comb(documents - rank, len(best) - 1) / math.comb(documents, len(best)) / rank for rank in ranks
            )
            known[best] = (sum(best) / documents * math.fsum(discounts) / ideal, first)
        found.append(known[best])
    n = len(found)
    return {
        "ndcg": math.fsum(ndcg for ndcg, _ in found) / n,
        "recall": len(ranks) / documents,
        "mrr": math.fsum(first for _, first in found) / n,
    }


def spearman_error(correlation: float, n: int) -> float | None:
    """Return the standard error of Spearman's correlation; `None` for fewer than four pairs.

    On Fisher's scale it is sqrt((1 + r^2 / 2) / (n - 3)); this is that times the slope of the way back, 1 - r^2.

    Source: D. G. Bonett and T. A. Wright, Psychometrika 65, 2000.
    """
    if n < 4:
        return None
    return (1.0 - correlation**2) * math.sqrt((1.0 + correlation**2 / 2.0) / (n - 3))
