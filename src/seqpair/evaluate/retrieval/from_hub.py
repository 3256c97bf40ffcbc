"""Retrieval tasks that mteb fetches from the hub, by their names there; done only when they are asked for."""

from __future__ import annotations

import math
from functools import partial

from seqpair.errors import EvaluationError
from seqpair.evaluate.loaded import LoadedModel
from seqpair.evaluate.results import ItemOutcome, weighted_mean
from seqpair.evaluate.retrieval.embedders import AS_FOLDER, embedder_of
from seqpair.evaluate.retrieval.measures import DEPTH, chance_of
from seqpair.evaluate.retrieval.outcomes import cut_note, search_items, search_task, warn_cut
from seqpair.evaluate.retrieval.with_mteb import run_hub_task
from seqpair.evaluate.task import TaskContext, TaskOutcome

NAMES = {
    "codesearchnet": "CodeSearchNetRetrieval",
    "nfcorpus": "NFCorpus",
    "scifact": "SciFact",
    "fiqa": "FiQA2018",
    "arguana": "ArguAna",
    "scidocs": "SCIDOCS",
    "trec_covid": "TRECCOVID",
    "touche": "Touche2020Retrieval.v3",
    "mldr": "MultiLongDocRetrieval",
    "msmarco": "MSMARCO",
}


SUBSETS = {"MultiLongDocRetrieval": ("en",)}
"""What is taken of a task whose other subsets are in other languages."""


def run(name: str, model: LoadedModel, context: TaskContext) -> TaskOutcome:
    """Run a task of mteb; all queries of all its subsets are items.

    Raises:
        TaskSkippedError: The hub does not give the data.
        EvaluationError: A limit was set, or mteb cannot run it.
    """
    if context.limit is not None:
        raise EvaluationError("a task of the hub is done whole or not at all", seen=f"--limit {context.limit}")
    embedder = embedder_of(model, context.settings.get("embed_pooling", AS_FOLDER))
    outcomes = run_hub_task(name, SUBSETS.get(name, ()), embedder, context.work, lambda done: context.watch(done, 0))
    items: list[ItemOutcome] = []
    figures: dict[str, float] = {}
    chances = []
    for subset, outcome in sorted(outcomes.items()):
        own = [item.model_copy(update={"id": f"{subset}/{item.id}"}) for item in search_items(outcome)]
        figures[f"{subset}_ndcg_at_{DEPTH}"] = weighted_mean(own)
        chances += [chance_of(outcome.gains, outcome.documents)["ndcg"]] * len(own)
        items += own
    for measure in ("recall_at_10", "mrr_at_10", "recall_at_100"):
        figures[measure] = math.fsum(item.detail[measure] for item in items) / len(items)
    figures["truncated_texts"] = float(embedder.truncated)
    warn_cut(embedder)
    settings = {"mteb_task": name, "embedding": embedder.method, "max_tokens": embedder.max_tokens}
    return TaskOutcome(
        items,
        settings,
        chance=math.fsum(chances) / len(chances),
        figures=figures,
        note=cut_note(embedder.truncated, embedder.max_tokens),
    )


TASKS = tuple(
    search_task(
        f"hub_{short}", f"{name} of mteb, as trained", partial(run, name), (), uses=("embed_pooling",), only_named=True
    )
    for short, name in NAMES.items()
)
