"""Where two sides disagree, item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seqpair.compare.findings import Disagreement
from seqpair.compare.pairing import Paired
from seqpair.compare.values import Scores


def disagreements(
    paired: Paired,
    first: Sequence[Scores] = (),
    second: Sequence[Scores] = (),
    *,
    texts: Mapping[str, Mapping[str, Any]] | None = None,
    most: int | None = None,
) -> list[Disagreement]:
    """Return the items on which two sides differ: those first on which they differ most, at most seeds.

    Both sides have their turn: the largest differences of each alternate, so that a side that is ahead on most items
    does not hide those on which it is behind. Items that tie at every seed are left out.

    Args:
        paired: The two sides.
        first: The first side's scores, for what was kept of each item; that of the lowest seed is shown.
        second: The second side's.
        texts: By the item's name: its texts, the same for both sides.
        most: Most items; None gives all.
    """
    if paired.task.higher_is_better:
        leads = paired.raw_first - paired.raw_second
    else:
        leads = paired.raw_second - paired.raw_first
    for_first, for_second = (leads > 0).sum(axis=0), (leads < 0).sum(axis=0)
    mean = leads.mean(axis=0)
    order = np.lexsort((np.arange(len(mean)), -np.abs(for_first - for_second), -np.abs(mean)))
    rows = [int(index) for index in order if for_first[index] or for_second[index]]
    ahead, behind = [row for row in rows if mean[row] > 0], [row for row in rows if mean[row] <= 0]
    turns = [row for pair in zip(ahead, behind, strict=False) for row in pair]
    shared = len(turns) // 2
    turns += ahead[shared:] + behind[shared:]
    details = {name: _details(side, paired) for name, side in (("first", first), ("second", second))}
    found = []
    for row in turns[:most]:
        name = paired.ids[row]
        detail = {side: kept[name] for side, kept in details.items() if name in kept}
        if texts is not None and name in texts:
            detail["item"] = texts[name]
        found.append(
            Disagreement(
                id=name,
                first=float(paired.raw_first[:, row].mean()),
                second=float(paired.raw_second[:, row].mean()),
                seeds_for_first=int(for_first[row]),
                seeds_for_second=int(for_second[row]),
                weight=float(paired.weights[row]),
                detail=detail,
            )
        )
    return found


def _details(side: Sequence[Scores], paired: Paired) -> Mapping[str, Mapping[str, Any]]:
    used = sorted((one for one in side if one.model.seed in paired.seeds), key=lambda one: one.model.seed)
    return used[0].details if used else {}
