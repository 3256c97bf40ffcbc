"""From a recipe to the plan that its prepared stores give.

Imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seqpair.data.store.catalogue import PreparedStats, stats_for
from seqpair.errors import StoreError
from seqpair.recipe.plan import Plan
from seqpair.recipe.resolve import resolve_plans
from seqpair.recipe.schema import Recipe

if TYPE_CHECKING:
    from seqpair.data.store.store import Store


def plan_member(recipe: Recipe, member: str) -> Plan:
    """Resolve a recipe for one member, with the real counts where its stores are prepared.

    Raises:
        RecipeError: The member is unknown, or the recipe cannot be resolved.
        StoreError: A manifest is damaged.
    """
    return plan_members(recipe, [member])[member]


def plan_members(recipe: Recipe, members: Sequence[str]) -> dict[str, Plan]:
    """Resolve a recipe for several members as `plan_member` does; the stores' counts are read once."""
    stats, vocab_size = counts_of(recipe) or (None, None)
    return resolve_plans(recipe, members, stats, vocab_size)


def counts_of(recipe: Recipe) -> PreparedStats | None:
    """Return the counts of a recipe's training stores at its phases' lengths; None if they are not prepared.

    Raises:
        StoreError: An index or a manifest is damaged.
    """
    data = recipe.data
    seq_lens = [phase.seq_len for phase in recipe.phases]
    return stats_for(data.sources, data.tokenizer, Path(data.stores), seq_lens)


def require_stores(plan: Plan, stores: Mapping[str, Store]) -> None:
    """Check that the training stores at hand are those that a plan was made for.

    Raises:
        StoreError: One is not there, or is another one.
    """
    for ref in plan.stores:
        found = stores[ref.source].manifest.digest[:16] if ref.source in stores else "no store"
        if found != ref.digest[:16]:
            raise StoreError(
                f"the store of source {ref.source!r} is not the one this plan was made for",
                seen=found,
                allowed=ref.digest[:16],
                fix="prepare again and start a new run, or bring the old store back",
            )
