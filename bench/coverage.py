"""Simulate studies of two members without a true difference: how often intervals contain it, and tests err.

An outcome is right where a normal value lies below the quantile of the accuracy. The value is the sum of the item's
difficulty for all members, its difficulty for this member, this member's seed, and noise. Item parts are shared within
clusters by a share of 0, one half or 1. The ratio is the variance of a seed's effect to that of the member's own item
part of a mean. Interval and test are those that a report uses (`compare/estimates.py`).

    python bench/coverage.py --out bench/results/coverage.md                                # ten minutes of one core
    python bench/coverage.py --paired --studies 20000 --out bench/results/paired_form.md    # a minute
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from seqpair.compare.estimates import holm, interval_half, p_value, variance_parts

Floats = npt.NDArray[np.float64]
ACCURACIES = (0.02, 0.5, 0.98)
RATIOS = (0.0, 1.0, 10.0)
SEEDS = (3, 5, 8)
NOISE, COMMON = 0.4, 0.6
"""The noise's share of the variance, and what of the rest is common to both members."""
CHUNK = 250
FAMILY = 8


class Layout(NamedTuple):
    """How items lie in clusters: how many, how many clusters, the shared part, and whether sizes differ."""

    items: int
    clusters: int
    shared: float
    uneven: bool = False

    @property
    def words(self) -> str:
        """Return the row's name."""
        if self.clusters == self.items:
            return f"{self.items} items, no clusters"
        sizes = "unequal" if self.uneven else f"{self.items // self.clusters} items each"
        return f"{self.clusters} clusters, {sizes}, {self.shared:.0%} shared"

    def codes(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Return each item's cluster."""
        if not self.uneven:
            return np.repeat(np.arange(self.clusters), self.items // self.clusters)
        more = rng.choice(self.clusters, self.items - self.clusters, p=rng.dirichlet(np.full(self.clusters, 2.0)))
        return np.sort(np.concatenate([np.arange(self.clusters), more]))


LAYOUTS = (
    Layout(200, 200, 0.0),
    Layout(300, 30, 0.5),
    Layout(300, 30, 0.5, uneven=True),
    Layout(500, 25, 1.0),
    Layout(500, 25, 1.0, uneven=True),
)


def item_part(rng: np.random.Generator, studies: int, layout: Layout, codes: npt.NDArray[np.int64]) -> Floats:
    """Return standard normal item effects, (studies, 1, I), shared within clusters."""
    together = rng.standard_normal((studies, 1, layout.clusters))[..., codes]
    alone = rng.standard_normal((studies, 1, layout.items))
    return np.asarray(np.sqrt(layout.shared) * together + np.sqrt(1 - layout.shared) * alone)


def simulate(
    rng: np.random.Generator, studies: int, seeds: int, layout: Layout, ratio: float, accuracy: float
) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """Return two members' outcomes, (studies, S, I) each, and the items' clusters."""
    codes = layout.codes(rng)
    common = item_part(rng, studies, layout, codes)
    sizes = np.bincount(codes)
    own_share = (1 - NOISE) * (1 - COMMON)
    of_mean = layout.shared * float((sizes**2).sum()) / layout.items**2 + (1 - layout.shared) / layout.items
    seed_variance = ratio * own_share * of_mean
    threshold = stats.norm.ppf(accuracy) * np.sqrt(1 + seed_variance)
    sides = []
    for _ in range(2):
        value = np.sqrt((1 - NOISE) * COMMON) * common
        value = value + np.sqrt(own_share) * item_part(rng, studies, layout, codes)
        value = value + np.sqrt(seed_variance) * rng.standard_normal((studies, seeds, 1))
        value = value + np.sqrt(NOISE) * rng.standard_normal((studies, seeds, layout.items))
        sides.append((value < threshold).astype(np.float64))
    return sides[0], sides[1], codes


def cell(
    rng: np.random.Generator, studies: int, seeds: int, layout: Layout, ratio: float, accuracy: float
) -> list[float]:
    """Return per cent of studies: intervals with the truth, errors at 5 and at 0.625 %, disagreement of the two."""
    contained, errors, strict, disagree = 0, 0, 0, 0
    for _ in range(studies // CHUNK):
        first, second, codes = simulate(rng, CHUNK, seeds, layout, ratio, accuracy)
        clusters = codes if layout.clusters < layout.items else None
        parts = variance_parts(first, second, clusters=clusters, right_or_wrong=True)
        half = interval_half(parts)
        p = p_value(parts)
        inside = np.abs(parts.value) <= half
        contained += int(inside.sum())
        errors += int((p < 0.05).sum())
        strict += int((p < 0.05 / FAMILY).sum())
        disagree += int((inside != (p >= 0.05)).sum())
    return [100 * count / (studies // CHUNK * CHUNK) for count in (contained, errors, strict, disagree)]


def family_errors(rng: np.random.Generator, studies: int, seeds: int) -> float:
    """Return per cent of studies in which any of eight true nulls is rejected after Holm's correction."""
    p = np.empty((studies, FAMILY))
    for task in range(FAMILY):
        first, second, _ = simulate(rng, studies, seeds, LAYOUTS[0], 3.0, 0.5)
        p[:, task] = p_value(variance_parts(first, second, right_or_wrong=True))
    return 100 * float((holm(p).min(axis=1) < 0.05).mean())


def paired_form(rng: np.random.Generator, studies: int) -> list[str]:
    """Return a table of what it brings to pair by seed where the correlation over seeds is clearly positive.

    Only seeds vary here: each side has a mean at each of S seeds, normal, with a correlation between the sides. The
    rule tests the correlation at 5 %, one-sided, and takes the paired t where it rejects and Welch's elsewhere. Power
    is at the difference that Welch's test finds in 80 % of studies without a correlation.
    """
    lines = [
        f"{studies} studies per cell of two members' values at each seed.",
        "Rejections at 5 % without a true difference / with one.",
        "",
        "| seeds | correlation | variance per side (Welch) | paired where clearly correlated | that rule pairs in |",
        "|---|---|---|---|---|",
    ]
    for seeds, true in itertools.product(SEEDS, (-0.06, 0.0, 0.5, 0.9)):
        common = rng.standard_normal((2, studies, seeds))
        first, second = common[0], true * common[0] + np.sqrt(1 - true**2) * common[1]
        detectable = _difference_found(rng, studies, seeds)
        found = [_rejections(first + shift, second) for shift in (0.0, detectable)]
        cells = [f"{100 * none.mean():.1f} / {100 * some.mean():.1f} %" for none, some in zip(*found, strict=True)]
        lines.append(f"| {seeds} | {true:g} | {cells[0]} | {cells[1]} | {cells[2].split(' /')[0]} % |")
    return lines


def _rejections(first: Floats, second: Floats) -> tuple[Floats, Floats, Floats]:
    """Return where Welch's test rejects, where the rule does, and where the rule pairs, (studies,) each."""
    welch = stats.ttest_ind(first, second, axis=1, equal_var=False).pvalue < 0.05
    centred = [side - side.mean(axis=1, keepdims=True) for side in (first, second)]
    r = (centred[0] * centred[1]).sum(axis=1) / np.sqrt((centred[0] ** 2).sum(axis=1) * (centred[1] ** 2).sum(axis=1))
    df = first.shape[1] - 2
    pairs = stats.t.sf(r * np.sqrt(df / (1 - r**2)), df) < 0.05
    return welch, np.where(pairs, stats.ttest_rel(first, second, axis=1).pvalue < 0.05, welch), pairs


def _difference_found(rng: np.random.Generator, studies: int, seeds: int) -> float:
    first, second = rng.standard_normal((2, studies, seeds))
    tried = np.linspace(0.5, 6, 111)
    power = [float(_rejections(first + shift, second)[0].mean()) for shift in tried]
    return float(tried[int(np.searchsorted(power, 0.8))])


def main() -> None:
    """Simulate every cell and print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=4000)
    parser.add_argument("--paired", action="store_true", help="simulate pairing by seed instead")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.paired:
        table = "\n".join(paired_form(np.random.default_rng(2507), given.studies))
        print(table)
        if given.out:
            given.out.write_text(f"# Pairing by seed\n\n{table}\n", encoding="utf-8")
        return
    rng, began = np.random.default_rng(2507), time.monotonic()
    lines = [
        f"{given.studies} studies per cell without a true difference. Per cent of 95 % intervals that contain zero /",
        "rejections at 5 % / rejections at 0.625 % (5 % by 8). `!` marks a cell outside 93 to 97 %, or in which a test",
        "rejects more often than nominal by over two standard errors.",
        "",
        "| seeds | items | seeds' variance | accuracy 0.02 | 0.5 | 0.98 |",
        "|---|---|---|---|---|---|",
    ]
    margins = [2 * 100 * float(np.sqrt(rate * (1 - rate) / given.studies)) for rate in (0.05, 0.05 / FAMILY)]
    disagreements = 0.0
    for seeds, layout, ratio in itertools.product(SEEDS, LAYOUTS, RATIOS):
        row = []
        for accuracy in ACCURACIES:
            inside, errors, strict, disagree = cell(rng, given.studies, seeds, layout, ratio, accuracy)
            disagreements += disagree
            outside = not 93 <= inside <= 97 or errors > 5 + margins[0] or strict > 100 * 0.05 / FAMILY + margins[1]
            row.append(f"{inside:.1f} / {errors:.1f} / {strict:.2f}{' !' if outside else ''}")
        lines.append(f"| {seeds} | {layout.words} | {ratio:g} | " + " | ".join(row) + " |")
        print(lines[-1], flush=True)
    any_error = [f"{family_errors(rng, given.studies, seeds):.1f} % ({seeds} seeds)" for seeds in SEEDS]
    lines += [
        "",
        f"Any of {FAMILY} true nulls rejected after Holm's correction: {', '.join(any_error)}.",
        f"Studies in which interval and p disagree: {disagreements:g}.",
        f"`python bench/coverage.py --studies {given.studies}`, {time.monotonic() - began:.0f} s.",
    ]
    print("\n".join(lines[-4:]))
    if given.out:
        given.out.write_text("# Coverage of intervals, errors of tests\n\n" + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
