"""The plan that a run keeps to: written before its first step, and replaced only by one that is longer."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from seqpair.checkpoint.catalog import CheckpointEntry, scan, scan_soups
from seqpair.checkpoint.manifest import trains_alike
from seqpair.checkpoint.store import set_aside
from seqpair.errors import CheckpointError
from seqpair.files import write_text
from seqpair.paths import CHECKPOINTS_FOLDER, PLAN_FILE
from seqpair.recipe.continuing import is_longer, shared_steps
from seqpair.recipe.diff import diff_plans, plan_digest
from seqpair.recipe.plan import Plan
from seqpair.text import note


def pin_plan(plan: Plan, folder: Path) -> None:
    """Write the plan into its run; where the run has a shorter one, set aside the checkpoints that do not fit any more.

    The caller holds the run's lock. A call that is interrupted between the two is repeated like any other.

    Raises:
        CheckpointError: As `require_pinnable`.
    """
    superseded, earlier = require_pinnable(plan, folder), read_pinned_plan(folder)
    if earlier is not None and plan_digest(earlier) != plan_digest(plan):
        shared = shared_steps(earlier, plan)
        note(f"{plan.member}: continues with a longer plan, the same for {shared.steps} steps, up to {shared.ended_by}")
    for entry in superseded:
        set_aside(entry.path, "the longer plan trains otherwise before this step")
    _tell_other_numbers(plan, folder)
    write_text(folder / PLAN_FILE, plan.model_dump_json(indent=1))


def require_pinnable(plan: Plan, folder: Path) -> list[CheckpointEntry]:
    """Check that a run has no plan so far, or this one, or a shorter one that this one continues.

    Returns:
        The run's checkpoints and averages that do not belong to this plan; empty unless it is longer.

    Raises:
        CheckpointError: The run was started with a plan that learns something else, this plan agrees with it at no
            checkpoint, or the plan in the run cannot be read.
    """
    earlier = read_pinned_plan(folder)
    if earlier is None or plan_digest(earlier) == plan_digest(plan):
        return []
    if not is_longer(plan, earlier):
        moved = [f"{d.path}: {d.a!r} -> {d.b!r}" for d in diff_plans(earlier, plan)][:6]
        raise CheckpointError(
            f"the run in {folder} was started with another plan",
            seen="; ".join(moved) or "another digest",
            allowed="the same plan, or one that differs in larger budgets and in phases after its last one",
            fix=_other_way(plan),
        )
    shared = shared_steps(earlier, plan)
    entries = scan(folder).entries
    fitting = [entry for entry in entries if trains_alike(entry.manifest, plan)]
    if entries and not fitting:
        raise CheckpointError(
            f"the run in {folder} was started with another plan; this longer one agrees with none of its checkpoints",
            seen=f"the plans agree in the first {shared.steps} steps, up to {shared.ended_by}; "
            f"the oldest checkpoint is {entries[0].name}",
            allowed="plans that agree up to a checkpoint: a curve before its decay, the same warm-up and ramp",
            fix="write `budget_tokens` of the phase instead of `budget`, which scales warm-ups too; or "
            + _other_way(plan),
        )
    return [entry for entry in (*entries, *scan_soups(folder).entries) if not trains_alike(entry.manifest, plan)]


def _other_way(plan: Plan) -> str:
    if plan.start is not None:
        return (
            f"give the member {plan.member} another name in the recipe: it is trained again from its start as that is "
            "now, and this run stays; or remove the run folder to start over"
        )
    return (
        "give the recipe another `name`, add a member that branches off "
        f"(`from: {plan.member}@{plan.phases[0].tag}N`), or remove the run folder to start over"
    )


def read_pinned_plan(folder: Path) -> Plan | None:
    """Return the plan that a run was started or last continued with; None if it has none so far.

    Raises:
        CheckpointError: It cannot be read.
    """
    path = folder / PLAN_FILE
    if not path.exists():
        return None
    if not path.is_file():
        raise CheckpointError(f"the plan of an earlier run, {path}, is not a file", fix="put back the run's plan.json")
    try:
        return Plan.model_validate_json(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValidationError) as error:
        raise CheckpointError(
            f"the plan of an earlier run, {path}, cannot be read",
            seen=str(error).splitlines()[0],
            allowed="a plan written by this version of seqpair",
            fix="continue with the version that began the run, or give the recipe another `name`",
        ) from error


def _tell_other_numbers(plan: Plan, folder: Path) -> None:
    """Say where this run so far, or another member of the study, was trained in other numbers; nothing forbids it."""
    for path in sorted(folder.parent.glob(f"*/{PLAN_FILE}")):
        if not (path.parent / CHECKPOINTS_FOLDER).is_dir():
            continue  # nothing was trained
        try:
            other = read_pinned_plan(path.parent)
        except CheckpointError:
            continue  # its own run says so
        if other is None or other.study != plan.study or other.runtime.numbers == plan.runtime.numbers:
            continue
        if path.parent == folder:
            note(f"{plan.member}: was trained in {other.runtime.numbers} so far, goes on in {plan.runtime.numbers}")
        else:
            note(
                f"warning: {other.member} was trained in {other.runtime.numbers}, {plan.member} is in "
                f"{plan.runtime.numbers}: more than the objective differs"
            )
