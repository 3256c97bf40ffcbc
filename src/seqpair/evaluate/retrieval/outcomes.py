"""What a search says as a task's result: an item a query, means, chance, and what a reader must know."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from seqpair.evaluate.loaded import LoadedModel
from seqpair.evaluate.results import ItemOutcome
from seqpair.evaluate.retrieval.embedders import Embedder, Vectors
from seqpair.evaluate.retrieval.measures import DEPTH, chance_of, spearman_error
from seqpair.evaluate.retrieval.sets import RetrievalSet
from seqpair.evaluate.retrieval.similarity import ScoredPair, cosines_of, pair_items, pearson, spearman
from seqpair.evaluate.retrieval.with_mteb import SearchOutcome
from seqpair.evaluate.task import BOTH, SuiteTask, TaskContext, TaskOutcome
from seqpair.text import note

Run = Callable[[LoadedModel, TaskContext], TaskOutcome]


def search_items(outcome: SearchOutcome) -> list[ItemOutcome]:
    """Return one item a query: nDCG at 10, and beside it recall, reciprocal rank and the first rank."""
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
        )
        for own in outcome.queries
    ]


def cut_note(truncated: int, max_tokens: int) -> str:
    """Return what a reader must know of texts that were cut, or nothing."""
    return f"{truncated} texts were longer than the {max_tokens} tokens the model reads, and cut." if truncated else ""


def search_outcome(given: RetrievalSet, outcome: SearchOutcome, embedder: Embedder) -> TaskOutcome:
    """Return a search's outcome as a task's."""
    chance = chance_of(outcome.gains, outcome.documents)
    items = search_items(outcome)
    means = {
        name: math.fsum(item.detail[name] for item in items) / len(items)
        for name in ("recall_at_10", "mrr_at_10", "recall_at_100")
    }
    notes = [cut_note(embedder.truncated, embedder.max_tokens)]
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
            "truncated_texts": float(embedder.truncated),
            "empty_documents": float(given.empty_documents),
            "unjudged_queries": float(given.unjudged),
        },
        note=" ".join(part for part in notes if part),
    )


def similarity_outcome(pairs: Sequence[ScoredPair], vectors: Vectors, embedder: Embedder) -> TaskOutcome:
    """Return how well cosines rank pairs as a task's outcome.

    Args:
        pairs: The pairs, (n,).
        vectors: Of the first and the second text of each pair in turn, (2 n, D).
        embedder: What made them.
    """
    cosines, scores = cosines_of(vectors[::2], vectors[1::2]), [pair.score for pair in pairs]
    value = spearman(cosines, scores)
    notes = [cut_note(embedder.truncated, embedder.max_tokens)]
    if len(set(cosines)) == 1 or len(set(scores)) == 1:
        notes.append("The correlation is undefined, since all cosines or all scores are equal; it counts as 0.")
    return TaskOutcome(
        pair_items(pairs, cosines),
        {"embedding": embedder.method, "max_tokens": embedder.max_tokens, "similarity": "cosine"},
        chance=0.0,
        figures={"pearson": pearson(cosines, scores), "truncated_texts": float(embedder.truncated)},
        note=" ".join(part for part in notes if part),
        value=value,
        standard_error=spearman_error(value, len(pairs)),
    )


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


def warn_cut(embedder: Embedder) -> None:
    """Tell the person who watches of texts that were cut."""
    message = cut_note(embedder.truncated, embedder.max_tokens)
    if message:
        note(message)
