"""Where a member's weights come from, if not from its own initialisation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from seqpair.checkpoint.catalog import CheckpointEntry, find_checkpoint, latest_valid
from seqpair.checkpoint.store import load_checkpoint
from seqpair.errors import CheckpointError
from seqpair.paths import run_folder
from seqpair.recipe.plan import Plan, Start
from seqpair.text import note
from seqpair.train.assembly import Run


@dataclass(frozen=True)
class StartingPoint:
    """Weights to start from, and the optimiser's state where it is carried on.

    Attributes:
        place: Where they come from, in words.
        model: The parameters by name.
        optimizer: The optimiser's tensors by name; None for a fresh optimiser.
        optimizer_state: The optimiser's JSON state; None for a fresh optimiser.
    """

    place: str
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor] | None = None
    optimizer_state: dict[str, Any] | None = None


def starting_point_of(plan: Plan) -> StartingPoint:
    """Load what a member starts from, from another member's run.

    Raises:
        CheckpointError: That member is not trained so far, or was trained by another plan.
    """
    start = plan.start
    assert start is not None, "the plan has a start"
    assert start.member is not None, "the start is a member"
    entry = _entry_of(start, run_folder(plan).with_name(start.member))
    if entry.manifest.plan_digest != start.plan_digest:
        raise CheckpointError(
            f"{plan.member} starts from {start.place}, which was trained by another plan",
            seen=entry.manifest.plan_digest[:16],
            allowed=start.plan_digest[:16],
            fix=f"train {start.member} by this recipe first, or give the recipe another `name`",
        )
    carried = start.optimizer == "carried"
    loaded = load_checkpoint(entry.path, model_only=not carried)
    return StartingPoint(
        place=f"{start.member}@{entry.name}",
        model=loaded.model,
        optimizer=loaded.optimizer if carried else None,
        optimizer_state=loaded.state["optimizer"] if carried else None,
    )


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
    run.model.load_state_dict(point.model, strict=True)
    if point.optimizer is not None and point.optimizer_state is not None:
        run.optimizer.load_state(point.optimizer, point.optimizer_state, same_settings=False)
    if run.world.is_main:
        kind = "carried on" if point.optimizer is not None else "fresh"
        note(f"{run.plan.member}: starts from {point.place}, optimiser {kind}")
