"""What a study can see: the smallest true difference that its items and seeds show with a given power.

It is the power of the test that the comparison uses (`estimates.p_value`), found by quadrature over what the variance
of the seeds may come out as.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from seqpair.compare.estimates import variance_parts
from seqpair.compare.values import FEWEST_SEEDS, OTHER_ITEMS_AND_SEEDS, THESE_RUNS
from seqpair.errors import EvaluationError

POWER = 0.80
ROUND_NUMBERS = tuple(int(first * 10**power) for power in range(1, 7) for first in (1, 1.5, 2, 3, 5, 7))
"""Numbers of items to choose from, 10 to 7 million."""
_QUANTILES = (np.arange(60) + 0.5) / 60


@dataclass(frozen=True)
class Spread:
    """How a difference d[s, i] = mean + seed[s] + item[i] + noise[s, i] spreads.

    Attributes:
        seeds: Standard deviation of seed[s]: of the true difference from one pair of training runs to another.
        items: Of item[i]: of an item's own difference, over all seeds.
        noise: Of what is left.
    """

    seeds: float
    items: float
    noise: float

    def __post_init__(self) -> None:
        """Refuse what is no spread.

        Raises:
            EvaluationError: A number is negative, not finite, or all are zero.
        """
        parts = (self.seeds, self.items, self.noise)
        if any(not math.isfinite(part) or part < 0 for part in parts) or not any(parts):
            raise EvaluationError(
                "a spread needs standard deviations that are finite, none negative, not all zero",
                seen=parts,
                fix="give the spreads that a study measured",
            )


@dataclass(frozen=True)
class StudyPlan:
    """What a study of this many items and seeds can see on a task.

    Attributes:
        items, seeds, family: The study; `family` is how many tasks are tested together.
        level, power: Of the test, before the correction for the family.
        detectable: The smallest true difference that it finds with that power.
        scope: What a finding would be about.
        wanted: The difference that the question is about, or None.
        is_enough: Whether `wanted` can be seen and the study speaks of training; None without `wanted`.
    """

    items: int
    seeds: int
    family: int
    level: float
    power: float
    detectable: float
    scope: str
    wanted: float | None = None
    is_enough: bool | None = None

    @property
    def sentence(self) -> str:
        """Return in words what the study can see, and whether that is enough."""
        tests = f", tested with {self.family - 1} others" if self.family > 1 else ""
        can = (
            f"{self.items} items and {self.seeds} seed{'' if self.seeds == 1 else 's'} detect a true difference of "
            f"{self.detectable:.3g} with {100 * self.power:.0f} % power{tests}"
        )
        if self.scope == THESE_RUNS:
            can += ", for these runs only: a claim about training needs at least three seeds"
        if self.wanted is None:
            return f"{can}."
        verdict = "enough" if self.is_enough else "too small a study"
        return f"{can}: {verdict} for a difference of {self.wanted:.3g}."


def spread_of(differences: npt.ArrayLike) -> Spread:
    """Estimate the spread from a pilot's differences, (S, I); negative parts become zero.

    Raises:
        EvaluationError: There are fewer than two seeds or items, or nothing differs.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 2 or min(d.shape) < 2:
        raise EvaluationError(
            "a spread needs two seeds and two items at least",
            seen=f"the shape {d.shape}",
            fix="measure more seeds or more items",
        )
    parts = variance_parts(d)
    seeds, items = d.shape
    # A expects noise + I seeds^2 and B noise + S items^2, each by S I; solved for each part, never below zero.
    noise = float(parts.noise) * seeds * items
    of_seeds = max(0.0, float(parts.seeds[0]) * seeds * items - noise) / items
    of_items = max(0.0, float(parts.items) * seeds * items - noise) / seeds
    return Spread(math.sqrt(of_seeds), math.sqrt(of_items), math.sqrt(noise))


def right_or_wrong_spread(accuracy: float, *, agreement: float, seed_sd: float, lasting: float = 0.5) -> Spread:
    """Guess the spread of a task of right and wrong answers before anything was run.

    Two members that both have this accuracy differ on a share 1 - `agreement` of the items, which is the variance of
    d; `lasting` of it is the item's own and comes again at every seed.

    Args:
        accuracy: Of both members, in (0, 1).
        agreement: The share of items on which both are right or both wrong, from `1 - 2 min(p, 1 - p)` to 1.
        seed_sd: Standard deviation over seeds of the difference of the two true accuracies.
        lasting: The share of the disagreement that lasts over seeds.

    Raises:
        EvaluationError: The numbers do not go together.
    """
    if not 0 < accuracy < 1:
        raise EvaluationError("the accuracy is not between 0 and 1", seen=accuracy, allowed="(0, 1)")
    least = 1 - 2 * min(accuracy, 1 - accuracy)
    if not least <= agreement < 1 or not 0 <= lasting <= 1:
        raise EvaluationError(
            "no two members have this accuracy and agree this often",
            seen=f"accuracy {accuracy}, agreement {agreement}, lasting {lasting}",
            allowed=f"agreement from {least:.3g} up to below 1, lasting in [0, 1]",
        )
    differing = 1 - agreement
    return Spread(seed_sd, math.sqrt(lasting * differing), math.sqrt((1 - lasting) * differing))


def detectable_difference(
    spread: Spread,
    *,
    items: int,
    seeds: int,
    family: int = 1,
    level: float = 0.95,
    power: float = POWER,
    clusters: int | None = None,
    shared: float = 0.5,
) -> float:
    """Return the smallest true mean difference that the test finds with this power.

    Args:
        spread: How differences spread.
        items: Items of the task.
        seeds: Runs of each member. With one or two the seeds' spread does not count: the test is then of these runs.
        family: Tests corrected together; the smallest p of `family` must be below (1 - level) / family, Holm's first
            step, so with several true differences the power is higher.
        level: 1 minus the error rate of the family.
        power: The probability to find it.
        clusters: Into how many clusters of equal size the items fall; None if each is its own.
        shared: Which share of an item's own difference its cluster has in common.

    Raises:
        EvaluationError: A number is out of range.
    """
    groups = items if clusters is None else clusters
    numbers_fit = items >= 2 and seeds >= 1 and family >= 1 and 2 <= groups <= items
    if not numbers_fit or not 0 < level < 1 or not 0 < power < 1 or not 0 <= shared <= 1:
        raise EvaluationError(
            "no study has these numbers",
            seen=f"{items} items in {groups} clusters, {shared} shared, {seeds} seeds, {family} tests, level {level}, "
            f"power {power}",
            allowed="2 items, 2 clusters, 1 seed, 1 test or more; no more clusters than items; shares in [0, 1]; level "
            "and power in (0, 1)",
        )
    # Holm's first step asks this much of the smallest p, half of it on each side.
    half = (1 - level) / family / 2
    # The design effect of clusters: m items that share a part of their variance count as m / (1 + (m - 1) share).
    design = 1.0 if clusters is None else 1 + (items / clusters - 1) * shared
    noise, of_items = spread.noise**2 / (seeds * items), design * spread.items**2 / items
    if seeds < FEWEST_SEEDS:
        error = math.sqrt(noise + of_items)
        return float(stats.norm.isf(half) + stats.norm.ppf(power)) * error
    of_seeds = spread.seeds**2 / seeds
    # Each side's variance over its seeds, half of the sum's, may come out as any of these quantiles.
    one = (of_seeds + noise) / 2 * stats.chi2.ppf(_QUANTILES, seeds - 1) / (seeds - 1)
    first, second = one[:, None], one[None, :]
    df = (first + second) ** 2 / ((first**2 + second**2) / (seeds - 1))
    squares = stats.t.isf(half, df) ** 2 * (first + second) + stats.t.isf(half, groups - 1) ** 2 * of_items
    critical, error = np.sqrt(squares), math.sqrt(of_seeds + noise + of_items)

    def lacking(difference: float) -> float:
        found = stats.norm.sf((critical - difference) / error) + stats.norm.cdf((-critical - difference) / error)
        return float(found.mean()) - power

    return float(optimize.brentq(lacking, 0.0, float(critical.max()) + 10 * error))


def plan_study(
    spread: Spread,
    *,
    items: int,
    seeds: int,
    wanted: float | None = None,
    family: int = 1,
    level: float = 0.95,
    power: float = POWER,
    clusters: int | None = None,
    shared: float = 0.5,
) -> StudyPlan:
    """Say before a study what it will be able to see, and whether that is enough.

    Args:
        spread: From a pilot (`spread_of`) or a guess (`right_or_wrong_spread`).
        items: Items of the task.
        seeds: Training runs of each member.
        wanted: The true difference that the question is about.
        family: Tasks that are tested together.
        level: 1 minus the error rate of the family.
        power: The probability to find it.
        clusters: Into how many clusters the items fall; None if each is its own.
        shared: Which share of an item's own difference its cluster has in common.

    Raises:
        EvaluationError: A number is out of range.
    """
    found = detectable_difference(
        spread,
        items=items,
        seeds=seeds,
        family=family,
        level=level,
        power=power,
        clusters=clusters,
        shared=shared,
    )
    about_training = seeds >= FEWEST_SEEDS
    scope = OTHER_ITEMS_AND_SEEDS if about_training else THESE_RUNS
    enough = None if wanted is None else found <= abs(wanted) and about_training
    return StudyPlan(items, seeds, family, level, power, found, scope, wanted, enough)


def items_needed(
    spread: Spread,
    wanted: float,
    *,
    seeds: int,
    choices: Sequence[int] = ROUND_NUMBERS,
    family: int = 1,
    power: float = POWER,
    per_cluster: float = 1.0,
    shared: float = 0.5,
) -> int | None:
    """Return the smallest of `choices` items with which `wanted` can be seen; None if none of them is enough.

    With clusters, of `per_cluster` items each, more items mean more clusters. More items never make up for what varies
    from one training run to another: then more seeds are needed.

    Raises:
        EvaluationError: A number is out of range.
    """
    for items in sorted(choices):
        clusters = None if per_cluster == 1 else max(2, round(items / per_cluster))
        found = detectable_difference(
            spread, items=items, seeds=seeds, family=family, power=power, clusters=clusters, shared=shared
        )
        if found <= abs(wanted):
            return items
    return None
