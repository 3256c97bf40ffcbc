"""From vectors and rankings to a task's result: items, correlations, chance, and notes for the reader."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqpair.errors import EvaluationError
from seqpair.evaluate.results import ItemOutcome
from seqpair.evaluate.retrieval.embedders import Embedder
from seqpair.evaluate.retrieval.sets import RetrievalSet
from seqpair.evaluate.retrieval.with_mteb import DEPTH, SearchOutcome
from seqpair.evaluate.task import BOTH, SuiteTask, TaskContext, TaskOutcome
from seqpair.models.embed import Embedded
from seqpair.models.text_model import TextModel
from seqpair.text import note

HIGHEST = 5.0
STSB_TRAIN, STSB_DEV, STSB_TEST = (f"similarity/stsb-en-{part}.csv" for part in ("train", "dev", "test"))
Run = Callable[[TextModel, TaskContext], TaskOutcome]


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
                raise EvaluationError(
                    f"{path.name}, row {number} has an empty sentence", seen=row, fix="correct the row, or leave it out"
                )
            found.append(ScoredPair(row[0], row[1], score))
    if len(found) < 2:
        raise EvaluationError(f"{path.name} has too few pairs for a correlation", seen=len(found), allowed="2 or more")
    return found


def search_items(outcome: SearchOutcome, clusters: Mapping[str, str] | None = None) -> list[ItemOutcome]:
    """Return one item a query: nDCG at 10, and beside it recall, reciprocal rank and the first rank."""
    named = clusters or {}
    return [
        ItemOutcome(
            id=own.query,
            value=own.ndcg,
            detail={
                "recall_at_10": own.recall,
                "mrr_at_10": own.mrr,
                "recall_at_100": own.recall_at_100,
                "rank": own.rank,
            },
            cluster=named.get(own.query, ""),
        )
        for own in outcome.queries
    ]


def search_outcome(given: RetrievalSet, outcome: SearchOutcome, embedder: Embedder) -> TaskOutcome:
    """Return a search's outcome as a task's."""
    chance = chance_of(outcome.gains, outcome.documents)
    items = search_items(outcome, given.clusters)
    means = {
        name: math.fsum(item.detail[name] for item in items) / len(items)
        for name in ("recall_at_10", "mrr_at_10", "recall_at_100")
    }
    notes = [cut_note(outcome.truncated, embedder.max_tokens)]
    if len(given.documents) < given.whole_documents:
        notes.append(f"Only {len(given.documents)} of {given.whole_documents} documents: easier than the whole set.")
    if given.unjudged:
        notes.append(f"{given.unjudged} queries without a relevant document were left out.")
    if given.empty_documents:
        notes.append(f"{given.empty_documents} documents have no text.")
    return TaskOutcome(
        items,
        {
            "embedding": embedder.method,
            "max_tokens": embedder.max_tokens,
            "similarity": "cosine",
            "documents": len(given.documents),
            "of_documents": given.whole_documents,
        },
        chance=chance["ndcg"],
        figures={
            **means,
            f"recall_at_{DEPTH}_chance": chance["recall"],
            f"mrr_at_{DEPTH}_chance": chance["mrr"],
            "truncated_texts": float(outcome.truncated),
            "empty_documents": float(given.empty_documents),
            "unjudged_queries": float(given.unjudged),
        },
        note=" ".join(part for part in notes if part),
    )


def similarity_outcome(pairs: Sequence[ScoredPair], embedded: Embedded, embedder: Embedder) -> TaskOutcome:
    """Return how well cosines rank pairs as a task's outcome.

    Args:
        pairs: The pairs, (n,).
        embedded: Vectors of the first and the second text of each pair in turn, (2 n, D).
        embedder: What made them.
    """
    cosines, scores = cosines_of(embedded.vectors[::2], embedded.vectors[1::2]), [pair.score for pair in pairs]
    value = spearman(cosines, scores)
    notes = [cut_note(embedded.truncated, embedder.max_tokens)]
    if len(set(cosines)) == 1 or len(set(scores)) == 1:
        notes.append("The correlation is undefined, since all cosines or all scores are equal; it counts as 0.")
    return TaskOutcome(
        pair_items(pairs, cosines),
        {"embedding": embedder.method, "max_tokens": embedder.max_tokens, "similarity": "cosine"},
        chance=0.0,
        figures={"pearson": pearson(cosines, scores), "truncated_texts": float(embedded.truncated)},
        note=" ".join(part for part in notes if part),
        value=value,
        standard_error=spearman_error(value, len(pairs)),
    )


def cut_note(truncated: int, max_tokens: int) -> str:
    """Return what a reader must know of texts that were cut, or nothing."""
    return f"{truncated} texts were longer than the {max_tokens} tokens the model reads, and cut." if truncated else ""


def warn_cut(truncated: int, max_tokens: int) -> None:
    """Tell the person who watches of texts that were cut."""
    message = cut_note(truncated, max_tokens)
    if message:
        note(message)


def pair_items(pairs: Sequence[ScoredPair], cosines: Sequence[float]) -> list[ItemOutcome]:
    """Return one item a pair: its cosine, and beside it the score that people gave."""
    return [
        ItemOutcome(id=str(number), value=cosine, detail={"score": pair.score})
        for number, (pair, cosine) in enumerate(zip(pairs, cosines, strict=True))
    ]


def cosines_of(first: NDArray[np.float32], second: NDArray[np.float32]) -> list[float]:
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


def spearman_error(correlation: float, n: int) -> float | None:
    """Return the standard error of Spearman's correlation; `None` for fewer than four pairs.

    On Fisher's scale it is sqrt((1 + r^2 / 2) / (n - 3)); this is that times the slope of the way back, 1 - r^2.

    Source: D. G. Bonett and T. A. Wright, Psychometrika 65, 2000.
    """
    if n < 4:
        return None
    return (1.0 - correlation**2) * math.sqrt((1.0 + correlation**2 / 2.0) / (n - 3))


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
    # Many queries have the same gains, and the binomials of a large corpus are slow, so each is computed once.
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


def search_task(name: str, title: str, run: Run, inputs: tuple[str, ...], **more: Any) -> SuiteTask:
    """Return a task of the suite whose items are queries; `more` are other fields of `SuiteTask`."""
    return _task(name, title, (f"ndcg_at_{DEPTH}", f"mean nDCG at {DEPTH}"), run, inputs, more)


def similarity_task(name: str, title: str, run: Run, inputs: tuple[str, ...], **more: Any) -> SuiteTask:
    """Return a task of the suite whose items are pairs of texts; `more` are other fields of `SuiteTask`."""
    return _task(name, title, ("spearman", "Spearman's correlation"), run, inputs, more)


def _task(
    name: str, title: str, metric: tuple[str, str], run: Run, inputs: tuple[str, ...], more: dict[str, Any]
) -> SuiteTask:
    return SuiteTask(
        name=name,
        version=1,
        title=title,
        suite="retrieval",
        metric=metric[0],
        unit=metric[1],
        higher_is_better=True,
        directions=BOTH,
        inputs=inputs,
        run=run,
        needs_head=False,
        **more,
    )
