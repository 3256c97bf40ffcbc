"""How often the 95 % interval of a difference of two members' Spearman correlations holds the truth.

Run, after `bench/coverage.py` where that page is made anew:
     python bench/jackknife_coverage.py [--studies 1000] [--seeds 3 5] [--markdown bench/results/coverage.md]

Items have a true score, standard normal. A member's scores correlate with it as strongly as its run reached (normal
over seeds); what else is in them is half the item's own, again at every seed, and half noise; of the item's own, half
is shared by the members. The true difference is that of the means of 6 / pi asin(r / 2) over runs. Every correlation is
turned into pseudo-values by the code that a report runs. The section of the page that this writes is replaced.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
from coverage import machine

from seqpair.compare.estimates import interval_half, p_value, variance_parts
from seqpair.compare.resampling import pseudo_values, spearman_without_each

ITEMS = 200
HEADING = "## Differences of Spearman's correlations, by jackknife pseudo-values"
PAIRS = ((0.3, 0.3), (0.6, 0.5), (0.85, 0.85))
SEED_SDS = (0.0, 0.03, 0.1)
MOST = 0.995


def runs_of(rng: np.random.Generator, mean: float, sd: float, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    """Return the correlations that runs reach."""
    return np.asarray(np.clip(mean + sd * rng.standard_normal(shape), -MOST, MOST))


def true_correlation(mean: float, sd: float) -> float:
    """Return the mean of Spearman's correlation over runs, for normal data."""
    reached = runs_of(np.random.default_rng(0), mean, sd, (400_000,))
    return float((6 / math.pi * np.arcsin(reached / 2)).mean())


def sides_of(rng: np.random.Generator, seeds: int, pair: tuple[float, float], sd: float) -> npt.NDArray[np.float64]:
    """Return one study's pseudo-values of both sides, (2, S, I)."""
    truth, shared = rng.standard_normal((2, ITEMS))
    sides = []
    for mean in pair:
        lasting = math.sqrt(0.5) * shared + math.sqrt(0.5) * rng.standard_normal(ITEMS)
        rest = math.sqrt(0.5) * lasting + math.sqrt(0.5) * rng.standard_normal((seeds, ITEMS))
        reached = runs_of(rng, mean, sd, (seeds, 1))
        found = reached * truth + np.sqrt(1 - reached**2) * rest
        sides.append(np.stack([pseudo_values(*spearman_without_each(truth, own)) for own in found]))
    return np.stack(sides)


def cell(seeds: int, pair: tuple[float, float], sd: float, studies: int) -> tuple[float, float]:
    """Return coverage of the interval and how often p < 0.05, in percent."""
    rng = np.random.default_rng([seeds, int(100 * pair[0]), int(100 * sd)])
    truth = true_correlation(pair[0], sd) - true_correlation(pair[1], sd)
    sides = np.stack([sides_of(rng, seeds, pair, sd) for _ in range(studies)])
    parts = variance_parts(sides[:, 0], sides[:, 1])
    half = interval_half(parts)
    return 100 * float((np.abs(parts.value - truth) <= half).mean()), 100 * float((p_value(parts) < 0.05).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5])
    parser.add_argument("--markdown", type=Path)
    chosen = parser.parse_args()
    started, rows, held = time.monotonic(), [], []
    for seeds in chosen.seeds:
        for sd in SEED_SDS:
            for pair in PAIRS:
                covered, rejects = cell(seeds, pair, sd, chosen.studies)
                held.append(covered)
                rows.append(f"| {pair[0]} and {pair[1]} | {seeds} | {sd} | {covered:.1f} % | {rejects:.1f} % |")
                print(rows[-1], file=sys.stderr)
    head = machine(chosen.studies, time.monotonic() - started).replace("of 500 items", f"of {ITEMS} items")
    page = [
        HEADING, "", head, "",
        f"Between {min(held):.1f} and {max(held):.1f} %; with {chosen.studies} studies a true 95 % comes out between "
        f"{95 - 270 * math.sqrt(0.0475 / chosen.studies):.1f} and {95 + 270 * math.sqrt(0.0475 / chosen.studies):.1f} "
        "in 99.3 % of cells.", "",
        "| correlations | seeds | their deviation over seeds | covered | p < 0.05 |", "|---|---|---|---|---|", *rows,
        "", "Written by `bench/jackknife_coverage.py`.", "",
    ]  # fmt: skip
    print("\n".join(page))
    if chosen.markdown:
        before = (
            chosen.markdown.read_text(encoding="utf-8").split(HEADING)[0].rstrip() if chosen.markdown.exists() else ""
        )
        chosen.markdown.write_text("\n".join([before, "", *page]), encoding="utf-8")


if __name__ == "__main__":
    main()
