"""Where a run stands: the place in the plan, and taking it from and to a checkpoint."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass, replace

import torch

import seqpair
from seqpair.checkpoint.manifest import CheckpointFields
from seqpair.checkpoint.store import LoadedCheckpoint
from seqpair.data.order.batches import Batch
from seqpair.errors import CheckpointError
from seqpair.recipe.identity import plan_digest
from seqpair.recipe.plan import PhasePlan, Plan
from seqpair.train.assembly import Run


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


def place_after(place: Place, batch: Batch) -> Place:
    """Return the place after a step that read this batch."""
    return replace(
        place,
        step=place.step + 1,
        total_step=place.total_step + 1,
        content_tokens=place.content_tokens + int(batch.content.size),
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
    if loaded.manifest.plan_digest != plan_digest(run.plan):
        raise CheckpointError(
            f"checkpoint {loaded.manifest.name} belongs to another plan",
            seen=loaded.manifest.plan_digest[:16],
            allowed=plan_digest(run.plan)[:16],
            fix="start a run under another `name`, or move the checkpoint away",
        )
    run.model.load_state_dict(loaded.model, strict=True)
    run.optimizer.load_state(loaded.optimizer, loaded.state["optimizer"])
    return Place(**loaded.state["place"])
