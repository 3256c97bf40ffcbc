"""The verb `plan`: what a study comes to, before anything is trained.

Imports no torch.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from seqpair.cli.options import JsonOption, MemberOption, SetOption, StudyArgument
from seqpair.cli.table import print_table
from seqpair.text import format_bytes, format_count, format_seconds, note

if TYPE_CHECKING:
    from collections.abc import Mapping

    from seqpair.data.order.mixture import SourceReading
    from seqpair.recipe.cost import Cost
    from seqpair.recipe.plan import OptimizerPlan, PhasePlan, Plan, StoreStats
    from seqpair.recipe.prediction import PlanPrediction


def plan(
    study: StudyArgument,
    member: MemberOption = "",
    overrides: SetOption = None,
    device: Annotated[
        str, typer.Option(help="Also predict hours and memory on this device: h100, a100, cpu, ...")
    ] = "",
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of devices.")] = 1,
    as_json: JsonOption = False,
    origins: Annotated[bool, typer.Option("--origins", help="Also print where every value came from.")] = False,
) -> None:
    """Print the resolved plan of every member: steps, tokens, batches, learning rates, parameters, FLOPs, memory, disk.

    Where the stores are prepared, the numbers are counted, and a source that is read too often gets a warning.
    Otherwise they are marked as estimated. With --device it also predicts how long training takes there, from measured
    rates or from an assumed share of the device's peak, which is then marked as not measured.

    Example: seqpair plan demo --set budget=5M
    """
    from seqpair.data.order.mixture import repetition_warnings
    from seqpair.recipe.prediction import predict_plan
    from seqpair.suite.places import find_study

    place = find_study(study, overrides or ())
    plans = place.plans([member] if member else [])
    counts = place.counts()
    stats = counts.stats if counts is not None else None
    for warning in repetition_warnings(list(plans.values()), stats):
        note(f"warning: {warning}")
    predictions = {name: predict_plan(item, device, count) if device else None for name, item in plans.items()}
    if as_json:
        print(json.dumps({name: _as_json(item, predictions[name]) for name, item in plans.items()}, indent=1))
        return
    for name, item in plans.items():
        _show(item, stats, predictions[name])
    if origins:
        found = place.recipe.origins if place.recipe is not None else next(iter(plans.values())).origins
        for path, origin in found.items():
            print(f"{path}: {origin}")


def _as_json(plan: Plan, prediction: PlanPrediction | None) -> dict[str, object]:
    from seqpair.recipe.cost import plan_cost
    from seqpair.recipe.diff import plan_digest

    found: dict[str, object] = {
        "plan": plan.model_dump(mode="json"),
        "plan_digest": plan_digest(plan),
        "cost": plan_cost(plan).model_dump(mode="json"),
    }
    if prediction is not None:
        found["prediction"] = prediction.model_dump(mode="json")
    return found


def _prediction_rows(prediction: PlanPrediction) -> list[tuple[str, str]]:
    """Return (label, text) for each line of a prediction."""
    where = f"{prediction.count} x {prediction.device}"
    rows = [
        (
            f"on {where}",
            f"{format_seconds(3600 * prediction.hours)} ({prediction.device_hours:,.1f} device hours)"
            f"{'' if prediction.measured else ' (not measured)'} = {prediction.formula}",
        )
    ]
    rows += [
        (
            f"  {phase.name}",
            f"{format_seconds(3600 * phase.hours)} at {format_count(phase.tokens_per_second)} tokens/s; {phase.source}",
        )
        for phase in prediction.phases
    ]
    if prediction.device_memory_bytes is not None:
        room = "fits" if prediction.fits else "does not fit: lower runtime.microbatch_tokens, or shard"
        rows.append(
            (
                "  memory",
                f"about {format_bytes(prediction.memory_bytes)} of "
                f"{format_bytes(prediction.device_memory_bytes)}: {room}",
            )
        )
    return rows


def _optimizer_words(optimizer: OptimizerPlan) -> str:
    words = f"{optimizer.name}, peak rate {optimizer.lr:g}, weight decay {optimizer.weight_decay:g}"
    if optimizer.momentum is not None:
        words += f", momentum {optimizer.momentum:g} for the layers' matrices; stableadamw for the rest"
    return words


def _show(plan: Plan, stats: Mapping[str, StoreStats] | None, prediction: PlanPrediction | None) -> None:
    from seqpair.recipe.cost import plan_cost
    from seqpair.recipe.diff import plan_digest

    cost = plan_cost(plan)
    mark = " (estimated)" if plan.estimated else ""
    rows = _model_rows(plan, cost, mark)
    for phase, phase_cost in zip(plan.phases, cost.phases, strict=True):
        rows += [(label, text + (mark if depends else "")) for label, text, depends in _phase_rows(plan, phase, stats)]
        rows.append(("  FLOPs", f"{phase_cost.flops_per_token:.3g} per token, {phase_cost.flops:.3g} in all{mark}"))
    rows += [
        ("FLOPs", f"{cost.flops:.3g} = positions x tokens x ({cost.formulas['flops_per_token']}){mark}"),
        ("memory", f"about {format_bytes(cost.memory_bytes)} = {cost.formulas['memory']}{mark}"),
        (
            "checkpoint disk",
            f"{format_bytes(cost.disk_bytes)}: {cost.checkpoints_kept} kept and one being written, "
            f"{format_bytes(cost.checkpoint_bytes)} each = {cost.formulas['checkpoint_disk']}{mark}",
        ),
        *((label, text + mark) for label, text in (_prediction_rows(prediction) if prediction is not None else ())),
        ("run", f"{plan.runs}/{plan.study}/{plan.member}"),
        ("plan digest", plan_digest(plan)[:16] + mark),
    ]
    print_table(("", ""), rows, fold=(1,), title=f"{plan.study} / {plan.member}", indent=0)
    print()


def _model_rows(plan: Plan, cost: Cost, mark: str) -> list[tuple[str, str]]:
    """Return (label, text) for the model, its start and its optimiser."""
    shape = plan.model.shape
    start = [("starts from", f"{plan.start.place}, optimiser {plan.start.optimizer}")] if plan.start is not None else []
    return [
        (
            "model",
            f"{plan.size}: {shape.layers} layers, width {shape.width}, inner {shape.inner}, {shape.heads} heads, "
            f"{plan.derived.direction}, exported as {plan.derived.hub_class}{_second_export(plan)}",
        ),
        *start,
        ("optimiser", _optimizer_words(plan.optimizer)),
        # The vocabulary belongs to the tokenizer, so the counts that include it are estimates as long as it is one.
        (
            "parameters",
            f"{cost.parameters:,} in all, {cost.non_embedding_parameters:,} non-embedding, "
            f"vocabulary {plan.model.vocab_size:,}{mark}",
        ),
    ]


def _phase_rows(plan: Plan, phase: PhasePlan, stats: Mapping[str, StoreStats] | None) -> list[tuple[str, str, bool]]:
    """Return (label, text, whether it rests on the estimate) for each line of a phase."""
    from seqpair.data.order.mixture import phase_readings

    first, last = phase.batch_stages[0], phase.batch_stages[-1]
    batch = f"{last.sequences:,} sequences, about {format_count(last.sequences * phase.mean_tokens)} tokens"
    if len(phase.batch_stages) > 1:
        batch = f"{first.sequences:,} to {batch}, in {len(phase.batch_stages)} stages until step {last.first_step:,}"
    peak = plan.optimizer.lr
    first_rate, last_rate = (f"{peak * phase.lr_frac(step):.3g}" for step in (0, phase.steps - 1))
    plateau = f", {peak * phase.lr.start_frac:.3g} after the warm-up" if phase.lr.warmup_tokens else ""
    rates = f"{first_rate} at the first step{plateau}, {last_rate} at the last ({phase.lr.curve})"
    tokens = phase.positions * phase.mean_tokens
    mixture = ", ".join(_part_text(reading) for reading in phase_readings(phase, stats))
    return [
        (f"phase {phase.name}", f"sequences of {phase.seq_len:,} tokens from {mixture}", False),
        ("  tokens", f"{format_count(phase.budget_tokens)} asked for, {format_count(tokens)} in whole steps", True),
        ("  steps", f"{phase.steps:,} over {phase.positions:,} sequences of {phase.mean_tokens:.1f} tokens", True),
        ("  batch", batch, True),
        ("  rate", rates, True),
        ("  objective", _objectives_text(phase), len(phase.objectives) > 1),
        ("  mask rate", _mask_rate_text(phase), False),
        ("  RoPE bases", f"{phase.rope_global_theta:g} global, {phase.rope_local_theta:g} local", False),
        ("  checkpoints", f"{len(phase.checkpoint_steps)}, {phase.tag}{phase.checkpoint_steps[0]} the first", True),
        ("  held-out loss", f"{len(phase.held_out_steps)} times", True),
    ]


def _mask_rate_text(phase: PhasePlan) -> str:
    from seqpair.recipe.cost import objective_shares
    from seqpair.recipe.schedule import mask_frac_text

    if phase.mask_frac is not None:
        return mask_frac_text(phase.mask_frac)
    if any(objective.has_prefix for objective, _ in objective_shares(phase)):
        return "none; each sequence has a prefix of half of it on average, which is not predicted"
    rates = [objective.own_rate for objective, _ in objective_shares(phase) if objective.own_rate is not None]
    return f"one of its own for each sequence, {rates[0]:g} on average" if rates else "none"


def _second_export(plan: Plan) -> str:
    from seqpair.recipe.objectives import OBJECTIVES

    second = plan.derived.also_exports
    return "" if second is None else f" and as {OBJECTIVES[second].hub_class}"


def _objectives_text(phase: PhasePlan) -> str:
    """Return what is trained, with the step at which it changes."""
    texts = []
    for span in phase.objectives:
        share = "" if span.causal_frac is None else f" ({100 * span.causal_frac:g} % of each step's sequences causal)"
        texts.append(f"{span.objective}{share}" + (f" from step {span.first_step:,} on" if span.first_step else ""))
    return ", ".join(texts)


def _part_text(reading: SourceReading) -> str:
    """Return a source's part; with a store, also how often the phase's budget reads the source."""
    if reading.asked_share is None:
        often = f", {reading.epochs:.2g} within the budget" if reading.epochs is not None else ""
        return f"{reading.source} {reading.asked_epochs:g} epochs{often}"
    often = f" ({reading.epochs:.2g} epochs)" if reading.epochs is not None else ""
    return f"{reading.source} {100 * reading.asked_share:.1f} %{often}"
