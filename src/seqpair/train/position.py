"""Where a run stands: its place in the plan, taken from and to a checkpoint, and the weights it begins with."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import seqpair
from seqpair.checkpoint.catalog import CheckpointEntry, find_checkpoint, latest_valid
from seqpair.checkpoint.manifest import CheckpointFields, trains_alike
from seqpair.checkpoint.store import LoadedCheckpoint, load_checkpoint
from seqpair.data.order.ledger import LedgerRecord
from seqpair.distributed.sharding import cut_like
from seqpair.errors import CheckpointError
from seqpair.paths import run_folder
from seqpair.recipe.diff import plan_digest
from seqpair.recipe.plan import PhasePlan, Plan, Start
from seqpair.text import note
from seqpair.train.assembly import Run
from seqpair.train.pinned_plan import read_pinned_plan


@dataclass(frozen=True)
class Place:
    """A place between two steps.

    Attributes:
        phase_index: The phase of the next step.
        step: Steps done in that phase.
        total_step: Steps done in all phases.
        content_tokens: Content tokens read in all phases.
    """

    phase_index: int
    step: int
    total_step: int
    content_tokens: int

    @classmethod
    def at_start(cls) -> Place:
        """Return the place before the first step."""
        return cls(0, 0, 0, 0)

    def entering(self, phase_index: int) -> Place:
        """Return the place before the first step of a later phase."""
        return replace(self, phase_index=phase_index, step=0)

    def as_json(self) -> dict[str, int]:
        """Return the place as plain numbers."""
        return asdict(self)


def place_after(place: Place, step: LedgerRecord) -> Place:
    """Return the place after a step."""
    return replace(
        place,
        step=place.step + 1,
        total_step=place.total_step + 1,
        content_tokens=place.content_tokens + step.content_tokens,
    )


def manifest_fields(run: Run, phase: PhasePlan, place: Place) -> CheckpointFields:
    """Return what a checkpoint at this place says of itself, but for its files."""
    plan = run.plan
    return CheckpointFields(
        study=plan.study,
        member=plan.member,
        phase=phase.name,
        tag=phase.tag,
        phase_step=place.step,
        total_steps=place.total_step,
        content_tokens=place.content_tokens,
        positions=_positions_read(plan, place),
        plan=plan,
        plan_digest=plan_digest(plan),
        tokenizer_digest=run.prepared.tokenizer.digest,
        store_digests={ref.source: ref.digest for ref in plan.stores},
        versions={
            "seqpair": seqpair.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "world_size": str(run.world.world_size),
            **({} if run.sharding is None else {"sharding": run.plan.runtime.sharding}),
            "device": run.world.device.type,
        },
    )


def _positions_read(plan: Plan, place: Place) -> dict[str, int]:
    """Return, for every phase begun, how many of its positions were read."""
    done = {phase.name: phase.positions for phase in plan.phases[: place.phase_index]}
    current = plan.phases[place.phase_index]
    return {**done, current.name: current.positions_of(place.step - 1).stop if place.step else 0}


def restore(run: Run, loaded: LoadedCheckpoint) -> Place:
    """Bring a run to the place of a checkpoint.

    Raises:
        CheckpointError: The checkpoint belongs to another plan.
    """
    if not trains_alike(loaded.manifest, run.plan):
        raise CheckpointError(
            f"checkpoint {loaded.manifest.name} belongs to another plan",
            seen=loaded.manifest.plan_digest[:16],
            allowed=plan_digest(run.plan)[:16],
            fix="start a run under another `name`, or move the checkpoint away",
        )
    run.model.load_state_dict(cut_like(run.model.state_dict(), loaded.model), strict=True)
    run.optimizer.load_state(cut_like(run.optimizer.tensor_state(), loaded.optimizer), loaded.state["optimizer"])
    return Place(**loaded.state["place"])


@dataclass(frozen=True)
class StartingPoint:
    """Weights to start from, and the optimiser's state where it is carried on.

    Attributes:
        place: Where they come from, in words.
        model: The parameters by name.
        optimizer: The optimiser's tensors by name; None for a fresh optimiser.
        optimizer_state: The optimiser's JSON state; None for a fresh optimiser.
        drawn: Parameters that are not among the weights and keep what the plan's seed has drawn.
    """

    place: str
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor] | None = None
    optimizer_state: dict[str, Any] | None = None
    drawn: tuple[str, ...] = ()


def starting_point_of(plan: Plan) -> StartingPoint:
    """Load what a member starts from, from another member's run.

    Raises:
        CheckpointError: That member is not trained so far, or was trained by another plan.
    """
    start = plan.start
    assert start is not None, "the plan has a start"
    entry = start_checkpoint(plan, run_folder(plan))
    carried = start.optimizer == "carried"
    loaded = load_checkpoint(entry.path, model_only=not carried)
    return StartingPoint(
        place=f"{start.member}@{entry.name}",
        model=loaded.model,
        optimizer=loaded.optimizer if carried else None,
        optimizer_state=loaded.state["optimizer"] if carried else None,
    )


def start_checkpoint(plan: Plan, folder: Path) -> CheckpointEntry:
    """Return the checkpoint of another member that a member starts from.

    Args:
        plan: The member's plan.
        folder: Its run; the other member's lies beside it.

    Raises:
        CheckpointError: It starts from no other member, or that one is not trained so far or by another plan.
    """
    start = plan.start
    if start is None or start.member is None:
        raise CheckpointError(
            f"{plan.member} does not start from another member of its study",
            seen="from scratch" if start is None else start.place,
            fix="name a member whose `from` is a member",
        )
    run = folder.absolute().with_name(start.member)
    entry = _entry_of(start, run)
    # A checkpoint that was found belongs to its run's plan, though a shorter one may have made it.
    trained = [entry.manifest.plan_digest, *(plan_digest(one) for one in (read_pinned_plan(run),) if one is not None)]
    if start.plan_digest not in trained:
        raise CheckpointError(
            f"{plan.member} starts from {start.place}, which was trained by another plan",
            seen=entry.manifest.plan_digest[:16],
            allowed=start.plan_digest[:16],
            fix=f"train {start.member} by this recipe first, or give the recipe another `name`",
        )
    return entry


def _entry_of(start: Start, run: Path) -> CheckpointEntry:
    if start.checkpoint is not None:
        return find_checkpoint(run, start.checkpoint)
    newest = latest_valid(run)
    if newest is None:
        raise CheckpointError(
            f"there is no checkpoint of {start.member} to start from", seen=run, fix=f"train {start.member} first"
        )
    planned = sum(phase.steps for phase in newest.manifest.plan.phases)
    if newest.manifest.total_steps != planned:
        raise CheckpointError(
            f"{start.member} is not trained to its end, so its last checkpoint is not there yet",
            seen=f"{newest.name}, step {newest.manifest.total_steps} of {planned}",
            fix=f"train {start.member} to its end first, or name a checkpoint: `from: {start.member}@{newest.name}`",
        )
    return newest


def begin_from(run: Run, point: StartingPoint) -> None:
    """Give a run that has no checkpoint yet the weights, and the optimiser's state, of its starting point."""
    own = run.model.state_dict()
    drawn = {name: values for name, values in own.items() if name in point.drawn}
    run.model.load_state_dict({**drawn, **cut_like(own, point.model)}, strict=True)
    if point.optimizer is not None and point.optimizer_state is not None:
        tensors = cut_like(run.optimizer.tensor_state(), point.optimizer)
        run.optimizer.load_state(tensors, point.optimizer_state, same_settings=False)
    if run.world.is_main:
        kind = "carried on" if point.optimizer is not None else "fresh"
        note(f"{run.plan.member}: starts from {point.place}, optimiser {kind}")
