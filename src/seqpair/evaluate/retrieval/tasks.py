"""The suite `retrieval`: models as they are on local sets and sentence pairs, and all its tasks in one place."""

from __future__ import annotations

from functools import partial

from seqpair.evaluate.loaded import LoadedModel
from seqpair.evaluate.retrieval import from_hub, tuned
from seqpair.evaluate.retrieval.embedders import AS_FOLDER, embed_by_chunks, embedder_of
from seqpair.evaluate.retrieval.outcomes import (
    search_outcome,
    search_task,
    similarity_outcome,
    similarity_task,
    warn_cut,
)
from seqpair.evaluate.retrieval.sets import LOCAL_SETS, LocalSet
from seqpair.evaluate.retrieval.similarity import STSB_TEST, read_scored_pairs
from seqpair.evaluate.retrieval.with_mteb import search_set
from seqpair.evaluate.task import TaskContext, TaskOutcome

_USES = ("embed_pooling",)


def search(local: LocalSet, model: LoadedModel, context: TaskContext) -> TaskOutcome:
    """Search a local set with a model as it is.

    Raises:
        EvaluationError: The set cannot be read, or the model cannot embed.
    """
    given = local.load(context.data, context.limit)
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
    warn_cut(embedder)
    return similarity_outcome(pairs, vectors, embedder)


TASKS = (
    similarity_task("stsb_vectors", "STS-B test, as trained", similarity, (STSB_TEST,), uses=_USES),
    *(
        search_task(local.name, f"{local.title}, as trained", partial(search, local), (local.path,), uses=_USES)
        for local in LOCAL_SETS
    ),
    *tuned.TASKS,
    *from_hub.TASKS,
)
