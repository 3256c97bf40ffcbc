"""From plans and result files to scores: what every item counts for.

A metric that is no mean over items (a correlation, F1, BLEU) becomes the mean of jackknife pseudo-values, which are
computed from what was written of each item. A metric of several tunings is the mean of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from seqpair.compare.resampling import (
    classes_without_each,
    pearson_without_each,
    pseudo_values,
    ratio_without_each,
    spearman_without_each,
)
from seqpair.compare.values import Floats, Model, Scores, Task
from seqpair.errors import EvaluationError, needs_extra
from seqpair.evaluate.finetune.metrics import class_metrics, entities
from seqpair.evaluate.results import ItemOutcome, TaskResult, is_mean_of_items, read_items, read_results
from seqpair.recipe.cost import SPECIALS_PER_SEQUENCE, flops_per_token
from seqpair.recipe.diff import pair_identity
from seqpair.recipe.objectives import OBJECTIVES
from seqpair.recipe.plan import Plan
from seqpair.recipe.sizes import parameter_count

Found = tuple[float, Floats]
Details = Sequence[Mapping[str, Any]]
NEVER_MEANS = ("spearman", "pearson", "matthews", "f1_macro", "f1_entities", "accuracy_words", "bleu")
"""Metrics that are of all items together, whatever their value happens to equal."""
_CLOSE = 1e-3  # older files hold numbers with four decimals
_AGAIN = "evaluate it again with this version"
_REASONS = {
    "spearman": "all predictions or all true values are equal",
    "pearson": "all predictions or all true values are equal",
    "matthews": "all predictions or all true classes are the same",
}


def model_of_plan(
    plan: Plan,
    *,
    checkpoint: str = "",
    positions: dict[str, int] | None = None,
    tokens: int | None = None,
    train_seconds: float | None = None,
    objective: str | None = None,
) -> Model:
    """Return the model that a plan trains, at its end or at a checkpoint.

    Args:
        plan: The member's plan.
        checkpoint: The checkpoint's name; empty for the end.
        positions: For every phase begun how many positions were read, from the checkpoint's manifest; None for all.
        tokens: Content tokens read; None takes the plan's own count at those positions.
        train_seconds: Wall-clock seconds of training until then.
        objective: The objective that a second export is for; the direction is then that one's.
    """
    read = {phase.name: phase.positions for phase in plan.phases} if positions is None else positions
    count = parameter_count(plan.model.shape, plan.model.vocab_size)
    planned = sum(read.get(phase.name, 0) * phase.mean_tokens for phase in plan.phases)
    flops = sum(
        flops_per_token(plan.model, phase) * read.get(phase.name, 0) * (phase.mean_tokens + SPECIALS_PER_SEQUENCE)
        for phase in plan.phases
    )
    return Model(
        member=plan.member if objective is None else f"{plan.member} as {objective}",
        size=plan.size,
        seed=plan.seed,
        direction=plan.derived.direction if objective is None else OBJECTIVES[objective].direction,
        identity=pair_identity(plan),
        checkpoint=checkpoint,
        tokens=round(planned) if tokens is None else tokens,
        parameters=count.total,
        non_embedding_parameters=count.non_embedding,
        train_flops=flops,
        train_seconds=train_seconds,
    )


def model_from_elsewhere(name: str, *, size: str = "", direction: str = "", seed: int = 0) -> Model:
    """Return a model that was not trained here: it has no identity, and one run that stands against all of ours."""
    return Model(member=name, size=size, seed=seed, direction=direction)


def read_scores(folder: Path, model: Model) -> list[Scores]:
    """Return all scores in an evaluation folder.

    Raises:
        EvaluationError: A file cannot be read, or the items of a result are missing.
    """
    found = [scores_of(model, result, read_items(folder, result)) for result in read_results(folder)]
    return [*found, *(gold for own in found for gold in gold_scores(own))]


_CLUSTER_FIELDS = ("paradigm", "occupation", "article")
"""What committed results call the cluster of an item, which had no field of its own then."""


def cluster_of(name: str, detail: Mapping[str, Any], named: str = "") -> str:
    """Return the cluster that an item names, else the one that its details or name give; empty where none does."""
    if named:
        return named
    found = next((str(detail[field]) for field in _CLUSTER_FIELDS if field in detail), "")
    return found or (name.rsplit("@", 1)[0] if "@" in name else "")  # a passage is named document@offset


def scores_of(model: Model, result: TaskResult, items: Sequence[ItemOutcome]) -> Scores:
    """Return a result with its items as scores of a model."""
    columns = [[item.value for item in items], [item.weight for item in items]]
    ids, details = [item.id for item in items], [item.detail for item in items]
    clusters = [item.cluster for item in items]
    return scores_of_columns(model, result, ids, np.array(columns[0]), np.array(columns[1]), details, clusters)


def scores_of_columns(
    model: Model,
    result: TaskResult,
    ids: Sequence[str],
    values: Floats,
    weights: Floats,
    details: Sequence[Mapping[str, Any]],
    clusters: Sequence[str] = (),
) -> Scores:
    """Return a result as scores of a model: the items' outcomes, or their jackknife pseudo-values.

    Where the result's value is not a mean over its items and pseudo-values cannot be made, the scores say why not.

    Args:
        model: Whose they are.
        result: The result.
        ids: The items' names, (n,).
        values: Their outcomes, (n,).
        weights: How much each counts, (n,).
        details: What was written of each, n of them, or none.
        clusters: The cluster that each names, or empty, n of them; or none.
    """
    kept = {name: dict(detail) for name, detail in zip(ids, details, strict=bool(details)) if detail}
    named = dict(zip(ids, clusters, strict=True)) if clusters else {}
    found = {name: cluster for name in ids if (cluster := cluster_of(name, kept.get(name, {}), named.get(name, "")))}
    own = Scores(model, task_of(result), tuple(ids), values, weights, details=kept, clusters=found)
    if result.metric not in NEVER_MEANS and is_mean_of_items(result.value, values, weights):
        return own
    try:
        pseudo = item_pseudo_values(result, values, details)
    except EvaluationError as fault:
        seen = str(fault).splitlines()[1].strip() if "\n" in str(fault) else ""
        return replace(own, value=result.value, why_not=fault.what + (f" ({seen})" if seen else ""))
    for name, value in zip(ids, values, strict=True):
        kept[name]["outcome"] = float(value)
    return replace(own, values=pseudo, weights=np.ones(len(pseudo)), by_jackknife=True)


def gold_scores(own: Scores) -> list[Scores]:
    """Return what was scored anyway beside right and wrong: how likely the right answers are, and by how much.

    The same strings are scored for every member, so their log-probabilities can be paired, and they differ where no
    small model is right more often than by chance (arXiv 2508.13144). Bits per byte where the answers' bytes were
    written (`gold_bytes`), weighted by them; else nats per answer. A minimal pair also has its margin. An encoder's
    are by the rule of filling masks from left to right.
    """
    rows = [own.details.get(name, {}) for name in own.ids]
    # Minimal pairs and passages have no `gold`: the right one is written first.
    first_is_right = own.task.name.partition("@")[0] == "continuation"
    golds = [detail.get("gold", 0 if first_is_right or "paradigm" in detail else None) for detail in rows]
    lists = [scores for detail in rows if isinstance(scores := detail.get("scores"), list)]
    if own.task.is_lean or not rows or len(lists) < len(rows) or None in golds:
        return []
    right = np.array([scores[gold] for scores, gold in zip(lists, golds, strict=True)], dtype=np.float64)
    sizes = np.array([detail.get("gold_bytes", 0) for detail in rows], dtype=np.float64)
    has_bytes = bool((sizes > 0).all())
    base, _, choices = own.task.name.partition("@")
    way = f"@{choices}" if choices else ""
    likely = replace(
        own.task,
        name=f"{base}_gold{way}",
        title=f"{own.task.title or base}: {'bits per byte' if has_bytes else 'nats'} of the right answer",
        metric="gold_bits_per_byte" if has_bytes else "gold_nats",
        unit="bits per byte" if has_bytes else "nats per answer",
        higher_is_better=False,
        chance=None,
    )
    values, weights = (-right / math.log(2) / sizes, sizes) if has_bytes else (-right, np.ones(len(right)))
    found = [replace(own, task=likely, values=values, weights=weights, by_jackknife=False)]
    if all("paradigm" in detail and len(scores) == 2 for detail, scores in zip(rows, lists, strict=True)):
        margin = replace(
            own.task,
            name=f"{base}_margin{way}",
            title=f"{own.task.title or base}: log-probability of the right sentence above the wrong one",
            metric="margin",
            unit="nats",
            chance=0.0,
        )
        gaps = np.array([scores[0] - scores[1] for scores in lists], dtype=np.float64)
        found.append(replace(own, task=margin, values=gaps, weights=np.ones(len(gaps)), by_jackknife=False))
    return found


def task_of(result: TaskResult) -> Task:
    """Return what a result is of."""
    return Task(
        name=result.task,
        version=result.version,
        title=result.title,
        metric=result.metric,
        unit=result.unit,
        higher_is_better=result.higher_is_better,
        is_lean=result.is_lean,
        chance=result.chance,
        settings=result.settings,
    )


def item_pseudo_values(result: TaskResult, values: Floats, details: Details) -> Floats:
    """Return a result's pseudo-values, (n,), in the order of the items.

    Args:
        result: The result.
        values: The items' own outcomes, (n,).
        details: What was written of each item, n of them.

    Raises:
        EvaluationError: The metric is none of those that are known here, the items lack what it is computed from, they
            do not give the result's value, or it is undefined, with all items or without one of them.
    """
    if len(values) < 3 or len(details) != len(values):
        raise EvaluationError(
            f"the items of {result.task} do not contain what its {result.metric} is computed from", fix=_AGAIN
        )
    try:
        found = [_without_each(result, *columns) for columns in _truth_and_predictions(values, details)]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise EvaluationError(
            f"the items of {result.task} do not contain what its {result.metric} is computed from",
            seen=f"{type(error).__name__}: {error}",
            fix=_AGAIN,
        ) from error
    for whole, without in found:
        _require_defined(result, whole, without)
    value = math.fsum(whole for whole, _ in found) / len(found)
    scale = 100.0 if result.metric == "bleu" else 1.0
    if abs(value - result.value) > _CLOSE * scale:
        raise EvaluationError(
            f"the items of {result.task} do not reproduce its {result.metric} back",
            seen=f"{value:.6g} from the items, {result.value:.6g} in the result",
            fix=_AGAIN,
        )
    return np.asarray(np.mean([pseudo_values(whole, without) for whole, without in found], axis=0))


def _require_defined(result: TaskResult, whole: float, without: Floats) -> None:
    if np.isfinite(whole) and np.isfinite(without).all():
        return
    where = "" if not np.isfinite(whole) else " without one of its items"
    why = _REASONS.get(result.metric, "nothing is left to count")
    raise EvaluationError(
        f"the {result.metric} of {result.task} is undefined{where}",
        seen=f"then {why}",
        fix="evaluate on more items, or choose another metric",
    )


def _truth_and_predictions(values: Floats, details: Details) -> list[tuple[list[Any], list[Any]]]:
    """Return what is true and what was predicted of all items, once a tuning.

    Pairs of texts keep people's `score`, and the cosine as their outcome; what was tuned keeps `gold` and `guesses`.
    """
    if "gold" in details[0]:
        gold = [own["gold"] for own in details]
        tunings = len(details[0]["guesses"])
        return [(gold, [own["guesses"][number] for own in details]) for number in range(tunings)]
    scores = [own["score"] for own in details]
    if "values_by_seed" not in details[0]:
        return [(scores, list(values))]
    tunings = len(details[0]["values_by_seed"])
    return [(scores, [own["values_by_seed"][number] for own in details]) for number in range(tunings)]


def _without_each(result: TaskResult, gold: list[Any], predicted: list[Any]) -> Found:
    if result.metric not in _MEASURES:
        raise EvaluationError(
            f"the value of {result.task} is not a mean over its items, so items cannot be paired",
            seen=result.metric,
            allowed=f"a mean, or by jackknife {', '.join(_MEASURES)}",
            fix="compare a task with such a metric",
        )
    return _MEASURES[result.metric](result, gold, predicted)


def _classes(result: TaskResult, gold: list[Any], predicted: list[Any]) -> Found:
    names = list(result.settings["labels"])
    places = {name: index for index, name in enumerate(names)}
    columns = [np.array([places[name] for name in column]) for column in (gold, predicted)]
    return classes_without_each(columns[0], columns[1], len(names), lambda counts: class_metrics(counts)[result.metric])


def _entities(_: TaskResult, gold: list[Any], predicted: list[Any]) -> Found:
    both, all_of = [], []
    for tags, guess in zip(gold, predicted, strict=True):
        a, b = entities(tags), entities(guess)
        both.append(2.0 * len(a & b))
        all_of.append(float(len(a) + len(b)))
    return ratio_without_each(both, all_of)


def _words(_: TaskResult, gold: list[Any], predicted: list[Any]) -> Found:
    pairs = list(zip(gold, predicted, strict=True))
    right = [float(sum(a == b for a, b in zip(tags, guess, strict=True))) for tags, guess in pairs]
    return ratio_without_each(right, [float(len(tags)) for tags in gold])


def _bleu(_: TaskResult, gold: list[Any], predicted: list[Any]) -> Found:
    """Return corpus BLEU from the sums of the texts' counts, each text's own taken out."""
    with needs_extra("BLEU", "eval", EvaluationError):
        from sacrebleu.metrics.bleu import BLEU
    measure = BLEU(effective_order=True)  # silences the warning of single sentences; counts do not depend on it
    own = [measure.sentence_score(guess.strip(), [text.strip()]) for text, guess in zip(gold, predicted, strict=True)]
    counts = np.array([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in own], dtype=np.int64)

    def score(sums: Any) -> float:
        numbers = [int(number) for number in sums]
        return float(BLEU.compute_bleu(numbers[:4], numbers[4:8], numbers[8], numbers[9]).score)

    total = counts.sum(axis=0)
    return score(total), np.array([score(total - row) for row in counts])


_MEASURES: dict[str, Callable[[TaskResult, list[Any], list[Any]], Found]] = {
    "spearman": lambda _, gold, predicted: spearman_without_each(gold, predicted),
    "pearson": lambda _, gold, predicted: pearson_without_each(gold, predicted),
    "matthews": _classes,
    "f1": _classes,
    "f1_macro": _classes,
    "f1_entities": _entities,
    "accuracy_words": _words,
    "bleu": _bleu,
}
