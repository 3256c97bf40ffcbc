"""From a grid's runs to what a result says: items, value, standard error, chance, and every metric.

An item's value is the mean over the seeds of its own value. The value of the result is the mean over the seeds of
the set's metric; its standard error is over the choice of items (of the items' means, or 400 bootstrap samples of
items, of texts 100, the same for all seeds); how the seeds differ is a figure of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from seqpair.evaluate.finetune.metrics import (
    all_metrics,
    constant_guess,
    is_mean_of_rows,
    row_values,
    undefined_note,
)
from seqpair.evaluate.finetune.model import pooling_of
from seqpair.evaluate.finetune.runs import GridResult
from seqpair.evaluate.finetune.sets import LabelledSet
from seqpair.evaluate.results import ItemOutcome, standard_error
from seqpair.evaluate.task import TaskOutcome
from seqpair.recipe.objectives import Direction

BOOTSTRAP_SAMPLES = 400
TEXT_SAMPLES = 100


def outcome_of(result: GridResult, name: str, direction: Direction) -> TaskOutcome:
    """Return what a grid says about one of its sets, learned or only answered."""
    one = next(one for one in [*result.sets, *result.others] if one.labelled.name == name)
    is_learned = one in result.sets
    labelled = one.labelled
    gold = [row.label for row in labelled.reported]
    guesses = [run.guesses[name] for run in result.chosen]
    items = measured_items(labelled, guesses)
    figures = {
        f"{metric}_mean": value for metric, value in _means([run.reported[name] for run in result.chosen]).items()
    }
    if is_learned:
        dev = _means([run.dev[name] for run in result.chosen])
        figures |= {f"dev_{metric}_mean": value for metric, value in dev.items()}
    values = [run.reported[name][labelled.metric] for run in result.chosen]
    if len(values) > 1:
        figures["seed_standard_deviation"] = float(np.std(values, ddof=1))
    figures |= {count: float(value) for count, value in one.counts.items()}
    figures |= {
        "runs": float(len(result.runs)),
        "failed_runs": float(sum(bool(run.failed) for run in result.runs)),
        "stopped_early_runs": float(sum(run.stopped_early for run in result.runs)),
    }
    chosen = result.chosen[0].setting
    settings: dict[str, Any] = {
        "chosen": chosen.as_json() | {"pooling": pooling_of(chosen.pooling, direction)},
        "grid": [{"setting": setting.label, "dev": score} for setting, score in result.table],
        "learned_with": [other.labelled.name for other in result.sets if other.labelled.name != name],
        "values_by_seed": {str(run.seed): value for run, value in zip(result.chosen, values, strict=True)},
        "data_digest": labelled.digest,
    }
    if labelled.kind == "classes":
        settings["labels"] = list(labelled.labels)
    error = standard_error(items) if is_mean_of_rows(labelled) else bootstrap_error(labelled, gold, guesses)
    notes = [labelled.note] if labelled.note else []
    notes += [note for note in (undefined_note(labelled, gold, guesses),) if note]
    if is_learned and not labelled.test:
        notes.append("Reported on the dev rows, which also chose the setting and when to stop.")
    return TaskOutcome(
        items,
        settings,
        chance=constant_guess(labelled, gold),
        figures=figures,
        note=" ".join(notes),
        value=math.fsum(values) / len(values),
        standard_error=error,
    )


def measured_items(labelled: LabelledSet, guesses: Sequence[Sequence[Any]]) -> list[ItemOutcome]:
    """Return an outcome for each reported row: its mean value over the seeds, and each seed's guess."""
    rows = labelled.reported
    gold = [row.label for row in rows]
    by_seed = [row_values(labelled, gold, own) for own in guesses]
    return [
        ItemOutcome(
            id=row.id,
            value=math.fsum(values[index] for values in by_seed) / len(by_seed),
            detail={"gold": shown(labelled, row.label), "guesses": [shown(labelled, own[index]) for own in guesses]},
        )
        for index, row in enumerate(rows)
    ]


def shown(labelled: LabelledSet, label: Any) -> Any:
    """Return a label or guess as a reader knows it."""
    if labelled.kind == "classes":
        return labelled.labels[label]
    if labelled.kind == "tags":
        return [labelled.labels[tag] for tag in label]
    if labelled.kind == "number":
        return float(f"{float(label):.9g}")
    return label if isinstance(label, str) else list(label)


def bootstrap_error(labelled: LabelledSet, gold: Sequence[Any], guesses: Sequence[Sequence[Any]]) -> float | None:
    """Return the standard deviation of the metric, a mean over seeds, over samples of the items with replacement."""
    if len(gold) < 2:
        return None
    draw, values = np.random.default_rng(0), []
    for _ in range(TEXT_SAMPLES if labelled.kind == "text" else BOOTSTRAP_SAMPLES):
        places = draw.integers(0, len(gold), len(gold)).tolist()
        sample = [gold[place] for place in places]
        own = [all_metrics(labelled, sample, [guess[place] for place in places])[labelled.metric] for guess in guesses]
        values.append(math.fsum(own) / len(own))
    return float(np.std(values, ddof=1))


def _means(metrics: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: math.fsum(one[name] for one in metrics) / len(metrics) for name in metrics[0]}
