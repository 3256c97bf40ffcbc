"""A member's way through the phases: which it runs, after whom, and what it trains on each span of steps."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from seqpair.errors import RecipeError
from seqpair.recipe.member_spec import ObjectivePart
from seqpair.recipe.merge import nearest
from seqpair.recipe.plan import ObjectiveSpan, PhasePlan
from seqpair.recipe.schema import PhaseSpec, Recipe


def training_order(recipe: Recipe, chosen: Sequence[str] = ()) -> list[str]:
    """Return members so that each comes after the one it starts from, else in the recipe's order.

    Args:
        recipe: The recipe.
        chosen: Only these, and those that they start from; all if empty.

    Raises:
        RecipeError: A chosen member is not in the recipe.
    """
    for name in chosen:
        require_member(recipe, name)
    order: list[str] = []
    for name in [name for name in recipe.members if not chosen or name in chosen]:
        chain: list[str] = []
        here: str | None = name
        while here is not None and here not in order:
            chain.append(here)
            here = recipe.members[here].source
        order += reversed(chain)
    return order


def require_member(recipe: Recipe, name: str) -> None:
    """Check that a recipe has a member of this name.

    Raises:
        RecipeError: It has not.
    """
    if name not in recipe.members:
        raise RecipeError(
            f"the recipe '{recipe.name}' has no member '{name}'{nearest(name, recipe.members)}",
            seen=name,
            allowed=", ".join(recipe.members),
        )


def phases_of(recipe: Recipe, member: str) -> list[PhaseSpec]:
    """Return the phases that a member runs, in order.

    Raises:
        RecipeError: There are none, or two have one tag, so that their checkpoints would have one name.
    """
    chosen = recipe.members[member].phases
    if chosen is None:
        phases = [phase for phase in recipe.phases if phase.tag != "cross"]
    else:
        by_name = {phase.name: phase for phase in recipe.phases}
        phases = [by_name[name] for name in chosen]
    if not phases:
        raise RecipeError(
            f"the member '{member}' runs no phase",
            seen="every phase of the recipe has tag 'cross'",
            fix=f"name its phases: members.{member}.phases",
        )
    names_of: dict[str, str] = {}
    for phase in phases:
        if phase.tag in names_of:
            raise RecipeError(
                f"two phases of the member '{member}' would name their checkpoints alike",
                seen=f"'{names_of[phase.tag]}' and '{phase.name}' both have tag '{phase.tag}'",
                allowed="one phase for each of step, ext, decay, cross",
                fix="give one of them another `tag`",
            )
        names_of[phase.tag] = phase.name
    return phases


def place_spans(
    member: str, parts: Sequence[ObjectivePart], phases: Sequence[PhasePlan]
) -> list[tuple[ObjectiveSpan, ...]]:
    """Return each phase's spans of objectives.

    The fractions are of the planned content tokens of the phases up to and including the one with tag
    `step`, or of all phases if none has it; each switch falls on the step border nearest to its
    fraction. Later phases train the last part.

    Raises:
        RecipeError: A part is so short that no step is left to it.
    """
    last = max((index for index, phase in enumerate(phases) if phase.tag == "step"), default=len(phases) - 1)
    total = sum(phase.planned_tokens(phase.steps) for phase in phases[: last + 1])
    spans: list[list[ObjectiveSpan]] = [[] for _ in phases]
    before, place = 0.0, (0, 0)
    for part in parts:
        index, step = place
        spans[index].append(ObjectiveSpan(first_step=step, objective=part.objective, causal_frac=part.causal_frac))
        before += part.frac
        ends = _nearest_border(before * total, phases[: last + 1])
        if ends <= place:
            raise RecipeError(
                f"no step is left to the objective '{part.objective}' of the member '{member}'",
                seen=f"a fraction of {part.frac:g}",
                fix="raise the fraction or the budget, or make the batch smaller",
            )
        place = ends
    for index, found in enumerate(spans):
        if not found or found[0].first_step > 0:
            found.insert(0, spans[index - 1][-1].model_copy(update={"first_step": 0}))
    return [tuple(found) for found in spans]


def _nearest_border(tokens: float, phases: Sequence[PhasePlan]) -> tuple[int, int]:
    """Return (phase, step) of the step border nearest to a number of tokens; a phase's end is the next one's start."""
    for index, phase in enumerate(phases):
        if tokens < phase.planned_tokens(phase.steps):
            after = bisect.bisect_left(range(phase.steps), tokens, key=phase.planned_tokens)
            before = max(0, after - 1)
            closer = tokens - phase.planned_tokens(before) < phase.planned_tokens(after) - tokens
            step = before if closer else after
            return (index, step) if step < phase.steps else (index + 1, 0)
        tokens -= phase.planned_tokens(phase.steps)
    return len(phases), 0
