"""The tasks of the suite `classification`: fine-tuning on each labelled set of the data folder.

Owns which sets there are and how each is run. Must not know how a model is tuned. Entry point: `TASKS`.
"""

from __future__ import annotations

from functools import partial

from seqpair.evaluate.classification.local_sets import SETS, LocalSet
from seqpair.evaluate.finetune.outcome import outcome_of
from seqpair.evaluate.finetune.runs import tune_grid
from seqpair.evaluate.finetune.settings import TuneSetting, grid_settings
from seqpair.evaluate.loaded import LoadedModel
from seqpair.evaluate.suites.task import SuiteTask, TaskContext
from seqpair.evaluate.tasks.task import BOTH, TaskOutcome

USES = ("seeds", "grid", "pooling", "head")
_UNITS = {"accuracy": "share of items", "spearman": "correlation"}


def chosen_settings(context: TaskContext, task: str, max_tokens: int) -> list[TuneSetting]:
    """Return the grid that the user chose, by default the small one."""
    given = context.settings
    base = TuneSetting(
        1e-4,
        pooling=given.get("pooling", "default"),
        head=given.get("head", "mlp"),
        max_tokens=max_tokens,
    )
    return grid_settings(given.get("grid", "small"), task, base)


def run(local: LocalSet, model: LoadedModel, context: TaskContext) -> TaskOutcome:
    """Tune a model on one set and measure it.

    Raises:
        EvaluationError: The data cannot be read, or no run came to an end.
    """
    labelled = local.read(context.data).limited(context.limit)
    settings = chosen_settings(context, local.name, local.max_tokens)
    result = tune_grid(model, [labelled], settings, context.seeds, context.work, context.watch)
    return outcome_of(result, labelled.name, model.direction)


TASKS = tuple(
    SuiteTask(
        name=local.name,
        version=1,
        title=local.title,
        suite="classification",
        metric=local.metric,
        unit=_UNITS.get(local.metric, "0 to 1"),
        higher_is_better=True,
        directions=BOTH,
        inputs=local.inputs,
        run=partial(run, local),
        needs_head=False,
        uses=USES,
    )
    for local in SETS
)
