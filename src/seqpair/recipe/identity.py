"""A plan's identity: one digest over all that changes what is learned, and one over what a pair must share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seqpair.files import sha256_json
from seqpair.recipe.plan import Plan

_NOT_LEARNED: dict[str, Any] = {
    "study": True,
    "member": True,
    "size": True,
    "held_out": True,
    "keep": True,
    "runtime": True,
    "runs": True,
    "store_folder": True,
    "origins": True,
    "start": {"member"},
    "tokenizer": {"path"},
    "sources": {"__all__": {"paths", "cleaning"}},
    "phases": {"__all__": {"checkpoint_steps", "held_out_steps"}},
}
"""Names, places, cadences of looking and saving, and how it is run; a path's content is in the store's digest."""

_OF_THE_OBJECTIVE = {"objectives", "mask_frac", "checkpoint_steps", "held_out_steps"}
"""What of a phase follows from a member's objective, or does not change what is learned."""


def plan_digest(plan: Plan) -> str:
    """Return the SHA-256 of everything in a plan that changes what is learned.

    Two plans with one digest train to the same weights, up to the float error that `runtime` brings.
    """
    learned = plan.model_dump(mode="json", exclude=_NOT_LEARNED)
    if plan.optimizer.momentum is None:  # older plans have no such key, and stay what they are
        del learned["optimizer"]["momentum"]
    return sha256_json(learned)


@dataclass(frozen=True)
class PairIdentity:
    """What two members must share to be a pair; the seed aside, so that it is one identity for all seeds of a study.

    Attributes:
        parts: The digest of each part: `shape`, `model`, `tokenizer`, `data`, `optimizer`, and `phase NAME` for each
            phase.
        from_scratch: Whether it starts from the initialisation; a member that does not runs phases of its own.
    """

    parts: Mapping[str, str]
    from_scratch: bool = True

    @property
    def fingerprint(self) -> str:
        """Return one digest of all parts."""
        return sha256_json(dict(self.parts))

    def differing(self, other: PairIdentity) -> list[str]:
        """Return the parts in which two members differ though a pair must share them.

        A phase that only one of them runs is no difference where one of them starts from another's checkpoint:
        the objectives table declares it.
        """
        names = list(dict.fromkeys([*self.parts, *other.parts]))
        may_lack = not (self.from_scratch and other.from_scratch)
        return [
            name
            for name in names
            if self.parts.get(name) != other.parts.get(name)
            and not (may_lack and name.startswith("phase ") and (name in self.parts) != (name in other.parts))
        ]


def pair_identity(plan: Plan) -> PairIdentity:
    """Return what a plan's member shares with the other members of its pair, at any seed."""
    model = plan.model.model_dump(mode="json")
    parts = {
        "shape": model.pop("shape"),
        "model": model,
        "tokenizer": plan.tokenizer.model_dump(mode="json", exclude={"path"}),
        "data": {store.source: store.digest for store in plan.stores},
        "optimizer": plan.optimizer.model_dump(mode="json"),
    }
    parts |= {f"phase {phase.name}": phase.model_dump(mode="json", exclude=_OF_THE_OBJECTIVE) for phase in plan.phases}
    return PairIdentity({name: sha256_json(value) for name, value in parts.items()}, plan.start is None)
