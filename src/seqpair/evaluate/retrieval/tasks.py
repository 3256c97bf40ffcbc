"""The tasks of the suite `retrieval`: with models as they are, after fine-tuning, and sets that mteb fetches.

After fine-tuning all sets are searched with the same embedder of a seed, which is kept beside the results. An item's
value is the mean over the seeds. Sets of the hub are only searched when they are named.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from seqpair.errors import EvaluationError
from seqpair.evaluate.imported import ALL_TASKS, MTEB, task_name
from seqpair.evaluate.results import ItemOutcome, weighted_mean
from seqpair.evaluate.retrieval.contrastive import SETTINGS, Tuned, TuningOptions, tune_on_pairs, tune_on_scores
from seqpair.evaluate.retrieval.embedders import AS_FOLDER, embed_by_chunks, embedder_of, open_kept
from seqpair.evaluate.retrieval.outcomes import (
    STSB_DEV,
    STSB_TEST,
    STSB_TRAIN,
    ScoredPair,
    chance_of,
    cut_note,
    read_scored_pairs,
    search_items,
    search_outcome,
    search_task,
    similarity_outcome,
    similarity_task,
    spearman_error,
    warn_cut,
)
from seqpair.evaluate.retrieval.sets import LOCAL_SETS, LocalSet, RetrievalSet, read_training_pairs
from seqpair.evaluate.retrieval.with_mteb import DEPTH, benchmark_tasks, main_score, run_hub_task, search_set
from seqpair.evaluate.task import BOTH, Outcomes, SuiteTask, TaskContext, TaskOutcome
from seqpair.models.text_model import TextModel
from seqpair.text import note

_USES = ("embed_pooling",)
PAIRS_FILE = "retrieval/pairs.jsonl"
HUB_NAMES = {
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
HUB_SUBSETS = {"MultiLongDocRetrieval": ("en",)}
"""What is taken of a task whose other subsets are in other languages."""


def search(local: LocalSet, model: TextModel, context: TaskContext) -> TaskOutcome:
    """Search a local set with a model as it is.

    Raises:
        EvaluationError: The set cannot be read, or the model cannot embed.
    """
    return search_given(local.load(context.data, context.limit), model, context)


def search_given(given: RetrievalSet, model: TextModel, context: TaskContext) -> TaskOutcome:
    """Search a set with a model as it is.

    Raises:
        EvaluationError: The model cannot embed.
    """
    embedder = embedder_of(model, context.settings.get("embed_pooling", AS_FOLDER))
    total = len(given.documents) + len(given.queries)
    outcome = search_set(given, embedder, context.work, lambda done: context.watch(done, total))
    warn_cut(outcome.truncated, embedder.max_tokens)
    return search_outcome(given, outcome, embedder)


def similarity(model: TextModel, context: TaskContext) -> TaskOutcome:
    """Rank sentence pairs by cosine with a model as it is.

    Raises:
        EvaluationError: The pairs cannot be read, or the model cannot embed.
    """
    return rank_pairs(context.limited(read_scored_pairs(context.input(STSB_TEST))), model, context)


def rank_pairs(pairs: Sequence[ScoredPair], model: TextModel, context: TaskContext) -> TaskOutcome:
    """Rank pairs of texts by cosine with a model as it is.

    Raises:
        EvaluationError: The model cannot embed.
    """
    embedder = embedder_of(model, context.settings.get("embed_pooling", AS_FOLDER))
    texts = [text for pair in pairs for text in (pair.first, pair.second)]
    embedded = embed_by_chunks(embedder, texts, context.work, lambda done: context.watch(done, len(texts)))
    warn_cut(embedded.truncated, embedder.max_tokens)
    return similarity_outcome(pairs, embedded, embedder)


class _Steps:
    """One count over all seeds: the pairs trained on, then the texts embedded.

    Args:
        context: Whose `watch` is told.
        pairs, texts: How many of them a seed has.
    """

    def __init__(self, context: TaskContext, pairs: int, texts: int) -> None:
        self._context, self._pairs, self._texts = context, pairs, texts

    def tuning(self, seed: int) -> Callable[[float, float], None]:
        """Return what fine-tuning tells how much of it is done."""
        return lambda done, total: self._tell(seed, self._pairs * done / total)

    def embedding(self, seed: int) -> Callable[[float], None]:
        """Return what embedding tells how many texts are done."""
        return lambda done: self._tell(seed, self._pairs + done)

    def _tell(self, seed: int, done: float) -> None:
        each, seeds = self._pairs + self._texts, self._context.seeds
        self._context.watch(seeds.index(seed) * each + done, each * len(seeds))


def search_tuned(local: LocalSet, model: TextModel, context: TaskContext) -> TaskOutcome:
    """Fine-tune on pairs for each seed, search a local set, and join the seeds.

    Raises:
        EvaluationError: The pairs or the set cannot be read, or the model cannot be fine-tuned.
    """
    options = TuningOptions.of(context.settings).limited(context.limit)
    given = local.load(context.data, context.limit)
    path = context.input(options.pairs or PAIRS_FILE)
    pairs = read_training_pairs(path, options.columns, options.train_pairs)
    if pairs.left_out:
        note(f"{pairs.left_out} rows of {path.name} were left out, because a text is empty or the row occurred before")
    texts = len(given.documents) + len(given.queries)
    steps = _Steps(context, len(pairs.pairs) * options.epochs * len(options.learning_rates), texts)
    outcomes, tunings = [], []
    for seed in context.seeds:
        tuned = tune_on_pairs(model, pairs.pairs, options, seed, context.kept, steps.tuning(seed))
        embedder = open_kept(tuned.folder, model)
        found = search_set(given, embedder, context.work / f"seed{seed}", steps.embedding(seed))
        outcomes.append(search_outcome(given, found, embedder))
        tunings.append(tuned)
        warn_cut(found.truncated, embedder.max_tokens)
    joined = join_seeds(outcomes, tunings, options)
    return replace(
        joined, settings=joined.settings | {"training_pairs": len(pairs.pairs), "pairs_digest": pairs.digest}
    )


def similarity_tuned(model: TextModel, context: TaskContext) -> TaskOutcome:
    """Fine-tune on STS-B's training pairs for each seed, and rank its test pairs.

    Raises:
        EvaluationError: The pairs cannot be read, or the model cannot be fine-tuned.
    """
    options = TuningOptions.of(context.settings).limited(context.limit)
    training = read_scored_pairs(context.input(STSB_TRAIN))[: options.train_pairs]
    dev = context.limited(read_scored_pairs(context.input(STSB_DEV)))
    pairs = context.limited(read_scored_pairs(context.input(STSB_TEST)))
    texts = [text for pair in pairs for text in (pair.first, pair.second)]
    steps = _Steps(context, len(training) * options.epochs * len(options.learning_rates), len(texts))
    outcomes, tunings = [], []
    for seed in context.seeds:
        tuned = tune_on_scores(model, training, dev, options, seed, context.kept, steps.tuning(seed))
        embedder = open_kept(tuned.folder, model)
        embedded = embed_by_chunks(embedder, texts, context.work / f"seed{seed}", steps.embedding(seed))
        outcomes.append(similarity_outcome(pairs, embedded, embedder))
        tunings.append(tuned)
    joined = join_seeds(outcomes, tunings, options)
    mean = math.fsum(outcome.value or 0.0 for outcome in outcomes) / len(outcomes)
    return replace(
        joined,
        value=mean,
        standard_error=spearman_error(mean, len(pairs)),
        settings=joined.settings | {"training_pairs": len(training)},
    )


def join_seeds(outcomes: Sequence[TaskOutcome], tunings: Sequence[Tuned], options: TuningOptions) -> TaskOutcome:
    """Return one outcome of those of all seeds.

    An item's value is its mean over the seeds, its details are the first seed's; figures are means, and the deviation
    between seeds stands beside them.
    """
    first = outcomes[0]
    columns = zip(*(outcome.items for outcome in outcomes), strict=True)
    items = [
        ItemOutcome(
            id=own[0].id,
            value=math.fsum(item.value for item in own) / len(own),
            detail=own[0].detail | ({"values_by_seed": [item.value for item in own]} if len(own) > 1 else {}),
            cluster=own[0].cluster,
        )
        for own in columns
    ]
    values = [weighted_mean(outcome.items) if outcome.value is None else outcome.value for outcome in outcomes]
    figures = {name: math.fsum(own.figures[name] for own in outcomes) / len(outcomes) for name in first.figures}
    if len(values) > 1:
        mean = math.fsum(values) / len(values)
        figures["deviation_between_seeds"] = math.sqrt(
            math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)
        )
    sweeps: list[dict[str, Any]] = [
        {"seed": tuned.record["seed"], "chosen": tuned.record["chosen"], "sweep": tuned.record["sweep"]}
        for tuned in tunings
    ]
    settings = first.settings | {
        "tuning": asdict(options),
        "dev_metric": tunings[0].record["metric"],
        "sweeps": sweeps,
        "values_by_seed": values,
        "embedders": [str(tuned.folder) for tuned in tunings],
    }
    note = " ".join(dict.fromkeys(outcome.note for outcome in outcomes if outcome.note))
    return replace(first, items=items, figures=figures, settings=settings, note=note)


def search_hub(name: str, model: TextModel, context: TaskContext) -> TaskOutcome:
    """Run a task of mteb; all queries of all its subsets are items.

    Raises:
        TaskSkippedError: The hub does not give the data.
        EvaluationError: A limit was set, or mteb cannot run it.
    """
    if context.limit is not None:
        raise EvaluationError(
            "a task of the hub is done whole or not at all", seen=f"--limit {context.limit}", fix="leave --limit out"
        )
    embedder = embedder_of(model, context.settings.get("embed_pooling", AS_FOLDER))
    outcomes = run_hub_task(
        name, HUB_SUBSETS.get(name, ()), embedder, context.work, lambda done: context.watch(done, 0)
    )
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
    truncated = max(outcome.truncated for outcome in outcomes.values())  # each has the count of all subsets
    figures["truncated_texts"] = float(truncated)
    warn_cut(truncated, embedder.max_tokens)
    settings = {"mteb_task": name, "embedding": embedder.method, "max_tokens": embedder.max_tokens}
    return TaskOutcome(
        items,
        settings,
        chance=math.fsum(chances) / len(chances),
        figures=figures,
        note=cut_note(truncated, embedder.max_tokens),
    )


def whole_benchmark(model: TextModel, context: TaskContext) -> TaskOutcome:
    """Run a benchmark of mteb with a model as it is; an item is one of its tasks, each computed once and kept.

    Raises:
        TaskSkippedError: The hub does not give the data of a task; the tasks before it are kept.
        EvaluationError: A limit was set, or mteb has no benchmark of this name.
    """
    if context.limit is not None:
        raise EvaluationError(
            "a benchmark of mteb is done whole or not at all", seen=f"--limit {context.limit}", fix="leave --limit out"
        )
    name = context.settings.get("benchmark", BENCHMARK)
    embedder = embedder_of(model, context.settings.get("embed_pooling", AS_FOLDER))

    def compute(tasks: Sequence[Any]) -> Outcomes:
        (task,) = tasks
        own, kind = task.metadata.name, task.metadata.type
        value, truncated = main_score(task, embedder, context.work / own, lambda _done: None)
        note(f"{model.name}: {own} {value:.4f}")
        return Outcomes([ItemOutcome(id=task_name(MTEB, own), value=value, detail={"type": kind})], truncated)

    items, truncated = context.by_chunks(benchmark_tasks(name), compute, 1)
    by_type: dict[str, list[float]] = {}
    for item in items:
        by_type.setdefault(str(item.detail["type"]).lower(), []).append(item.value)
    figures = {f"mean_{kind}": math.fsum(values) / len(values) for kind, values in sorted(by_type.items())}
    settings = {"benchmark": name, "embedding": embedder.method, "max_tokens": embedder.max_tokens}
    return TaskOutcome(items, settings, figures=figures, truncated=truncated)


BENCHMARK = "MTEB(eng, v2)"
MTEB_TASKS = (
    SuiteTask(
        name=task_name(MTEB, ALL_TASKS),
        version=1,
        title=f"{BENCHMARK}, mean of its tasks",
        suite=MTEB,
        metric="main_score",
        unit="mteb's main score",
        higher_is_better=True,
        directions=BOTH,
        inputs=(),
        run=whole_benchmark,
        needs_head=False,
        uses=("embed_pooling", "benchmark"),
    ),
)
TUNED_TASKS = (
    similarity_task(
        "stsb_tuned",
        "STS-B test, fine-tuned on its training pairs",
        similarity_tuned,
        (STSB_TRAIN, STSB_DEV, STSB_TEST),
        uses=("seeds", "grid", *(name for name in SETTINGS if name not in ("pairs", "columns", "hard_negatives"))),
    ),
    *(
        search_task(
            local.tuned_name,
            f"{local.title}, fine-tuned on pairs",
            partial(search_tuned, local),
            (local.path,),
            without_inputs="training pairs are named with --choice pairs=FILE",
            uses=("seeds", "grid", *SETTINGS),
            files=(("pairs", PAIRS_FILE),),
        )
        for local in LOCAL_SETS
    ),
)
HUB_TASKS = tuple(
    search_task(
        f"hub_{short}",
        f"{name} of mteb, as trained",
        partial(search_hub, name),
        (),
        uses=("embed_pooling",),
        only_named=True,
    )
    for short, name in HUB_NAMES.items()
)
TASKS = (
    similarity_task("stsb_vectors", "STS-B test, as trained", similarity, (STSB_TEST,), uses=_USES),
    *(
        search_task(local.name, f"{local.title}, as trained", partial(search, local), (local.path,), uses=_USES)
        for local in LOCAL_SETS
    ),
    *TUNED_TASKS,
    *HUB_TASKS,
)
