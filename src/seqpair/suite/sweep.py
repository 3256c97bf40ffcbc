"""A whole sweep: prepare once, train every run of the grid, compare, state the pair twice; what is done is skipped."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqpair.checkpoint.catalog import latest_valid
from seqpair.data.order.ledger import Ledger, require_same_sequences
from seqpair.data.prepared import Prepared
from seqpair.errors import NotFiniteError
from seqpair.files import write_json, write_text
from seqpair.paths import LEDGER_FILE, run_folder
from seqpair.recipe.plan import Plan
from seqpair.report.sweep import (
    RECORD_NAME,
    AxisRecord,
    PointRecord,
    SweepRecord,
    collect_sweep,
    member_curves,
    sweep_remarks,
)
from seqpair.report.sweep_page import PairChoice, choose_pairs, sweep_as_json, write_sweep_page
from seqpair.suite.study import evaluate_part, export_part, is_trained, prepare_part, train_part
from seqpair.suite.sweep_grid import Sweep, SweepRequest, link_shared_runs, plan_sweep, planned_tokens
from seqpair.text import format_count, format_seconds, note

RESULTS_NAME = "results.json"


@dataclass
class SweepOutcome:
    """How a sweep ended.

    Attributes:
        folder: Its folder.
        page: The page, if it was written.
        failed: Runs that diverged, as `slug/member`, with the reason.
        signal_number: The signal that stopped it, if one did.
    """

    folder: Path
    page: Path | None
    failed: dict[str, str]
    signal_number: int | None = None


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep before it is trained: its folder, its tokens, and how far it is."""

    folder: Path
    member: str
    tokens: float
    state: str


def planned_runs(sweep: Sweep) -> list[PlannedRun]:
    """Return every run of a sweep, each once, with what is there of it."""
    return [PlannedRun(run_folder(plan), plan.member, planned_tokens(plan), _state(plan)) for plan in sweep.runs]


def _state(plan: Plan) -> str:
    newest = latest_valid(run_folder(plan))
    if newest is None:
        return "to do"
    return "trained already" if is_trained(plan) else f"newest checkpoint {newest.name}"


def run_sweep(request: SweepRequest) -> SweepOutcome:
    """Run a sweep; repeating the call resumes it where it stopped.

    A run whose loss is no longer finite is recorded as diverged, and the sweep continues: for a learning rate that is
    too high that is a result. Only the runs at the shared setting and at each member's best are exported and evaluated.

    Raises:
        RecipeError: As `plan_sweep`; nothing is read or trained then.
        SeqpairError: Whatever a part complains about; earlier parts stay done.
    """
    sweep = plan_sweep(request)
    prepared = prepare_part(sweep.recipe)
    sweep = plan_sweep(request)
    link_shared_runs(sweep)
    outcome = SweepOutcome(sweep.folder, None, {})
    outcome.signal_number = _train(sweep, prepared, outcome.failed)
    if outcome.signal_number is not None:
        return outcome
    order = _order(sweep, outcome.failed)
    record = _record(sweep, request, outcome.failed, order)
    write_text(sweep.folder / RECORD_NAME, record.model_dump_json(indent=1) + "\n")
    pairs = choose_pairs(record, member_curves(collect_sweep(sweep.folder)))
    _evaluate(sweep, pairs)
    runs = collect_sweep(sweep.folder)
    curves = member_curves(runs)
    write_json(sweep.folder / RESULTS_NAME, sweep_as_json(runs, curves, pairs, sweep_remarks(runs)))
    outcome.page = write_sweep_page(runs, curves, pairs)
    return outcome


def _train(sweep: Sweep, prepared: Prepared, failed: dict[str, str]) -> int | None:
    """Train what is not trained yet; return the signal that stopped it, if one did, and fill in what failed."""
    plans = sweep.runs
    tokens = {_name(plan): planned_tokens(plan) for plan in plans}
    left = sum(tokens[_name(plan)] for plan in plans if not is_trained(plan))
    began, done = time.monotonic(), 0.0
    for number, plan in enumerate(plans, 1):
        name = _name(plan)
        was_trained = is_trained(plan)
        rate = done / (time.monotonic() - began) if done else 0.0
        ahead = f", about {format_seconds((left - done) / rate)} left" if rate and left > done else ""
        note(
            f"sweep {sweep.name}: run {number} of {len(plans)}, {name}; {format_count(left - done)} tokens to go{ahead}"
        )
        source = sweep.recipe.members[plan.member].source
        if source is not None and f"{plan.study}/{source}" in failed:
            failed[name] = f"{source}, which it starts from, diverged"
            continue
        try:
            trained = train_part(plan, prepared)
        except NotFiniteError as error:
            failed[name] = f"diverged: {error.what}"
            note(f"{name} {failed[name]}; the sweep continues without it")
            continue
        finally:
            done += 0.0 if was_trained else tokens[name]
        if not trained.finished:
            return trained.signal_number
    return None


def _name(plan: Plan) -> str:
    return f"{plan.study}/{plan.member}"


def _order(sweep: Sweep, failed: Mapping[str, str]) -> tuple[str, ...]:
    """Compare the ledgers of all runs that ought to read the same sequences.

    Raises:
        TrainingError: Two of them part.
    """
    heads: list[Plan] = []
    plans = [plan for plan in sweep.runs if _name(plan) not in failed]
    for plan in plans:
        head = next((one for one in heads if _same_order(one, plan)), None)
        if head is None:
            heads.append(plan)
        else:
            require_same_sequences(*(Ledger(run_folder(one) / LEDGER_FILE) for one in (head, plan)))
    if len(heads) == 1 and len(plans) > 1:
        return (
            f"The ledgers of all {len(plans)} runs agree at every common step: the same sequences, the same order.",
        )
    if len(plans) > 1:
        return (
            f"By what is varied, or by their phases, the {len(plans)} runs fall into {len(heads)} groups that read "
            "different sequences or cut them into other steps; within a group the ledgers agree at every common step.",
        )
    return ()


def _same_order(one: Plan, other: Plan) -> bool:
    """Return whether two plans ought to read the same sequences at the same steps of the phases that both have."""
    first, second = ({phase.name: phase for phase in plan.phases} for plan in (one, other))
    shared = [(first[name], second[name]) for name in first if name in second]
    alike = all((a.seq_len, a.mixture, a.batch_stages) == (b.seq_len, b.mixture, b.batch_stages) for a, b in shared)
    return bool(shared) and alike and one.seed == other.seed


def _evaluate(sweep: Sweep, pairs: Sequence[PairChoice]) -> None:
    wanted = {(folder, member) for choice in pairs for member, folder in choice.runs.items()}
    for plan in sweep.runs:
        if (plan.study, plan.member) in wanted:
            note(f"sweep {sweep.name}: evaluating {_name(plan)}")
            export_part(plan)
            evaluate_part(plan)


def _record(sweep: Sweep, request: SweepRequest, failed: dict[str, str], order: tuple[str, ...]) -> SweepRecord:
    newest = [found for plan in sweep.runs if (found := latest_valid(run_folder(plan))) is not None]
    return SweepRecord(
        study=sweep.recipe.name,
        sweep=sweep.name,
        command=request.command,
        members=sweep.members,
        axes=tuple(
            AxisRecord(
                name=axis.name,
                keys=axis.keys,
                values=tuple(value.text for value in axis.values),
                numbers=tuple(value.number for value in axis.values),
                touches=sweep.touched[axis.name],
                is_seed=axis.is_seed,
            )
            for axis in sweep.axes
        ),
        points=tuple(
            PointRecord(
                slug=point.slug,
                values=tuple(value.text for value in point.values),
                runs={member: plan.study for member, plan in point.plans.items()},
                own=point.own,
            )
            for point in sweep.points
        ),
        eval_seed=sweep.eval_seed,
        failed=failed,
        order=order,
        versions=newest[0].manifest.versions if newest else {},
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
