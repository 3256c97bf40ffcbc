"""Retrieval through `mteb`: a set of ours or a task of its own, with the outcome of every query.

mteb keeps the scores of single queries to itself but for one hook, `task_specific_scores`, which is overridden here.
Equal similarities are ordered by document id, as trec_eval does.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqpair.errors import EvaluationError, needs_extra
from seqpair.evaluate.retrieval.embedders import Embedder, embed_by_chunks
from seqpair.evaluate.retrieval.sets import RetrievalSet
from seqpair.evaluate.task import TaskSkippedError

DEPTH = 10
K_VALUES = (1, DEPTH, 100)


@dataclass(frozen=True)
class QueryOutcome:
    """What a query got.

    Attributes:
        query: Its id.
        ndcg, recall, mrr: At depth 10.
        recall_at_100: At depth 100.
        rank: The rank of the first relevant document among those returned, or `None`.
    """

    query: str
    ndcg: float
    recall: float
    mrr: float
    recall_at_100: float
    rank: int | None


@dataclass(frozen=True)
class SearchOutcome:
    """What mteb gave: every query, its own aggregate scores, and how many texts were cut."""

    queries: list[QueryOutcome]
    scores: dict[str, float]
    documents: int
    gains: list[list[int]]
    truncated: int = 0


def require_mteb() -> Any:
    """Return the module `mteb`, quiet.

    Raises:
        EvaluationError: It is not installed.
    """
    with needs_extra("the retrieval suite", "eval", EvaluationError):
        import datasets
        import mteb
    datasets.disable_progress_bars()
    logging.getLogger("mteb").setLevel(logging.ERROR)
    return mteb


def query_outcomes(
    scores: Mapping[str, Mapping[str, float]],
    relevant: Mapping[str, Mapping[str, int]],
    ranked: Mapping[str, Mapping[str, float]],
) -> list[QueryOutcome]:
    """Return what each query got.

    Args:
        scores: trec_eval's scores by query.
        relevant: The gains of the relevant documents by query.
        ranked: The similarity of the returned documents by query.
    """
    found = []
    for query, own in scores.items():
        order = sorted(ranked[query].items(), key=lambda pair: (pair[1], pair[0]), reverse=True)
        hits = (place for place, (document, _) in enumerate(order, 1) if relevant[query].get(document, 0) > 0)
        rank = next(hits, None)
        found.append(
            QueryOutcome(
                query,
                ndcg=own[f"ndcg_cut_{DEPTH}"],
                recall=own[f"recall_{DEPTH}"],
                mrr=1.0 / rank if rank is not None and rank <= DEPTH else 0.0,
                recall_at_100=own["recall_100"],
                rank=rank,
            )
        )
    return found


def _encoder(embedder: Embedder, kept: Path | None, watch: Callable[[float], None]) -> Any:
    """Return an encoder for mteb; `watch` is told how many texts were embedded so far, in all."""
    from mteb.models.abs_encoder import AbsEncoder

    class Encoder(AbsEncoder):  # type: ignore[misc]
        done = truncated = 0

        def encode(self, inputs: Any, **_options: Any) -> NDArray[np.float32]:
            texts = [text for batch in inputs for text in batch["text"]]
            found = embed_by_chunks(embedder, texts, kept, lambda done: watch(self.done + done))
            self.done += len(texts)
            self.truncated += found.truncated
            return found.vectors

    return Encoder()


@contextlib.contextmanager
def _recorded(task: Any, outcomes: dict[str, SearchOutcome], corpora: Callable[[str, str], int]) -> Iterator[None]:
    """Keep the single queries of a task while the block runs."""
    before = task.task_specific_scores

    def record(scores: Any, qrels: Any, results: Any, hf_split: str, hf_subset: str) -> dict[str, float]:
        gains = [[gain for gain in qrels[query].values() if gain > 0] for query in scores]
        found = query_outcomes(scores, qrels, results)
        outcomes[hf_subset] = SearchOutcome(found, {}, corpora(hf_subset, hf_split), gains)
        given: dict[str, float] = before(scores, qrels, results, hf_split, hf_subset)
        return given

    task.task_specific_scores = record
    try:
        yield
    finally:
        del task.task_specific_scores


def run_task(
    task: Any, embedder: Embedder, kept: Path | None, watch: Callable[[float], None]
) -> dict[str, SearchOutcome]:
    """Run one retrieval task of mteb and return the outcome by subset; each has the count of texts cut in all."""
    mteb = require_mteb()
    outcomes: dict[str, SearchOutcome] = {}

    def corpus_of(subset: str, split: str) -> int:
        return len(task.dataset[subset][split]["corpus"])

    encoder = _encoder(embedder, kept, watch)
    with _recorded(task, outcomes, corpus_of):
        result = mteb.evaluate(encoder, [task], cache=None, co2_tracker=False, show_progress_bar=False)
    for rows in result.task_results[0].scores.values():
        for row in rows:
            own = outcomes[row["hf_subset"]]
            own.scores.update({name: float(value) for name, value in row.items() if isinstance(value, float | int)})
    return {subset: replace(own, truncated=encoder.truncated) for subset, own in outcomes.items()}


def local_task(given: RetrievalSet) -> Any:
    """Return a retrieval task of mteb that holds a set of ours."""
    require_mteb()
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    class LocalRetrieval(AbsTaskRetrieval):  # type: ignore[misc]
        k_values = K_VALUES
        metadata = TaskMetadata(
            name="LocalRetrieval",
            description=given.name,
            dataset={"path": "local/files", "revision": "1"},
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score=f"ndcg_at_{DEPTH}",
        )

        def load_data(self, num_proc: int | None = None, **_options: Any) -> None:
            ids, texts = list(given.documents), list(given.documents.values())
            split = {
                "corpus": Dataset.from_dict({"id": ids, "title": [""] * len(ids), "text": texts}),
                "queries": Dataset.from_dict({"id": list(given.queries), "text": list(given.queries.values())}),
                "relevant_docs": {query: dict(gains) for query, gains in given.relevant.items()},
                "top_ranked": None,
            }
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    return LocalRetrieval()


def search_set(
    given: RetrievalSet, embedder: Embedder, kept: Path | None = None, watch: Callable[[float], None] = lambda _: None
) -> SearchOutcome:
    """Rank a set's documents for each of its queries by cosine, and score the rankings.

    Args:
        given: The set.
        embedder: What embeds its texts.
        kept: Where vectors survive an interruption.
        watch: Called with how many texts were embedded.
    """
    return run_task(local_task(given), embedder, kept, watch)["default"]


def run_hub_task(
    name: str, subsets: Sequence[str], embedder: Embedder, kept: Path, watch: Callable[[float], None]
) -> dict[str, SearchOutcome]:
    """Run a retrieval task that mteb knows by name on its test split, or the split it has; the hub gives its data.

    Args:
        name: Its name in mteb.
        subsets: The subsets to take; empty takes all.
        embedder: What embeds its texts.
        kept: Where vectors survive an interruption.
        watch: Called with how many texts were embedded.

    Raises:
        TaskSkippedError: The hub does not give the data.
        EvaluationError: mteb has no retrieval task of this name.
    """
    mteb = require_mteb()
    try:
        splits = mteb.get_task(name).metadata.eval_splits
        chosen = ["test"] if "test" in splits else splits[:1]
        task = mteb.get_task(name, eval_splits=chosen, hf_subsets=list(subsets) or None)
    except KeyError as error:
        raise EvaluationError("mteb has no task of this name", seen=name, fix="check the spelling") from error
    if not hasattr(task, "k_values"):
        raise EvaluationError("this task of mteb is not a retrieval task", seen=name, fix="choose a retrieval task")
    _load(task)
    return run_task(task, embedder, kept, watch)


def _load(task: Any) -> None:
    """Load a task's data.

    Raises:
        TaskSkippedError: The hub does not give it.
    """
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        task.load_data()
    except (HfHubHTTPError, OfflineModeIsEnabled, ConnectionError, OSError) as error:
        raise TaskSkippedError(
            "the hub did not give the data of this task",
            seen=f"{task.metadata.name}: {str(error).splitlines()[0]}",
            fix="repeat it with a connection to the hub",
        ) from error


def benchmark_tasks(name: str) -> list[Any]:
    """Return the tasks of a benchmark of mteb.

    Raises:
        EvaluationError: mteb has no benchmark of this name, or is not installed.
    """
    mteb = require_mteb()
    try:
        return list(mteb.get_benchmark(name).tasks)
    except KeyError as error:
        raise EvaluationError(
            "mteb has no benchmark of this name", seen=name, fix="see mteb.get_benchmarks()"
        ) from error


def main_score(task: Any, embedder: Embedder, kept: Path | None, watch: Callable[[float], None]) -> tuple[float, int]:
    """Run any task of mteb; return the mean main score of its splits and subsets, and how many texts were cut.

    Args:
        task: The task.
        embedder: What embeds its texts.
        kept: Where vectors survive an interruption.
        watch: Called with how many texts were embedded.

    Raises:
        TaskSkippedError: The hub does not give the data.
    """
    mteb = require_mteb()
    _load(task)
    encoder = _encoder(embedder, kept, watch)
    result = mteb.evaluate(encoder, [task], cache=None, co2_tracker=False, show_progress_bar=False)
    values = [float(row["main_score"]) for rows in result.task_results[0].scores.values() for row in rows]
    return sum(values) / len(values), int(encoder.truncated)
