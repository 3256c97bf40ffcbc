"""How often the 95 % intervals hold the truth, and how often a family of tests errs, in simulated studies.

Run: python bench/coverage.py [--studies 2000] [--json FILE] [--markdown FILE]
     python bench/coverage.py --from FILE.json --markdown FILE

Cells outside 93 to 97 % are repeated with 20,000 studies; `--from` takes the others from an earlier run.

A study has S seeds and I items and two members. An item is right where a standard normal, shared in part over seeds
(the item's own difficulty) and in part over members, is below the threshold of the member's accuracy at that seed; the
accuracies at the seeds are beta distributed. So the true mean difference is known without error. Continuous outcomes
are sums of normal effects; skewed ones have gamma distributed items and seeds. The ratio is that of the variance that
seeds add to the mean difference to all the rest of it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import scipy
from scipy import stats
from scipy.special import ndtri

from seqpair.compare.estimates import CrossedParts, crossed_interval, crossed_p, crossed_parts, holm

Floats = npt.NDArray[np.float64]
SEEDS, RATIOS, ITEMS = (3, 5, 8), (0.0, 1.0, 10.0), 500
BINARY = ((0.5, 0.5), (0.55, 0.45), (0.03, 0.03), (0.04, 0.02), (0.97, 0.97), (0.98, 0.96))
CONTINUOUS = ("normal", "skewed")
FAMILY = 10
RESAMPLES, BOOTSTRAPPED = 200, 250
REPEATED_STUDIES = 20_000
CHUNK = 125
LASTING, SHARED = 0.5, 0.5
"""Of an item's latent difficulty: how much lasts over seeds, and how much of that both members share."""


@dataclass(frozen=True)
class Cell:
    """One cell's rates: coverage of the three intervals, how often p < 0.05, and a repetition with more studies."""

    outcomes: str
    seeds: int
    ratio: float
    studies: int
    ours: float
    hierarchical: float | None
    satterthwaite: float
    rejects: float
    again: float | None = None


def binary_study(
    rng: np.random.Generator, studies: int, seeds: int, accuracies: tuple[float, float], seed_sd: float, items: int
) -> Floats:
    """Return differences (studies, S, I) of two members with these mean accuracies."""
    shared = rng.standard_normal((studies, 1, items))
    outcomes = []
    for accuracy in accuracies:
        thresholds = ndtri(_beta(rng, accuracy, seed_sd, (studies, seeds)))[:, :, None]
        own = np.sqrt(SHARED) * shared + np.sqrt(1 - SHARED) * rng.standard_normal((studies, 1, items))
        noise = rng.standard_normal((studies, seeds, items))
        outcomes.append(np.sqrt(LASTING) * own + np.sqrt(1 - LASTING) * noise < thresholds)
    return outcomes[0].astype(np.float64) - outcomes[1]


def _beta(rng: np.random.Generator, mean: float, sd: float, shape: tuple[int, ...]) -> Floats:
    if sd == 0:
        return np.full(shape, mean)
    size = mean * (1 - mean) / sd**2 - 1
    return rng.beta(mean * size, (1 - mean) * size, shape)


def continuous_study(
    rng: np.random.Generator, studies: int, seeds: int, kind: str, seed_sd: float, items: int
) -> Floats:
    """Return differences (studies, S, I) with mean zero: item effects of SD 1, noise of SD 1."""
    draw = rng.standard_normal if kind == "normal" else lambda shape: (rng.gamma(2.0, 1.0, shape) - 2.0) / np.sqrt(2.0)
    items_part, noise = draw((studies, 1, items)), rng.standard_normal((studies, seeds, items))
    seeds_part = draw((studies, seeds, 1)) if kind == "normal" else rng.standard_normal((studies, seeds, 1))
    return seed_sd * seeds_part + items_part + noise


def hierarchical_bootstrap(rng: np.random.Generator, differences: Floats) -> tuple[Floats, Floats]:
    """Return the ends of the percentile interval that draws seeds and, within them, items anew."""
    studies, seeds, items = differences.shape
    low, high = np.empty(studies), np.empty(studies)
    for study in range(studies):
        of_seeds = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES) / seeds
        rows, counts = np.unique(differences[study].T, axis=0, return_counts=True)  # few where right or wrong
        of_items = rng.multinomial(items, counts / items, size=RESAMPLES) / items
        means = ((of_seeds @ rows.T) * of_items).sum(axis=1)
        low[study], high[study] = np.percentile(means, [2.5, 97.5])
    return low, high


def satterthwaite_half(parts: CrossedParts) -> Floats:
    """Return half the textbook interval's width, with the variance cut at zero."""
    variance = np.maximum(parts.seeds + parts.items - parts.noise, 1e-300)
    seed_df, item_df = parts.seed_count - 1, parts.item_count - 1
    below = parts.seeds**2 / seed_df + parts.items**2 / item_df + parts.noise**2 / (seed_df * item_df)
    df = np.maximum(variance**2 / np.maximum(below, 1e-300), seed_df)
    return stats.t.ppf(0.975, df) * np.sqrt(variance)


Draw = Callable[[np.random.Generator, int, float], Floats]


def seed_sd_of(draw: Draw, ratio: float, seeds: int, members: int) -> float:
    """Return each member's standard deviation over seeds at which seeds add `ratio` times the rest's variance."""
    if ratio == 0:
        return 0.0
    parts = crossed_parts(draw(np.random.default_rng(0), 400, 0.0))
    rest = (parts.seeds + parts.items - parts.noise).mean()
    return float(np.sqrt(ratio * rest * seeds / members))


def run_cell(
    name: str,
    draw: Draw,
    truth: float,
    cell: tuple[int, float, int],
    studies: int,
    right_or_wrong: bool,
    stream: int,
    bootstrap: bool,
) -> Cell:
    """Simulate one cell."""
    seeds, ratio, members = cell
    rng = np.random.default_rng([seeds, int(10 * ratio), sum(map(ord, name)), *([stream] if stream else [])])
    sd = seed_sd_of(draw, ratio, seeds, members)
    counts, bootstrapped = np.zeros(4), 0
    for start in range(0, studies, CHUNK):
        differences = draw(rng, min(CHUNK, studies - start), sd)
        parts = crossed_parts(differences, right_or_wrong=right_or_wrong)
        half, _, _ = crossed_interval(parts)
        error = np.abs(parts.value - truth)
        counts[0] += (error <= half).sum()
        counts[2] += (error <= satterthwaite_half(crossed_parts(differences))).sum()
        counts[3] += (crossed_p(parts) < 0.05).sum()
        if bootstrap and bootstrapped < BOOTSTRAPPED:
            low, high = hierarchical_bootstrap(rng, differences)
            counts[1] += ((low <= truth) & (truth <= high)).sum()
            bootstrapped += len(differences)
    share = 100 * counts / studies
    hierarchical = 100 * counts[1] / bootstrapped if bootstrapped else None
    return Cell(name, seeds, ratio, studies, share[0], hierarchical, share[2], share[3])


def cell_of(outcomes: str, seeds: int, ratio: float, studies: int, *, stream: int = 0, bootstrap: bool = True) -> Cell:
    """Simulate the cell of these outcomes: `continuous, KIND` or `right or wrong, P and P`."""
    first, _, rest = outcomes.partition(", ")
    if first == "continuous":

        def draw(rng: np.random.Generator, count: int, sd: float) -> Floats:
            return continuous_study(rng, count, seeds, rest, sd, ITEMS)

        return run_cell(outcomes, draw, 0.0, (seeds, ratio, 1), studies, False, stream, bootstrap)
    one, two = (float(accuracy) for accuracy in rest.split(" and "))

    def draw_pair(rng: np.random.Generator, count: int, sd: float) -> Floats:
        return binary_study(rng, count, seeds, (one, two), sd, ITEMS)

    return run_cell(outcomes, draw_pair, one - two, (seeds, ratio, 2), studies, True, stream, bootstrap)


def all_cells(studies: int, ratios: tuple[float, ...] = RATIOS) -> list[Cell]:
    """Simulate every cell of the table."""
    kinds = [f"right or wrong, {one:.2f} and {two:.2f}" for one, two in BINARY]
    kinds += [f"continuous, {kind}" for kind in CONTINUOUS]
    cells = []
    for seeds in SEEDS:
        for ratio in ratios:
            cells += [cell_of(kind, seeds, ratio, studies) for kind in kinds]
            print(f"{seeds} seeds, ratio {ratio:g}: done", file=sys.stderr)
    return cells


def repeat_outside(cells: list[Cell]) -> list[Cell]:
    """Return the cells, those outside 93 to 97 % with their coverage in ten times the studies and other draws."""
    return [cell if cell.again is not None or 93 <= cell.ours <= 97 else _repeated(cell) for cell in cells]


def _repeated(cell: Cell) -> Cell:
    more = cell_of(cell.outcomes, cell.seeds, cell.ratio, REPEATED_STUDIES, stream=1, bootstrap=False)
    return replace(cell, again=more.ours)


def family_errors(studies: int, seeds: int, ratio: float) -> dict[str, float]:
    """Return how often at least one of ten true nulls is rejected, with Holm and without, in percent.

    Half of the tasks are right or wrong at 0.5 and 0.05, half continuous; each has runs of its own, which is the worst
    case for the family: shared runs make the tests alike.
    """
    rng = np.random.default_rng([seeds, int(10 * ratio), 7])
    draws: list[tuple[Draw, int, bool]] = [
        (lambda r, n, sd: binary_study(r, n, seeds, (0.5, 0.5), sd, ITEMS), 2, True),
        (lambda r, n, sd: binary_study(r, n, seeds, (0.05, 0.05), sd, ITEMS), 2, True),
        (lambda r, n, sd: continuous_study(r, n, seeds, "normal", sd, ITEMS), 1, False),
        (lambda r, n, sd: continuous_study(r, n, seeds, "skewed", sd, ITEMS), 1, False),
    ]
    sds = [seed_sd_of(draw, ratio, seeds, members) for draw, members, _ in draws]
    with_holm = without = 0
    for start in range(0, studies, CHUNK):
        count = min(CHUNK, studies - start)
        p = np.empty((count, FAMILY))
        for task in range(FAMILY):
            draw, _, right_or_wrong = draws[task % len(draws)]
            sample = draw(rng, count, sds[task % len(draws)])
            p[:, task] = crossed_p(crossed_parts(sample, right_or_wrong=right_or_wrong))
        with_holm += int((holm(p).min(axis=1) < 0.05).sum())
        without += int((p.min(axis=1) < 0.05).sum())
    return {"seeds": seeds, "ratio": ratio, "holm": 100 * with_holm / studies, "without": 100 * without / studies}


def normal_theory() -> dict[str, float]:
    """Return the least and the greatest coverage for normal data by quadrature, over ratios, noise shares and seeds."""
    found = []
    quantiles = (np.arange(4000) + 0.5) / 4000
    for seeds in (3, 4, 5, 8, 16):
        chi = stats.chi2.ppf(quantiles, seeds - 1) / (seeds - 1)
        for noise in (1.0, 0.85, 0.7, 0.5, 0.3, 0.1, 0.01):
            for ratio in (0, 0.1, 0.3, 0.6, 1, 2, 3, 5, 10, 30, 100, 1000):
                flat = np.ones_like(chi)
                parts = CrossedParts(0 * chi, (noise + ratio) * chi, flat, noise * flat, seeds, 10**6)
                half, _, _ = crossed_interval(parts)
                found.append(float((2 * stats.norm.cdf(half / np.sqrt(1 + ratio)) - 1).mean()))
    return {"least": 100 * min(found), "greatest": 100 * max(found)}


def _named(cell: Cell) -> str:
    return f"{cell.ours:.1f} % ({cell.outcomes}, {cell.seeds} seeds, ratio {cell.ratio:g})"


def markdown(cells: list[Cell], families: list[dict[str, float]], theory: dict[str, float], head: str) -> str:
    """Return the results as a page."""
    least, greatest = min(cells, key=lambda c: c.ours), max(cells, key=lambda c: c.ours)
    outside = [cell for cell in cells if not 93 <= cell.ours <= 97]
    lines = ["# Coverage of the 95 % intervals, and the error of a family of tests", "", head, ""]
    lines += [
        f"Of {len(cells)} cells, {len(outside)} lie outside 93 to 97 %; the lowest is {_named(least)}, the highest "
        f"{_named(greatest)}. Quadrature for normal data: {theory['least']:.1f} to {theory['greatest']:.1f} %, over "
        "3 to 16 seeds, all ratios and shares of noise.",
        *(f"With {REPEATED_STUDIES:,} studies: {_named(replace(c, ours=c.again))}." for c in outside if c.again),
        "",
        f"`p < 0.05` counts rejections of a zero difference: at equal accuracies the error rate, else the power. "
        f"The hierarchical bootstrap draws seeds, then items ({RESAMPLES} resamples, {BOOTSTRAPPED} of the studies).",
        "",
        "| outcomes | seeds | ratio | ours | Satterthwaite | hierarchical bootstrap | p < 0.05 |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {c.outcomes} | {c.seeds} | {c.ratio:g} | {c.ours:.1f} % | {c.satterthwaite:.1f} % | {c.hierarchical:.1f} % "
        f"| {c.rejects:.1f} % |"
        for c in cells
    ]
    lines += ["", f"## A family of {FAMILY} tasks, every null true", ""]
    lines += ["How often at least one is rejected at 5 %.", ""]
    lines += ["| seeds | ratio | with Holm | without |", "|---|---|---|---|"]
    lines += [f"| {f['seeds']} | {f['ratio']:g} | {f['holm']:.1f} % | {f['without']:.1f} % |" for f in families]
    return "\n".join([*lines, "", "Written by `bench/coverage.py`.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--from", dest="earlier", type=Path, help="the JSON of an earlier run")
    chosen = parser.parse_args()
    if chosen.earlier:
        found = json.loads(chosen.earlier.read_text(encoding="utf-8"))
        cells, families, theory = [Cell(**cell) for cell in found["cells"]], found["families"], found["theory"]
        head = found["head"]
    else:
        started = time.monotonic()
        cells = all_cells(chosen.studies)
        families = [family_errors(chosen.studies, seeds, ratio) for seeds in SEEDS for ratio in RATIOS]
        theory = normal_theory()
        head = machine(chosen.studies, time.monotonic() - started)
    cells = repeat_outside(cells)
    page = markdown(cells, families, theory, head)
    print(page)
    if chosen.markdown:
        chosen.markdown.write_text(page, encoding="utf-8")
    if chosen.json:
        found = {"head": head, "cells": [asdict(cell) for cell in cells], "families": families, "theory": theory}
        chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def machine(studies: int, seconds: float) -> str:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    return (
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, commit {commit.strip()}, {platform.machine()}, numpy "
        f"{np.__version__}, scipy {scipy.__version__}; {studies} studies a cell of {ITEMS} items, {seconds:.0f} s."
    )


if __name__ == "__main__":
    main()
