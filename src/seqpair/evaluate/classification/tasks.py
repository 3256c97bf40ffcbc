"""The tasks of the suite `classification`: fine-tuning on labelled sets, one by one, together, and across.

* a set's name: tuned on it and measured on its test rows
* `<set>_from_<other>`: the same, started from a model that was tuned on another set, whose head is dropped
* `multitask`: one model with a head for each of several sets
* `<set>_to_<other>`: tuned on one set, measured on the rows of another
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from seqpair.evaluate.classification.sets import GLUE_NAMES, SETS, find_set
from seqpair.evaluate.finetune.runs import restarted, tune_grid, tuned_outcome
from seqpair.evaluate.finetune.set_spec import FROM_MNLI, GLUE
from seqpair.evaluate.finetune.sets import METRICS, LabelledSet, transfer_of
from seqpair.evaluate.finetune.settings import TuneSetting, grid_settings
from seqpair.evaluate.results import ItemOutcome
from seqpair.evaluate.task import BOTH, SuiteTask, TaskContext, TaskOutcome
from seqpair.models.text_model import TextModel

USES = ("seeds", "grid", "pooling", "head", "head_start")
TOGETHER = ("snli", "qnli_dev", "stsb", "sentence_polarity", "subjectivity")
TO_QNLI = {"neutral": "not_entailment", "contradiction": "not_entailment"}
UNITS = {"accuracy": "share of items", "spearman": "correlation", "matthews": "correlation"}
_FROM_HUB = "write the hub's rows there, or run `seqpair finetune MODEL --task` with the set's name"


def _settings(context: TaskContext, task: str, max_tokens: int) -> list[TuneSetting]:
    """Return the grid that the user chose, by default the small one."""
    given = context.settings
    base = TuneSetting(
        1e-4,
        pooling=given.get("pooling", "default"),
        head=given.get("head", "mlp"),
        head_start=given.get("head_start", "fresh"),
        max_tokens=max_tokens,
    )
    return grid_settings(given.get("grid", "small"), task, base)


def _read(name: str, context: TaskContext) -> tuple[LabelledSet, list[TuneSetting]]:
    labelled = find_set(name, context.data).limited(context.limit)
    return labelled, _settings(context, name, labelled.max_tokens)


def _alone(name: str, model: TextModel, context: TaskContext) -> TaskOutcome:
    """Tune a model on one set and measure it."""
    return measure_set(find_set(name, context.data).limited(context.limit), model, context)


def measure_set(labelled: LabelledSet, model: TextModel, context: TaskContext) -> TaskOutcome:
    """Tune a model on a labelled set by the user's grid and measure it on its reported rows.

    Raises:
        EvaluationError: The model cannot be tuned.
    """
    settings = _settings(context, labelled.name, labelled.max_tokens)
    result = tune_grid(model, [labelled], settings, context.seeds, context.work, context.watch)
    return tuned_outcome(result, labelled.name, model.direction)


def _from(name: str, start: str, model: TextModel, context: TaskContext) -> TaskOutcome:
    """Tune on another set first, by the same grid with the first seed, then as `_alone`."""
    before, settings = _read(start, context)
    watch = _half(context.watch, 0.0)
    first = tune_grid(model, [before], settings, context.seeds[:1], context.work / "start", watch, keep_weights=True)
    after = replace(context, watch=_half(context.watch, 0.5))
    outcome = _alone(name, restarted(model, first), after)
    started = {"set": before.name, "setting": first.best.setting.as_json(), "dev": first.best.dev[before.name]}
    return replace(outcome, settings=outcome.settings | {"started_from": started})


def _half(watch: Callable[[float, float], None], start: float) -> Callable[[float, float], None]:
    """Return what shows one of two parts as a thousand units of two."""
    return lambda done, total: watch(1000 * (start + 0.5 * done / total), 1000.0)


def _together(model: TextModel, context: TaskContext) -> TaskOutcome:
    """Tune one model on several sets; the value is the mean of the sets' own metrics."""
    sets = [_read(name, context)[0] for name in TOGETHER]
    result = tune_grid(model, sets, _settings(context, "", 256), context.seeds, context.work, context.watch)
    outcomes = {one.name: tuned_outcome(result, one.name, model.direction) for one in sets}
    items = [
        ItemOutcome(id=f"{name}-{item.id}", value=item.value, detail=item.detail)
        for name, outcome in outcomes.items()
        for item in outcome.items
    ]
    figures = {
        f"{name}_{figure}": value for name, outcome in outcomes.items() for figure, value in outcome.figures.items()
    }
    first = next(iter(outcomes.values()))
    settings = {key: first.settings[key] for key in ("chosen", "grid")} | {
        "sets": {name: outcome.settings["values_by_seed"] for name, outcome in outcomes.items()}
    }
    return TaskOutcome(
        items,
        settings,
        chance=_mean([outcome.chance or 0.0 for outcome in outcomes.values()]),
        figures=figures,
        note="The mean of " + ", ".join(f"{one.name} ({one.metric})" for one in sets) + ".",
        value=_mean([outcome.value or 0.0 for outcome in outcomes.values()]),
        # The sets' items are independent: the variance of a mean of k values is the variances' sum over k squared.
        standard_error=math.hypot(*(outcome.standard_error or 0.0 for outcome in outcomes.values())) / len(outcomes),
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _across(name: str, other: str, meanings: dict[str, str], model: TextModel, context: TaskContext) -> TaskOutcome:
    """Tune on one set and answer the rows of another."""
    labelled, settings = _read(name, context)
    transfer = transfer_of(labelled, _read(other, context)[0], meanings)
    result = tune_grid(model, [labelled], settings, context.seeds, context.work, context.watch, transfers=[transfer])
    return tuned_outcome(result, transfer.labelled.name, model.direction)


@dataclass(frozen=True)
class _About:
    title: str
    inputs: tuple[str, ...]
    metric: str


def _glue(name: str) -> _About:
    spec = GLUE[name]
    return _About(f"GLUE: {name}", (f"glue/{name}",), spec.metric or METRICS[spec.kind][0])


_ABOUT = {one.name: _About(one.title, one.inputs, one.metric) for one in SETS} | {
    name: _glue(name.removeprefix("glue_")) for name in GLUE_NAMES
}


def _task(name: str, title: str, inputs: tuple[str, ...], metric: str, run: Callable[..., TaskOutcome]) -> SuiteTask:
    return SuiteTask(
        name=name,
        version=1,
        title=title,
        suite="classification",
        metric=metric,
        unit=UNITS.get(metric, "0 to 1"),
        higher_is_better=True,
        directions=BOTH,
        inputs=tuple(dict.fromkeys(inputs)),
        run=run,
        needs_head=False,
        without_inputs=_FROM_HUB if any(name.startswith("glue/") for name in inputs) else "",
        uses=USES,
    )


def _started(name: str, start: str) -> SuiteTask:
    about, before = _ABOUT[name], _ABOUT[start]
    title = f"{about.title}, started from {start}"
    return _task(f"{name}_from_{start}", title, about.inputs + before.inputs, about.metric, partial(_from, name, start))


def _crossed(name: str, other: str, meanings: dict[str, str]) -> SuiteTask:
    about, after = _ABOUT[name], _ABOUT[other]
    title = f"Tuned on {name}, measured on {other}"
    run = partial(_across, name, other, meanings)
    return _task(f"{name}_to_{other}", title, about.inputs + after.inputs, after.metric, run)


TASKS = (
    *(_task(name, about.title, about.inputs, about.metric, partial(_alone, name)) for name, about in _ABOUT.items()),
    *(_started(f"glue_{name}", "glue_mnli") for name in FROM_MNLI),
    _started("stsb", "snli"),
    _started("qnli_dev", "snli"),
    _crossed("sentence_polarity", "movie_reviews", {}),
    _crossed("snli", "qnli_dev", TO_QNLI),
    _task(
        "multitask",
        "One model for " + ", ".join(TOGETHER),
        tuple(file for name in TOGETHER for file in _ABOUT[name].inputs),
        "mean of metrics",
        _together,
    ),
)
