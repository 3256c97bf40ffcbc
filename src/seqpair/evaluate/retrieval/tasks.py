"""The suite `retrieval`: models as they are on local sets and sentence pairs.

Owns the tasks and what their results say. Entry point: `TASKS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

from seqpair.evaluate.loaded import LoadedModel
from seqpair.evaluate.results import ItemOutcome
from seqpair.evaluate.retrieval.embedders import AS_FOLDER, Embedder, embed_by_chunks, embedder_of
from seqpair.evaluate.retrieval.measures import DEPTH, chance_of, spearman_error
from seqpair.evaluate.retrieval.sets import RetrievalSet, read_folder, read_squad
from seqpair.evaluate.retrieval.similarity import cosines_of, pair_items, pearson, read_scored_pairs, spearman
from seqpair.evaluate.retrieval.with_mteb import SearchOutcome, search_set
from seqpair.evaluate.suites.task import SuiteTask, TaskContext
from seqpair.evaluate.tasks.task import BOTH, TaskOutcome
from seqpair.log import note

STSB_TEST = "similarity/stsb-en-test.csv"


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


def search(read: Callable[[Path], RetrievalSet], name: str, model: LoadedModel, context: TaskContext) -> TaskOutcome:
    """Search a local set with a model as it is.

    Raises:
        EvaluationError: The set cannot be read, or the model cannot embed.
    """
    given = read(context.input(name)).limited(context.limit)
    embedder = embedder_of(model, context.settings.get("pooling", AS_FOLDER))
    total = len(given.documents) + len(given.queries)
    outcome = search_set(given, embedder, context.work, lambda done: context.watch(done, total))
    _warn_cut(embedder)
    return search_outcome(given, outcome, embedder)


def similarity(model: LoadedModel, context: TaskContext) -> TaskOutcome:
    """Rank sentence pairs by cosine with a model as it is.

    Raises:
        EvaluationError: The pairs cannot be read, or the model cannot embed.
    """
    pairs = context.limited(read_scored_pairs(context.input(STSB_TEST)))
    embedder = embedder_of(model, context.settings.get("pooling", AS_FOLDER))
    texts = [text for pair in pairs for text in (pair.first, pair.second)]
    vectors = embed_by_chunks(embedder, texts, context.work, lambda done: context.watch(done, len(texts)))
    cosines, scores = cosines_of(vectors[::2], vectors[1::2]), [pair.score for pair in pairs]
    value = spearman(cosines, scores)
    _warn_cut(embedder)
    return TaskOutcome(
        pair_items(pairs, cosines),
        {"embedding": embedder.method, "max_tokens": embedder.max_tokens, "similarity": "cosine"},
        chance=0.0,
        figures={"pearson": pearson(cosines, scores), "truncated_texts": float(embedder.truncated)},
        note=cut_note(embedder.truncated, embedder.max_tokens),
        value=value,
        standard_error=spearman_error(value, len(pairs)),
    )


def _warn_cut(embedder: Embedder) -> None:
    message = cut_note(embedder.truncated, embedder.max_tokens)
    if message:
        note(message)


def _search_task(name: str, title: str, path: str, read: Callable[[Path], RetrievalSet]) -> SuiteTask:
    return SuiteTask(
        name=name,
        version=1,
        title=title,
        suite="retrieval",
        metric=f"ndcg_at_{DEPTH}",
        unit=f"mean nDCG at {DEPTH}",
        higher_is_better=True,
        directions=BOTH,
        inputs=(path,),
        run=partial(search, read, path),
        needs_head=False,
        uses=("pooling",),
    )


TASKS = (
    SuiteTask(
        name="stsb",
        version=1,
        title="STS-B test, as trained",
        suite="retrieval",
        metric="spearman",
        unit="Spearman's correlation",
        higher_is_better=True,
        directions=BOTH,
        inputs=(STSB_TEST,),
        run=similarity,
        needs_head=False,
        uses=("pooling",),
    ),
    _search_task("xquad", "XQuAD passages, as trained", "retrieval/xquad.en.json", read_squad),
    _search_task("cosqa", "CoSQA Python functions, as trained", "retrieval/cosqa_python", read_folder),
    _search_task("qmsum_long", "QMSum meetings, long documents, as trained", "retrieval/qmsum_long", read_folder),
)
