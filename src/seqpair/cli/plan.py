"""The verb `plan`: what a study comes to, before anything is trained.

Imports no torch.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from seqpair.cli.options import JsonOption, MemberOption, SetOption, StudyArgument, not_empty
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
        str, typer.Option(help="Predict time and memory on this device: h100, a100, cpu, ...", callback=not_empty)
    ] = "",
    count: Annotated[int, typer.Option(min=1, max=1_000_000, help="Number of devices.")] = 1,
    as_json: JsonOption = False,
    origins: Annotated[bool, typer.Option("--origins", help="Also print where every value came from.")] = False,
) -> None:
    """Print what training will take, then the resolved plan: first what the members share, then where they differ.

    If the stores are prepared, the numbers are counted, and a source that is read too often causes a warning.
    Otherwise they are marked as estimated. The time comes from measured rates of the device, or from an assumed
    share of its peak; it is then marked as not measured. Without --device it is that of a CPU for the sizes below 17m
    and of an H100 for the others.

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
    predictions = {name: predict_plan(item, device or _usual_device(item), count) for name, item in plans.items()}
    if as_json:
        shown = {name: _as_json(item, predictions[name] if device else None) for name, item in plans.items()}
        print(json.dumps(shown, indent=1))
        return
    _show(plans, stats, predictions)
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
    """Return (label, text) for each row of a prediction."""
    rows = [("time", prediction.formula)]
    rows += [
        (f"time of {phase.name}", f"{format_count(phase.tokens_per_second)} tokens/s; {phase.source}")
        for phase in prediction.phases
    ]
    if prediction.device_memory_bytes is not None:
        needed, room = (format_bytes(size) for size in (prediction.memory_bytes, prediction.device_memory_bytes))
        rows.append(("device memory", f"{room}, needed about {needed}: {_fitting_words(prediction)}"))
    return rows


def _fitting_words(prediction: PlanPrediction) -> str:
    if prediction.fits:
        return "fits"
    if not prediction.fitting:
        return "does not fit: lower runtime.microbatch_tokens, or take more devices"
    return "does not fit: set " + " and ".join(f"runtime.{key}={value}" for key, value in prediction.fitting.items())


def _optimizer_words(optimizer: OptimizerPlan) -> str:
    words = f"{optimizer.name}, peak learning rate {optimizer.lr:g}, weight decay {optimizer.weight_decay:g}"
    if optimizer.momentum is not None:
        words += f", momentum {optimizer.momentum:g} for the layers' matrices; stableadamw for the rest"
    return words


def _usual_device(plan: Plan) -> str:
    from seqpair.recipe.sizes import SIZES

    order = list(SIZES)
    small = plan.size in order and order.index(plan.size) < order.index("17m")
    return "cpu" if small or plan.runtime.device == "cpu" else "h100"


def _show(
    plans: Mapping[str, Plan], stats: Mapping[str, StoreStats] | None, predictions: Mapping[str, PlanPrediction]
) -> None:
    """Print the totals, the rows that are the same for every member that has them, and each member's other rows."""
    first = next(iter(plans.values()))
    _show_totals(plans, predictions)
    rows = {name: _plan_rows(plan, stats, predictions[name]) for name, plan in plans.items()}
    texts: dict[tuple[str, str], list[str]] = {}
    for found in rows.values():
        for key, text in found.items():
            texts.setdefault(key, []).append(text)
    shared = {key: seen[0] for key, seen in texts.items() if len(seen) > 1 and len(set(seen)) == 1}
    blocks = [("the same for all members", shared)] if len(plans) > 1 else []
    blocks += [(name, {key: text for key, text in found.items() if key not in shared}) for name, found in rows.items()]
    for title, block in blocks:
        print()
        print_table(("", ""), _with_phases(block), fold=(1,), title=f"{first.study} / {title}", indent=0)
    print()


def _show_totals(plans: Mapping[str, Plan], predictions: Mapping[str, PlanPrediction]) -> None:
    from seqpair.recipe.cost import plan_cost

    rows = []
    for name, plan in plans.items():
        cost, prediction = plan_cost(plan), predictions[name]
        time = f"{format_seconds(3600 * prediction.hours)}{'' if prediction.measured else ' (not measured)'}"
        flops = f"{cost.flops:.3g}"
        tokens = format_count(sum(phase.positions * phase.mean_tokens for phase in plan.phases))
        steps = f"{sum(phase.steps for phase in plan.phases):,}"
        memory, disk = f"about {format_bytes(prediction.memory_bytes)}", format_bytes(cost.disk_bytes)
        rows.append((name, tokens, steps, flops, time, memory, disk, "(estimated)" if plan.estimated else ""))
    on = next(iter(predictions.values()))
    headings = (
        "member",
        "tokens",
        "steps",
        "FLOPs",
        f"time on {on.count} x {on.device}",
        "memory",
        "checkpoints on disk",
        "",
    )
    print_table(headings, rows, right=range(1, 7), indent=0)


def _with_phases(block: Mapping[tuple[str, str], str]) -> list[tuple[str, str]]:
    """Return (label, text) for each row, the rows of a phase below its name."""
    rows: list[tuple[str, str]] = []
    phase = ""
    for (of, label), text in block.items():
        if of and of != phase:
            rows.append((f"phase {of}", ""))
        phase = of
        rows.append((f"  {label}" if of else label, text))
    return rows


def _plan_rows(
    plan: Plan, stats: Mapping[str, StoreStats] | None, prediction: PlanPrediction
) -> dict[tuple[str, str], str]:
    """Return the text for each (phase or "", label)."""
    from seqpair.recipe.cost import plan_cost
    from seqpair.recipe.diff import plan_digest

    cost = plan_cost(plan)
    mark = " (estimated)" if plan.estimated else ""
    rows = {("", label): text for label, text in _model_rows(plan, cost, mark)}
    for phase, phase_cost in zip(plan.phases, cost.phases, strict=True):
        for label, text, depends in _phase_rows(plan, phase, stats):
            rows[phase.name, label] = text + (mark if depends else "")
        rows[phase.name, "FLOPs"] = f"{phase_cost.flops_per_token:.3g} per token, {phase_cost.flops:.3g} in all{mark}"
    totals = [
        ("FLOPs", f"positions x tokens x ({cost.formulas['flops_per_token']})"),
        ("memory", cost.formulas["memory"]),
        (
            "checkpoint disk",
            f"{cost.checkpoints_kept} kept and one being written, {format_bytes(cost.checkpoint_bytes)} each = "
            f"{cost.formulas['checkpoint_disk']}{mark}",
        ),
        *_prediction_rows(prediction),
        ("run", f"{plan.runs}/{plan.study}/{plan.member}"),
        ("plan digest", plan_digest(plan)[:16] + mark),
    ]
    return rows | {("", label): text for label, text in totals}


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
        *_trained_parts(plan),
        ("optimiser", _optimizer_words(plan.optimizer)),
        # The vocabulary belongs to the tokenizer, so the counts that include it are estimates as long as it is one.
        (
            "parameters",
            f"{cost.parameters:,} in all, {cost.non_embedding_parameters:,} non-embedding, "
            f"vocabulary {plan.model.vocab_size:,}{mark}",
        ),
    ]


def _trained_parts(plan: Plan) -> list[tuple[str, str]]:
    parts = None if plan.start is None else plan.start.train_layers
    if parts is None:
        return []
    return [("trained layers", f"{', '.join(map(str, parts))}; FLOPs, memory and disk are those of training all")]


def _phase_rows(plan: Plan, phase: PhasePlan, stats: Mapping[str, StoreStats] | None) -> list[tuple[str, str, bool]]:
    """Return (label, text, whether it rests on the estimate) for each line of a phase."""
    from seqpair.data.order.mixture import phase_readings

    if not phase.steps:
        return [
            ("steps", "none: its start as it is", False),
            ("objective", _objectives_text(phase), False),
            ("RoPE bases", f"{phase.rope_global_theta:g} global, {phase.rope_local_theta:g} local", False),
        ]
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
        ("data", f"sequences of {phase.seq_len:,} tokens from {mixture}", False),
        ("tokens", f"{format_count(phase.budget_tokens)} asked for, {format_count(tokens)} in whole steps", True),
        ("steps", f"{phase.steps:,} over {phase.positions:,} sequences of {phase.mean_tokens:.1f} tokens", True),
        ("batch", batch, True),
        ("learning rate", rates, True),
        ("objective", _objectives_text(phase), len(phase.objectives) > 1),
        ("mask rate", _mask_rate_text(phase), False),
        ("RoPE bases", f"{phase.rope_global_theta:g} global, {phase.rope_local_theta:g} local", False),
        ("checkpoints", f"{len(phase.checkpoint_steps)}, {phase.tag}{phase.checkpoint_steps[0]} the first", True),
        ("held-out loss", f"{len(phase.held_out_steps)} times", True),
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
