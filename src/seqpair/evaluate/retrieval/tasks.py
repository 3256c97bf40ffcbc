"""The suite `retrieval`: models as they are on local sets and sentence pairs, and all its tasks in one place.

Owns the zero-shot tasks. Entry point: `TASKS`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from seqpair.evaluate.loaded import LoadedModel
from seqpair.evaluate.retrieval import from_hub, tuned
from seqpair.evaluate.retrieval.embedders import AS_FOLDER, embed_by_chunks, embedder_of
from seqpair.evaluate.retrieval.measures import DEPTH, spearman_error
from seqpair.evaluate.retrieval.outcomes import cut_note, search_outcome, warn_cut
from seqpair.evaluate.retrieval.sets import (
    DOCUMENTS_PER_QUERY,
    LONG_DOCUMENTS_PER_QUERY,
    RetrievalSet,
    read_folder,
    read_squad,
)
from seqpair.evaluate.retrieval.similarity import (
    STSB_TEST,
    cosines_of,
    pair_items,
    pearson,
    read_scored_pairs,
    spearman,
)
from seqpair.evaluate.retrieval.with_mteb import search_set
from seqpair.evaluate.suites.task import SuiteTask, TaskContext
from seqpair.evaluate.tasks.task import BOTH, TaskOutcome


def search(
    read: Callable[[Path], RetrievalSet], name: str, per_query: int, model: LoadedModel, context: TaskContext
) -> TaskOutcome:
    """Search a local set with a model as it is.

    Raises:
        EvaluationError: The set cannot be read, or the model cannot embed.
    """
    given = read(context.input(name)).limited(context.limit, per_query)
    embedder = embedder_of(model, context.settings.get("embed_pooling", AS_FOLDER))
    total = len(given.documents) + len(given.queries)
    outcome = search_set(given, embedder, context.work, lambda done: context.watch(done, total))
    warn_cut(embedder)
    return search_outcome(given, outcome, embedder)


def similarity(model: LoadedModel, context: TaskContext) -> TaskOutcome:
    """Rank sentence pairs by cosine with a model as it is.

    Raises:
        EvaluationError: The pairs cannot be read, or the model cannot embed.
    """
    pairs = context.limited(read_scored_pairs(context.input(STSB_TEST)))
    embedder = embedder_of(model, context.settings.get("embed_pooling", AS_FOLDER))
    texts = [text for pair in pairs for text in (pair.first, pair.second)]
    vectors = embed_by_chunks(embedder, texts, context.work, lambda done: context.watch(done, len(texts)))
    cosines, scores = cosines_of(vectors[::2], vectors[1::2]), [pair.score for pair in pairs]
    value = spearman(cosines, scores)
    warn_cut(embedder)
    return TaskOutcome(
        pair_items(pairs, cosines),
        {"embedding": embedder.method, "max_tokens": embedder.max_tokens, "similarity": "cosine"},
        chance=0.0,
        figures={"pearson": pearson(cosines, scores), "truncated_texts": float(embedder.truncated)},
        note=cut_note(embedder.truncated, embedder.max_tokens),
        value=value,
        standard_error=spearman_error(value, len(pairs)),
    )


def _search_task(
    name: str, title: str, path: str, read: Callable[[Path], RetrievalSet], per_query: int = DOCUMENTS_PER_QUERY
) -> SuiteTask:
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
        run=partial(search, read, path, per_query),
        needs_head=False,
        uses=("embed_pooling",),
    )


TASKS = (
    SuiteTask(
        name="stsb_vectors",
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
        uses=("embed_pooling",),
    ),
    _search_task("xquad_passages", "XQuAD passages, as trained", "retrieval/xquad.en.json", read_squad),
    _search_task("cosqa", "CoSQA Python functions, as trained", "retrieval/cosqa_python", read_folder),
    _search_task(
        "qmsum_long",
        "QMSum meetings, long documents, as trained",
        "retrieval/qmsum_long",
        read_folder,
        LONG_DOCUMENTS_PER_QUERY,
    ),
    *tuned.TASKS,
    *from_hub.TASKS,
)
