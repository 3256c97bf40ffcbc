"""A plan's identity: one digest over all that changes what is learned.

Owns the list of what does not count. Must not know checkpoints or runs. Entry point: `plan_digest`.
"""

from __future__ import annotations

from typing import Any

from seqpair.digest import sha256_json
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


def plan_digest(plan: Plan) -> str:
    """Return the SHA-256 of everything in a plan that changes what is learned.

    Two plans with one digest train to the same weights, up to the float error that `runtime` brings.
    """
    learned = plan.model_dump(mode="json", exclude=_NOT_LEARNED)
    if plan.optimizer.momentum is None:  # older plans have no such key, and stay what they are
        del learned["optimizer"]["momentum"]
    return sha256_json(learned)
