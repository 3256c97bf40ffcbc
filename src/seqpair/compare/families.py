"""Many tests at once: Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from seqpair.compare.values import Estimate


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
