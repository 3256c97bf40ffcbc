"""From plans and result files to what is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from seqpair.compare.non_means import NEVER_MEANS, item_pseudo_values
from seqpair.compare.values import Floats, Model, Scores, Task
from seqpair.errors import EvaluationError
from seqpair.evaluate.results import ItemOutcome, TaskResult, is_mean_of_items, read_items, read_results
from seqpair.recipe.cost import SPECIALS_PER_SEQUENCE, flops_per_token
from seqpair.recipe.diff import pair_identity
from seqpair.recipe.objectives import OBJECTIVES
from seqpair.recipe.plan import Plan
from seqpair.recipe.sizes import parameter_count


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


def scores_of(model: Model, result: TaskResult, items: Sequence[ItemOutcome]) -> Scores:
    """Return a result with its items as scores of a model."""
    columns = [[item.value for item in items], [item.weight for item in items]]
    ids, details = [item.id for item in items], [item.detail for item in items]
    return scores_of_columns(model, result, ids, np.array(columns[0]), np.array(columns[1]), details)


def scores_of_columns(
    model: Model,
    result: TaskResult,
    ids: Sequence[str],
    values: Floats,
    weights: Floats,
    details: Sequence[Mapping[str, Any]],
) -> Scores:
    """Return a result as scores of a model: the items' outcomes, or their jackknife pseudo-values.

    Where the result's value is no mean over its items and pseudo-values cannot be made, the scores say why not.

    Args:
        model: Whose they are.
        result: The result.
        ids: The items' names, (n,).
        values: Their outcomes, (n,).
        weights: How much each counts, (n,).
        details: What was written of each, n of them, or none.
    """
    kept = {name: dict(detail) for name, detail in zip(ids, details, strict=bool(details)) if detail}
    own = Scores(model, task_of(result), tuple(ids), values, weights, details=kept)
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


def read_scores(folder: Path, model: Model) -> list[Scores]:
    """Return all scores in an evaluation folder.

    Raises:
        EvaluationError: A file cannot be read, or a result has lost its items.
    """
    return [scores_of(model, result, read_items(folder, result)) for result in read_results(folder)]


def model_from_elsewhere(name: str, *, size: str = "", direction: str = "", seed: int = 0) -> Model:
    """Return a model that was not trained here: it has no identity, so it is compared only when asked for.

    To hold it against runs of ours, whose seeds it does not have, use `at_seed`.
    """
    return Model(member=name, size=size, seed=seed, direction=direction)


def at_seed(scores: Scores, seed: int) -> Scores:
    """Return the same scores as if of this seed: one model from elsewhere held against several runs."""
    return replace(scores, model=replace(scores.model, seed=seed))
