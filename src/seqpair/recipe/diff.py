"""Every difference between two plans, and whether the objectives table declares it.

Owns the comparison. Must not know how plans are made or shown. Entry points: `diff_plans`,
`require_declared`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from seqpair.errors import RecipeError
from seqpair.recipe.objectives import DECLARED_DIFFERENCES, OBJECTIVES
from seqpair.recipe.plan import Plan
from seqpair.recipe.resolve import derived_plan

ABSENT = "(absent)"


@dataclass(frozen=True)
class Difference:
    """One leaf in which two plans differ.

    Attributes:
        path: Such as `phases[0].mask_frac`.
        a, b: The two values; `ABSENT` where a plan has no such leaf.
        declared: Whether the objectives table declares it.
        reason: The declared reason; empty if undeclared.
    """

    path: str
    a: object
    b: object
    declared: bool
    reason: str


def diff_plans(a: Plan, b: Plan) -> list[Difference]:
    """Return every difference between two plans, in the plans' own order.

    Where each value came from (`origins`) is not compared. What follows from the objective counts as
    declared only where it is what the table says for that plan's objective.
    """
    left, right = (
        _leaves(a.model_dump(mode="json", exclude={"origins"})),
        _leaves(b.model_dump(mode="json", exclude={"origins"})),
    )
    lying = {path for plan in (a, b) for path in _against_the_table(plan)}
    differences: list[Difference] = []
    for path in dict.fromkeys([*left, *right]):
        value, other = left.get(path, ABSENT), right.get(path, ABSENT)
        if value != other or path in lying:
            reason = "" if path in lying else declared_reason(path)
            differences.append(Difference(path, value, other, bool(reason), reason))
    return differences


def require_declared(differences: Sequence[Difference], names: tuple[str, str]) -> None:
    """Check that only what the objectives table declares differs.

    Raises:
        RecipeError: Something else differs.
    """
    wrong = [difference for difference in differences if not difference.declared]
    if wrong:
        lines = "\n    ".join(f"{item.path}: {item.a} against {item.b}" for item in wrong)
        raise RecipeError(
            f"{names[0]} and {names[1]} differ in more than their objective",
            seen=f"{len(wrong)} undeclared difference{'s' if len(wrong) > 1 else ''}:\n    {lines}",
            allowed="; ".join(DECLARED_DIFFERENCES),
            fix="give both members the same value, or compare members of one recipe",
        )


def declared_reason(path: str) -> str:
    """Return the reason declared for a path, or for the section it lies in; empty if there is none."""
    for pattern, reason in DECLARED_DIFFERENCES.items():
        expression = re.escape(pattern).replace(r"\[\*\]", r"\[\d+\]")
        if re.fullmatch(rf"{expression}(?:[.\[].*)?", path):
            return reason
    return ""


def _against_the_table(plan: Plan) -> list[str]:
    """Return the paths of a plan that contradict the objectives table."""
    last = OBJECTIVES[plan.phases[-1].objectives[-1].objective]
    right = derived_plan(last).model_dump()
    wrong = [f"derived.{key}" for key, value in plan.derived.model_dump().items() if value != right[key]]
    for index, phase in enumerate(plan.phases):
        corrupts = any(OBJECTIVES[span.objective].corrupts for span in phase.objectives)
        if corrupts != (phase.mask_frac is not None):
            wrong.append(f"phases[{index}].mask_frac")
    return wrong


def _leaves(value: object, path: str = "") -> dict[str, object]:
    if isinstance(value, dict):
        prefix = f"{path}." if path else ""
        return {leaf: item for key, below in value.items() for leaf, item in _leaves(below, f"{prefix}{key}").items()}
    if isinstance(value, list):
        return {
            leaf: item for index, below in enumerate(value) for leaf, item in _leaves(below, f"{path}[{index}]").items()
        }
    return {path: value}
