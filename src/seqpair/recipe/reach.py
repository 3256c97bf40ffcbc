"""Which leaves of a plan a recipe's key may move: a sweep's points differ in nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence

from seqpair.errors import RecipeError
from seqpair.recipe.diff import Difference
from seqpair.recipe.schema import Recipe

_PLACE = ("study", "runs")
"""Leaves that say where a run lies; every point of a sweep has its own."""

_FOLLOWS = ("start.plan_digest",)
"""A member that starts from another one says which plan that one had."""

_COUNTS = ("mean_tokens", "steps", "positions", "batch_stages", "checkpoint_steps", "held_out_steps", "objectives")
"""What a phase's data, batch and budget come to, in steps."""

_PHASE_REACH: dict[str, tuple[str, ...]] = {
    "mixture": _COUNTS,
    "seq_len": _COUNTS,
    "batch": _COUNTS,
    "budget_tokens": _COUNTS,
}
_BUDGET_REACH = ("budget_tokens", "lr.warmup_tokens", "lr.decay_tokens", *_COUNTS)


def plan_leaves_of(key: str, recipe: Recipe) -> list[str]:
    """Return the plan leaves, or sections of them, that a recipe's key may move.

    Args:
        key: A dotted path of the recipe; phases by name or index.
        recipe: A recipe with this key, for the names of its phases.
    """
    parts = key.split(".")
    names = [phase.name for phase in recipe.phases]
    if parts[0] == "budget":
        return [f"phases[{name}].{leaf}" for name in names for leaf in _BUDGET_REACH] + ["keep.every_tokens"]
    if parts[0] == "size":
        return ["size", "model.shape"]
    if parts[0] == "members":
        moved = ("objectives", "mask_frac")
        return [f"phases[{name}].{leaf}" for name in names for leaf in moved] + ["start", "derived"]
    if parts[0] == "phases" and len(parts) > 2:
        index = int(parts[1]) if parts[1].isdecimal() else -1
        name = names[index] if 0 <= index < len(names) else parts[1]
        follows = _PHASE_REACH.get(parts[2], ())
        own = parts[2] if parts[2] in _PHASE_REACH else ".".join(parts[2:])
        shares_budget = recipe.budget is not None and parts[2] == "budget_tokens"
        scaled = [f"phases[{other}].{leaf}" for other in names for leaf in _BUDGET_REACH] if shares_budget else []
        return [f"phases[{name}].{leaf}" for leaf in (own, *follows)] + scaled
    return [key]


def require_reached(differences: Sequence[Difference], keys: Sequence[str], recipe: Recipe, point: str) -> None:
    """Check that a point's plan differs from the recipe's own in nothing but what the swept keys may move.

    Args:
        differences: The recipe's own plan against the point's, of one member.
        keys: The swept keys.
        recipe: The recipe.
        point: The point's name, for the message.

    Raises:
        RecipeError: Something else differs.
    """
    allowed = [*_PLACE, *_FOLLOWS, *(leaf for key in keys for leaf in plan_leaves_of(key, recipe))]
    wrong = [item for item in differences if not any(_within(item.path, leaf) for leaf in allowed)]
    if wrong:
        lines = "\n    ".join(f"{item.path}: {item.a} against {item.b}" for item in wrong)
        raise RecipeError(
            f"the point {point} differs from the recipe in more than what is swept",
            seen=f"{len(wrong)} other differences:\n    {lines}",
            allowed=", ".join(leaf for leaf in allowed if leaf not in _PLACE),
            fix="vary a key that moves nothing else, or write recipes of their own",
        )


def _within(path: str, leaf: str) -> bool:
    return re.match(re.escape(leaf) + r"(?:$|[.\[])", path) is not None
