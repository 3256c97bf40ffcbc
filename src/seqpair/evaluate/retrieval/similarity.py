"""Pairs of sentences with a similarity that people gave, and how well cosines rank them."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqpair.errors import EvaluationError
from seqpair.evaluate.results import ItemOutcome
from seqpair.evaluate.retrieval.embedders import Vectors

HIGHEST = 5.0
STSB_TRAIN, STSB_DEV, STSB_TEST = (f"similarity/stsb-en-{part}.csv" for part in ("train", "dev", "test"))


@dataclass(frozen=True)
class ScoredPair:
    """Two sentences and their similarity, 0 to 5."""

    first: str
    second: str
    score: float


def read_scored_pairs(path: Path) -> list[ScoredPair]:
    """Read a CSV file without a header: sentence, sentence, score from 0 to 5.

    Raises:
        EvaluationError: A row lacks a column, has an empty sentence, or no score in the range.
    """
    found = []
    with path.open(encoding="utf-8", newline="") as handle:
        for number, row in enumerate(csv.reader(handle), 1):
            if not row:
                continue
            if len(row) != 3:
                raise EvaluationError(
                    f"{path.name}, row {number} lacks a column",
                    seen=f"{len(row)} columns",
                    allowed="two texts, score",
                )
            try:
                score = float(row[2])
            except ValueError:
                score = math.nan
            if not 0 <= score <= HIGHEST:
                raise EvaluationError(f"{path.name}, row {number} has no score", seen=row[2], allowed="0 to 5")
            if not row[0].strip() or not row[1].strip():
                raise EvaluationError(f"{path.name}, row {number} has an empty sentence", seen=row)
            found.append(ScoredPair(row[0], row[1], score))
    if len(found) < 2:
        raise EvaluationError(f"{path.name} has too few pairs for a correlation", seen=len(found), allowed="2 or more")
    return found


def cosines_of(first: Vectors, second: Vectors) -> list[float]:
    """Return the cosine of each pair of rows; 0 where a row is zero."""
    unit = [
        vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
        for vectors in (first, second)
    ]
    return [float(value) for value in (unit[0] * unit[1]).sum(axis=1)]


def spearman(found: Sequence[float], wanted: Sequence[float]) -> float:
    """Return Spearman's rank correlation; 0 where all values of one side are equal, so that nothing is ranked."""
    from scipy.stats import spearmanr

    if len(set(found)) == 1 or len(set(wanted)) == 1:
        return 0.0
    return float(spearmanr(found, wanted).statistic)


def pearson(found: Sequence[float], wanted: Sequence[float]) -> float:
    """Return Pearson's correlation; 0 where all values of one side are equal."""
    if len(set(found)) == 1 or len(set(wanted)) == 1:
        return 0.0
    return float(np.corrcoef(found, wanted)[0, 1])


def pair_items(pairs: Sequence[ScoredPair], cosines: Sequence[float]) -> list[ItemOutcome]:
    """Return one item a pair: its cosine, and beside it the score that people gave."""
    return [
        ItemOutcome(id=str(number), value=cosine, detail={"score": pair.score})
        for number, (pair, cosine) in enumerate(zip(pairs, cosines, strict=True))
    ]
