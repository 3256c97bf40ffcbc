"""Two sides brought together, the same items in the same order, seed by seed, and the items on which they disagree.

Every refusal is an `EvaluationError` that says what differs and what to do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpair.compare.values import Floats, Scores, Task
from seqpair.errors import EvaluationError

Codes = npt.NDArray[np.int64]
"""The cluster of each item, (I,): equal numbers belong together."""

ACROSS_SIZES = ("shape", "optimizer")
"""The parts of a pair's identity that two sizes may differ in: their shape, and the rate that suits it."""
_LEAST_WHOLE_FRAC = 0.9
LAST_SETTING = "last_checkpoints"
"""The setting of scores that are means over so many checkpoints."""
_SHARED_SETTINGS = ("limit", "seeds", LAST_SETTING)
"""Settings that must be equal for both sides; how an encoder reads a continuation is its own."""


@dataclass(frozen=True, eq=False)
class Paired:
    """Two sides on the same items and seeds.

    Attributes:
        task: The task.
        seeds: The seeds that both have, ascending, S of them.
        ids: The items' names, I of them, ascending.
        first, second: Outcomes, (S, I), scaled so that their plain mean over items is the task's value.
        raw_first, raw_second: Outcomes as they were written, (S, I).
        weights: How much each item counts, (I,): the first side's, at its first seed.
        differs_in: The parts of the pairs' identity that were allowed to differ and do.
        left_out_seeds: Seeds that only one side has.
        by_jackknife: Whether outcomes are jackknife pseudo-values.
        clusters: The cluster of each item, (I,); None if each is its own.
        one_run: The label of a model from elsewhere, of which one run stands against every seed of the other side.
    """

    task: Task
    seeds: tuple[int, ...]
    ids: tuple[str, ...]
    first: Floats
    second: Floats
    raw_first: Floats
    raw_second: Floats
    weights: Floats
    differs_in: tuple[str, ...] = ()
    left_out_seeds: tuple[int, ...] = ()
    by_jackknife: bool = False
    clusters: Codes | None = None
    one_run: str = ""

    @property
    def differences(self) -> Floats:
        """Return first minus second, (S, I)."""
        return self.first - self.second

    @property
    def is_right_or_wrong(self) -> bool:
        """Return whether outcomes are points for right answers, a few of them shared by answers that tie."""
        return not self.by_jackknife and _right_or_wrong(np.concatenate([self.first, self.second]))

    @property
    def has_shared_points(self) -> bool:
        """Return whether an outcome is neither 0 nor 1, so that McNemar's counts do not exist."""
        if self.by_jackknife:
            return True
        outcomes = np.concatenate([self.first, self.second])
        return bool(((outcomes != 0) & (outcomes != 1)).any())


@dataclass(frozen=True)
class Disagreement:
    """One item on which two sides differ.

    Attributes:
        id: The item's name.
        first, second: Their outcomes, averaged over seeds.
        seeds_for_first, seeds_for_second: At how many seeds the first or the second was better.
        weight: How much the item counts.
        detail: The texts and predictions that were kept of the item, by side: `first`, `second`.
    """

    id: str
    first: float
    second: float
    seeds_for_first: int
    seeds_for_second: int
    weight: float
    detail: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def difference(self) -> float:
        """Return first minus second."""
        return self.first - self.second


def pair_sides(
    first: Sequence[Scores], second: Sequence[Scores], *, may_differ: Collection[str] = (), unpaired: bool = False
) -> Paired:
    """Bring two sides together, each one member's scores on one task at one seed or several.

    Args:
        first: The first side.
        second: The second side.
        may_differ: Parts of the pairs' identity in which they may differ, such as `ACROSS_SIZES`.
        unpaired: Compare them whatever differs, and models without an identity too.

    Raises:
        EvaluationError: A side is empty or has one seed twice; the tasks, their versions or shared settings differ;
            the items differ, repeat or have values that are not finite; no seed is on both sides; or the sides are no
            pair and nobody said that they need not be.
    """
    firsts, seconds = _by_seed(first, "first"), _by_seed(second, "second")
    one_run = ""
    if firsts.keys() != seconds.keys():
        firsts, seconds, one_run = _facing(firsts, seconds)
    task = _one_task([*firsts.values(), *seconds.values()])
    differs_in = _identities([*firsts.values()], [*seconds.values()], may_differ, unpaired)
    seeds = sorted(set(firsts) & set(seconds))
    if not seeds:
        raise EvaluationError(
            "the two sides have no seed in common",
            seen=f"seeds {_listed(firsts)} and {_listed(seconds)}",
            fix="train both members at the same seeds",
        )
    # One order of items for both sides and all seeds: whatever order a file has, row i is the same item.
    ids = tuple(sorted(firsts[seeds[0]].ids))
    columns = [[_columns(side[seed], ids) for seed in seeds] for side in (firsts, seconds)]
    raw_first, raw_second = (np.stack([values for values, _ in side]) for side in columns)
    scaled = [np.stack([_scaled(values, weights) for values, weights in side]) for side in columns]
    return Paired(
        task=task,
        seeds=tuple(seeds),
        ids=ids,
        first=scaled[0],
        second=scaled[1],
        raw_first=raw_first,
        raw_second=raw_second,
        weights=columns[0][0][1],
        differs_in=differs_in,
        left_out_seeds=tuple(sorted(set(firsts) ^ set(seconds))),
        by_jackknife=any(scores.by_jackknife for scores in [*firsts.values(), *seconds.values()]),
        clusters=cluster_codes([*firsts.values(), *seconds.values()], ids),
        one_run=one_run,
    )


def _facing(firsts: dict[int, Scores], seconds: dict[int, Scores]) -> tuple[dict[int, Scores], dict[int, Scores], str]:
    """Return both sides at equal seeds where one is the one run of a model from elsewhere, and that model's label.

    Its outcomes stand against every run of the other side: constant over seeds, they add nothing to the seeds'
    variance, and what they add to the items' is counted.
    """
    for own, other in ((firsts, seconds), (seconds, firsts)):
        (only, *more) = own.values()
        if only.model.is_elsewhere and not more:
            spread = dict.fromkeys(other, only)
            return (spread, other, only.model.label) if own is firsts else (other, spread, only.model.label)
    return firsts, seconds, ""


def cluster_codes(side: Sequence[Scores], ids: tuple[str, ...]) -> Codes | None:
    """Return the cluster of each item, (I,), as the first result that names clusters has it; None if none does.

    An item that its result gives no cluster is a cluster of its own. One cluster for all items is none: nothing could
    be said of others like it.
    """
    named = next((scores.clusters for scores in side if scores.clusters), None)
    if named is None:
        return None
    names = [named.get(name) or f"\0{name}" for name in ids]
    distinct, codes = np.unique(names, return_inverse=True)
    return codes.astype(np.int64) if 1 < len(distinct) < len(ids) else None


def outcome_table(side: Sequence[Scores]) -> tuple[Floats, bool]:
    """Return one side's outcomes, (S, I), scaled as in `Paired`, and whether they are points for right answers.

    Raises:
        EvaluationError: As for `pair_sides`, as far as it concerns one side.
    """
    seeds = _by_seed(side, "only")
    _one_task(list(seeds.values()))
    # Sorting changes the order of a floating-point sum; a single seed keeps its own, and so its value to the bit.
    only = len(seeds) == 1
    ids = seeds[min(seeds)].ids if only else tuple(sorted(seeds[min(seeds)].ids))
    rows = []
    for _, scores in sorted(seeds.items()):
        values, weights = _columns(scores, ids)
        rows.append(_scaled(values, weights))
    table = np.stack(rows)
    return table, _right_or_wrong(table) and not any(scores.by_jackknife for scores in side)


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
    # lexsort takes its last key first: the mean difference, then how many seeds agree, then the items' own order.
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
    used = sorted(side, key=lambda one: (one.model.seed not in paired.seeds, one.model.seed))
    return used[0].details if used else {}


def _right_or_wrong(outcomes: Floats) -> bool:
    whole = (outcomes == 0) | (outcomes == 1)
    return bool(((outcomes >= 0) & (outcomes <= 1)).all() and whole.mean() >= _LEAST_WHOLE_FRAC)


def _by_seed(side: Sequence[Scores], name: str) -> dict[int, Scores]:
    if not side:
        raise EvaluationError(f"the {name} side has no results", fix="evaluate it first")
    labels = {(scores.model.label, scores.model.checkpoint) for scores in side}
    if len(labels) != 1:
        raise EvaluationError(
            f"the {name} side mixes models",
            seen=", ".join(sorted(" ".join(label).strip() for label in labels)),
            fix="give one model's results on each side",
        )
    found = {scores.model.seed: scores for scores in side}
    if len(found) != len(side):
        raise EvaluationError(
            f"the {name} side has two results of one seed",
            seen=f"seeds {', '.join(str(scores.model.seed) for scores in side)}",
            fix="give one result per seed",
        )
    return found


def _one_task(scores: Sequence[Scores]) -> Task:
    task = scores[0].task
    for other in (one.task for one in scores[1:]):
        if (other.name, other.version, other.metric) != (task.name, task.version, task.metric):
            raise EvaluationError(
                "two different tasks cannot be compared",
                seen=f"{task.name} version {task.version} and {other.name} version {other.version}",
                fix="evaluate both sides with this version of the package",
            )
        wrong = [key for key in _SHARED_SETTINGS if task.settings.get(key) != other.settings.get(key)]
        if wrong:
            raise EvaluationError(
                f"the sides were evaluated with different settings of {task.name}",
                seen="; ".join(f"{key} {task.settings.get(key)} and {other.settings.get(key)}" for key in wrong),
                fix="evaluate both with the same settings",
            )
    return task


def _identities(
    first: Sequence[Scores], second: Sequence[Scores], may_differ: Collection[str], unpaired: bool
) -> tuple[str, ...]:
    """Return the parts that differ and may."""
    reference = first[0].model.identity
    found: list[str] = []
    for scores in [*first, *second]:
        identity = scores.model.identity
        if identity is None or reference is None:
            found.append("everything: one of them was not trained here")
        else:
            found += reference.differing(identity)
    differing = list(dict.fromkeys(found))
    wrong = [part for part in differing if part not in may_differ]
    if wrong and not unpaired:
        raise EvaluationError(
            f"{first[0].model.label} and {second[0].model.label} are not a pair: more than the objective differs",
            seen=_listed(wrong),
            allowed=f"differences in {_listed(may_differ)}" if may_differ else "what the objectives table declares",
            fix="compare members of one recipe at equal seeds, or ask for an unpaired comparison",
        )
    return tuple(differing)


def _columns(scores: Scores, ids: tuple[str, ...]) -> tuple[Floats, Floats]:
    """Return values and weights in the order of `ids`, (I,) each."""
    who = f"{scores.model.label}, seed {scores.model.seed}, on {scores.task.name}"
    values, weights = np.asarray(scores.values, np.float64), np.asarray(scores.weights, np.float64)
    if len(scores.ids) == 0:
        raise EvaluationError(f"there are no items of the {who}", fix="evaluate it again")
    if not len(scores.ids) == len(values) == len(weights):
        raise EvaluationError(
            f"names, values and weights of the {who} differ in number",
            seen=f"{len(scores.ids)}, {len(values)}, {len(weights)}",
            fix="give one name, one value and one weight for each item",
        )
    if len(set(scores.ids)) != len(scores.ids):
        raise EvaluationError(f"two items of the {who} have one name", fix="give each item a name of its own")
    if not (np.isfinite(values).all() and np.isfinite(weights).all()):
        raise EvaluationError(f"an item of the {who} has a value that is not finite", fix="evaluate it again")
    if (weights < 0).any() or weights.sum() == 0:
        raise EvaluationError(
            f"the weights of the {who} are negative or all zero",
            fix="give weights of zero or more, with one above zero",
        )
    if set(ids) != set(scores.ids):
        differing = sorted(set(ids) ^ set(scores.ids))
        raise EvaluationError(
            f"the sides were not evaluated on the same items of {scores.task.name}",
            seen=f"{len(differing)} items are on one side only, such as {differing[0]}",
            fix="evaluate both with the same data and limit",
        )
    if scores.ids == ids:
        return values, weights
    order = sorted(range(len(scores.ids)), key=scores.ids.__getitem__)
    return values[order], weights[order]


def _scaled(values: Floats, weights: Floats) -> Floats:
    """Return outcomes whose plain mean is the weighted mean: mean + weight (value - mean) / mean weight.

    They are the influence of each item on a ratio of sums, so a variance over them is the ratio's own.
    """
    if (weights == weights[0]).all():
        return values  # to the bit: no rounding enters where nothing is weighted
    mean = float(np.average(values, weights=weights))
    return np.asarray(mean + weights / weights.mean() * (values - mean))


def _listed(parts: Collection[object]) -> str:
    return ", ".join(str(part) for part in parts)
