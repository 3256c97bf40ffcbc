"""From a recipe to the plan that its prepared stores give.

Owns the one seam between recipes, which cannot see stores, and stores, which know nothing of recipes.
Imports nothing heavy. Entry point: `plan_member`.
"""

from __future__ import annotations

from pathlib import Path

from seqpair.data.catalogue import stats_for
from seqpair.recipe.plan import Plan
from seqpair.recipe.resolve import resolve_plan
from seqpair.recipe.schema import Recipe


def plan_member(recipe: Recipe, member: str) -> Plan:
    """Resolve a recipe for one member, with the real counts where its stores are prepared.

    Raises:
        RecipeError: The member is unknown, or the recipe cannot be resolved.
        StoreError: A manifest is damaged.
    """
    data = recipe.data
    seq_lens = [phase.seq_len for phase in recipe.phases]
    found = stats_for(data.sources, data.tokenizer, Path(data.stores), seq_lens)
    if found is None:
        return resolve_plan(recipe, member)
    return resolve_plan(recipe, member, found.stats, found.vocab_size)
