"""How far two plans train the same, so that a run of the shorter one can continue with the longer one.

The order of the data does not depend on the budget, so a larger budget changes nothing before the first step at which
one of the phase's curves depends on the phase's length.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

from seqpair.recipe.diff import learned_leaves
from seqpair.recipe.plan import BatchStage, ObjectiveSpan, PhasePlan, Plan
from seqpair.recipe.schedule import MaskCurve

_OF_THE_LENGTH = {
    "budget_tokens",
    "steps",
    "positions",
    "batch_stages",
    "objectives",
    "mask_frac",
    "lr",
    "checkpoint_steps",
    "held_out_steps",
}
"""What of a phase may follow from its budget; it is compared step by step."""


_Table = TypeVar("_Table", BatchStage, ObjectiveSpan)


class SharedSteps(NamedTuple):
    """How many first steps, over all phases, two plans train the same, and what differs from there on."""

    steps: int
    ended_by: str


def shared_steps(a: Plan, b: Plan) -> SharedSteps:
    """Return how far two plans train the same: the same sequences, targets and rates at every step.

    A source that only one of them has changes nothing, as long as no shared step reads it.
    """
    if _apart_from_phases(a) != _apart_from_phases(b):
        return SharedSteps(0, "more than the phases")
    total = 0
    for first, second in zip(a.phases, b.phases, strict=False):
        where = f"phases[{first.name}]"
        if _static(first) != _static(second):
            return SharedSteps(total, f"another phase after {total} steps" if total else f"{where}: another phase")
        if _of_sources(a, first) != _of_sources(b, second):
            return SharedSteps(total, f"{where}: other stores")
        steps, ended_by = min(_limits(first, second), key=lambda limit: limit[0])  # of equals the first, `steps`
        total += steps
        if steps < max(first.steps, second.steps):
            return SharedSteps(total, f"{where}.{ended_by}")
    return SharedSteps(total, "the end of the shorter plan")


def is_longer(plan: Plan, earlier: Plan) -> bool:
    """Return whether a plan only adds to an earlier one: larger budgets, what follows from them, and later phases."""
    if len(plan.phases) < len(earlier.phases) or _apart_from_phases(plan) != _apart_from_phases(earlier):
        return False
    pairs = list(zip(earlier.phases, plan.phases, strict=False))
    alike = all(
        _static(old) == _static(new)
        and (old.mask_frac, _curve(old)) == (new.mask_frac, _curve(new))
        and old.budget_tokens <= new.budget_tokens
        for old, new in pairs
    )
    grown = len(plan.phases) > len(earlier.phases) or any(old.steps < new.steps for old, new in pairs)
    return alike and grown


def _apart_from_phases(plan: Plan) -> dict[str, Any]:
    leaves = learned_leaves(plan)
    # Sources are compared where a phase reads them; what is derived follows from the last phase's objective.
    return {key: value for key, value in leaves.items() if key not in ("phases", "sources", "stores", "derived")}


def _of_sources(plan: Plan, phase: PhasePlan) -> list[Any]:
    """Return what a plan says of the sources that a phase reads."""
    names = {part.source for part in phase.mixture}
    leaves = learned_leaves(plan)
    return [one for one in leaves["sources"] if one["name"] in names] + [
        one for one in leaves["stores"] if one["source"] in names
    ]


def _static(phase: PhasePlan) -> dict[str, Any]:
    return phase.model_dump(mode="json", exclude=_OF_THE_LENGTH)


def _curve(phase: PhasePlan) -> dict[str, Any]:
    return phase.lr.model_dump(mode="json", exclude={"warmup_tokens", "decay_tokens"})


def _limits(a: PhasePlan, b: PhasePlan) -> list[tuple[int, str]]:
    """Return after how many steps of a phase each part of two plans differs; the shorter one's steps if it does not."""
    shorter = min(a.steps, b.steps)
    return [
        (shorter, "steps"),
        (min(shorter, _first_change(a.batch_stages, b.batch_stages)), "batch_stages"),
        (min(shorter, _first_change(a.objectives, b.objectives)), "objectives"),
        (min(shorter, _lr_limit(a, b)), "lr"),
        (min(shorter, _mask_limit(a, b)), "mask_frac"),
    ]


def _first_change(a: Sequence[_Table], b: Sequence[_Table]) -> int:
    """Return the first step at which two tables of what holds from which step on differ."""
    for first, second in zip(a, b, strict=False):
        if first != second:
            return min(first.first_step, second.first_step)
    longer = a if len(a) > len(b) else b
    return longer[min(len(a), len(b))].first_step if len(a) != len(b) else 1 << 62


def _lr_limit(a: PhasePlan, b: PhasePlan) -> int:
    if a.lr == b.lr and a.positions == b.positions:
        return a.steps
    if (_beginning(a), a.lr.warmup_tokens) != (_beginning(b), b.lr.warmup_tokens):
        return 0
    return min(_lr_steps(a), _lr_steps(b))


def _beginning(phase: PhasePlan) -> dict[str, Any]:
    return {key: value for key, value in _curve(phase).items() if key != "end_frac"}


def _lr_steps(phase: PhasePlan) -> int:
    """Return how many first steps of a phase have the rates that they would have in a longer one."""
    tokens = phase.lr.tokens_before_length_matters(phase.positions * phase.mean_tokens)
    # A step's rate is taken at its end.
    return bisect.bisect_right(range(phase.steps), tokens, key=lambda step: phase.planned_tokens(step + 1))


def _mask_limit(a: PhasePlan, b: PhasePlan) -> int:
    if a.mask_frac != b.mask_frac:
        return 0
    if a.positions == b.positions or not isinstance(a.mask_frac, MaskCurve):
        return min(a.steps, b.steps)
    border = a.mask_frac.frac_before_length_matters
    return min(_steps_before(phase, border * phase.positions) for phase in (a, b))


def _steps_before(phase: PhasePlan, position: float) -> int:
    """Return how many first steps of a phase begin before a position."""
    return bisect.bisect_left(range(phase.steps), position, key=lambda step: phase.positions_of(step).start)
