"""The verb `plan`: what a recipe comes to, before anything is trained.

Imports no torch.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from seqpair.recipe.cost import Cost, plan_cost
from seqpair.recipe.diff import plan_digest
from seqpair.recipe.load import load_recipe
from seqpair.recipe.objectives import OBJECTIVES
from seqpair.recipe.plan import OptimizerPlan, PhasePlan, Plan
from seqpair.recipe.prediction import PlanPrediction, predict_plan
from seqpair.recipe.schema import Recipe
from seqpair.text import format_bytes, format_count, format_seconds, note

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from seqpair.data.order.repetition import SourceReading
    from seqpair.recipe.plan import StoreStats

RecipeArgument = Annotated[str, typer.Argument(help="A preset's name or a recipe file.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Change a key: `a.b=c`; repeatable.")]


def plan(
    recipe: RecipeArgument,
    member: Annotated[str, typer.Option(help="Only this member.")] = "",
    overrides: SetOption = None,
    device: Annotated[str, typer.Option(help="Also predict hours and memory on this: h100, a100, cpu, ...")] = "",
    count: Annotated[int, typer.Option(help="How many devices.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print whole plans and costs as JSON.")] = False,
    origins: Annotated[bool, typer.Option("--origins", help="Also say where every value came from.")] = False,
) -> None:
    """Print the resolved plan: steps, tokens, batches, rates, parameters, FLOPs, memory, disk.

    Where the stores are prepared it counts them, and warns of sources that are read too often; otherwise it
    marks what is estimated. With --device it says how long training would take there, and where that comes from:
    rates that were measured, or an assumed share of the device's peak, marked `not measured`.

    Example: seqpair plan demo --set budget=5M
    """
    from seqpair.data.order.repetition import repetition_warnings
    from seqpair.data.store.planning import counts_of, plan_members

    loaded = load_recipe(recipe, overrides or ())
    plans = plan_members(loaded, [member] if member else list(loaded.members))
    counts = counts_of(loaded)
    stats = counts.stats if counts is not None else None
    for warning in repetition_warnings(list(plans.values()), stats):
        note(f"warning: {warning}")
    predictions = {name: predict_plan(item, device, count) if device else None for name, item in plans.items()}
    if as_json:
        print(json.dumps({name: _as_json(item, predictions[name]) for name, item in plans.items()}, indent=1))
        return
    for name, item in plans.items():
        _show(item, plan_cost(item), stats, predictions[name])
    if origins:
        _show_origins(loaded)


def _as_json(plan: Plan, prediction: PlanPrediction | None) -> dict[str, object]:
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


def _show(plan: Plan, cost: Cost, stats: Mapping[str, StoreStats] | None, prediction: PlanPrediction | None) -> None:
    from rich.table import Table

    mark = " (estimated)" if plan.estimated else ""
    shape = plan.model.shape
    table = Table(title=f"{plan.study} / {plan.member}", title_justify="left", show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row(
        "model",
        f"{plan.size}: {shape.layers} layers, width {shape.width}, inner {shape.inner}, {shape.heads} heads, "
        f"{plan.derived.direction}, exported as {plan.derived.hub_class}{_second_export(plan)}",
    )
    if plan.start is not None:
        table.add_row("starts from", f"{plan.start.place}, optimiser {plan.start.optimizer}")
    table.add_row("optimiser", _optimizer_words(plan.optimizer))
    # The vocabulary belongs to the tokenizer, so the counts that hold it are estimates as long as it is.
    table.add_row(
        "parameters",
        f"{cost.parameters:,} in all, {cost.non_embedding_parameters:,} non-embedding, "
        f"vocabulary {plan.model.vocab_size:,}{mark}",
    )
    for phase, phase_cost in zip(plan.phases, cost.phases, strict=True):
        for label, text, depends in _phase_rows(plan, phase, stats):
            table.add_row(label, text + (mark if depends else ""))
        table.add_row(
            "  FLOPs",
            f"{phase_cost.flops_per_token:.3g} a token, {phase_cost.flops:.3g} in all{mark}",
        )
    table.add_row("FLOPs", f"{cost.flops:.3g} = positions x tokens x ({cost.formulas['flops_per_token']}){mark}")
    table.add_row("memory", f"about {format_bytes(cost.memory_bytes)} = {cost.formulas['memory']}{mark}")
    table.add_row(
        "checkpoint disk",
        f"{format_bytes(cost.disk_bytes)}: {cost.checkpoints_kept} kept and one being written, "
        f"{format_bytes(cost.checkpoint_bytes)} each = {cost.formulas['checkpoint_disk']}{mark}",
    )
    for label, text in _prediction_rows(prediction) if prediction is not None else ():
        table.add_row(label, text + mark)
    table.add_row("run", f"{plan.runs}/{plan.study}/{plan.member}")
    table.add_row("plan digest", plan_digest(plan)[:16] + mark)
    console = wide_console()
    console.print(table)
    console.print()


def wide_console() -> Console:
    """Return a console for tables; where nobody watches (a pipe, a file) lines are 140 columns wide."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=140)


def _phase_rows(plan: Plan, phase: PhasePlan, stats: Mapping[str, StoreStats] | None) -> list[tuple[str, str, bool]]:
    """Return (label, text, whether it rests on the estimate) for each line of a phase."""
    from seqpair.data.order.repetition import phase_readings

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
        ("  mask rate", "none" if phase.mask_frac is None else f"{phase.mask_frac:g}", False),
        ("  RoPE bases", f"{phase.rope_global_theta:g} global, {phase.rope_local_theta:g} local", False),
        ("  checkpoints", f"{len(phase.checkpoint_steps)}, {phase.tag}{phase.checkpoint_steps[0]} the first", True),
        ("  held-out loss", f"{len(phase.held_out_steps)} times", True),
    ]


def _second_export(plan: Plan) -> str:
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


def _show_origins(recipe: Recipe) -> None:
    for path, origin in recipe.origins.items():
        print(f"{path}: {origin}")
