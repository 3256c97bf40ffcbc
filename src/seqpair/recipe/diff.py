"""Two plans compared: every difference, and whether the objectives table declares it; and a plan's digests.

`plan_digest` covers all that changes what is learned; `PairIdentity` what the members of a pair must share.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seqpair.errors import RecipeError
from seqpair.files import sha256_json
from seqpair.recipe.objectives import DECLARED_DIFFERENCES, DECLARED_OF_STARTS, OBJECTIVES
from seqpair.recipe.plan import Plan, derived_plan

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

_KNOWN_BY_NAME = {
    *("name", "direction", "masking", "shows", "own_rate", "has_prefix", "predicts", "ends_every_piece", "hub_class"),
    *("template", "padding_side", "parts", "also_exports", "remark"),
}
"""Columns of the objectives table that a digest covers by the objective's name; it covers any later one by value."""


def plan_digest(plan: Plan) -> str:
    """Return the SHA-256 of everything in a plan that changes what is learned.

    Two plans with one digest train to the same weights, up to the float error that `runtime` brings.
    """
    return sha256_json(learned_leaves(plan))


def learned_leaves(plan: Plan) -> dict[str, Any]:
    """Return everything in a plan that changes what is learned, as plain values."""
    learned = plan.model_dump(mode="json", exclude=_NOT_LEARNED)
    if plan.optimizer.momentum is None:  # older plans have no such key, and stay what they are
        del learned["optimizer"]["momentum"]
    for name in ("window_tokens", "draws_head", "train_layers"):
        if plan.start is not None and not learned["start"][name]:
            del learned["start"][name]
    for phase in learned["phases"]:
        for span in phase["objectives"]:
            span.update(_later_columns(span["objective"]))
    return learned


def _later_columns(objective: str) -> dict[str, Any]:
    """Return the columns of an objective that came into the table later, where they have another than their default."""
    row = OBJECTIVES[objective].model_dump(mode="json", exclude_defaults=True)
    return {column: value for column, value in row.items() if column not in _KNOWN_BY_NAME}


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


ABSENT, PRESENT = "(absent)", "(present)"


@dataclass(frozen=True)
class Difference:
    """One leaf in which two plans differ.

    Attributes:
        path: Such as `phases[pretrain].mask_frac`.
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

    Phases are held against each other by name; one that only one plan runs is one difference. Where each
    value came from (`origins`) is not compared. What follows from the objective counts as declared only
    where it is what the table says for that plan's objective.
    """
    left, right = _plan_leaves(a, b), _plan_leaves(b, a)
    # A leaf that follows from the objective may be equal in both plans and still contradict the table.
    lying = {path for plan in (a, b) for path in _against_the_table(plan)}
    differences: list[Difference] = []
    for path in dict.fromkeys([*left, *right]):
        value, other = left.get(path, ABSENT), right.get(path, ABSENT)
        if value != other or path in lying:
            reason = "" if path in lying else _reason(path, a, b)
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


def declared_reason(path: str, *, started: bool = False) -> str:
    """Return the reason declared for a path, or for the section it lies in; empty if there is none.

    Args:
        path: A difference's path.
        started: Whether one of the two members does not start from scratch, so that more is declared.
    """
    for pattern, reason in DECLARED_DIFFERENCES.items():
        if _matches(pattern, path, below=True):
            return reason
    for pattern, reason in DECLARED_OF_STARTS.items() if started else ():
        if _matches(pattern, path, below=pattern == "start"):
            return reason
    return ""


def _matches(pattern: str, path: str, *, below: bool) -> bool:
    expression = re.escape(pattern).replace(r"\[\*\]", r"\[[^\]]+\]")
    return re.fullmatch(expression + (r"(?:[.\[].*)?" if below else ""), path) is not None


def _reason(path: str, a: Plan, b: Plan) -> str:
    alike = [phase.name for phase in a.phases] == [phase.name for phase in b.phases]
    if path == "start.optimizer" and alike:
        return ""  # through the same phases both carry their optimiser state, or neither does
    return declared_reason(path, started=a.start is not None or b.start is not None)


def _against_the_table(plan: Plan) -> list[str]:
    """Return the paths of a plan that contradict the objectives table."""
    last = OBJECTIVES[plan.phases[-1].objectives[-1].objective]
    right = derived_plan(last).model_dump()
    wrong = [f"derived.{key}" for key, value in plan.derived.model_dump().items() if value != right[key]]
    for phase in plan.phases:
        takes_it = any(OBJECTIVES[span.objective].takes_mask_frac for span in phase.objectives)
        if takes_it != (phase.mask_frac is not None):
            wrong.append(f"phases[{phase.name}].mask_frac")
    return wrong


def _plan_leaves(plan: Plan, other: Plan) -> dict[str, object]:
    """Return a plan's leaves by path; `other` tells which phases both have, and whether both have a start."""
    leaves: dict[str, object] = {}
    shared = {phase.name for phase in other.phases}
    for key, value in plan.model_dump(mode="json", exclude={"origins"}).items():
        if key == "phases":
            leaves["phases"] = ", ".join(phase.name for phase in plan.phases if phase.name in shared)
            for phase in value:
                path = f"phases[{phase['name']}]"
                leaves |= _leaves(phase, path) if phase["name"] in shared else {path: PRESENT}
        elif key == "start" and (plan.start is None or other.start is None):
            leaves["start"] = "scratch" if plan.start is None else plan.start.place
        else:
            leaves |= _leaves(value, key)
    return leaves


def _leaves(value: object, path: str = "") -> dict[str, object]:
    if isinstance(value, dict):
        prefix = f"{path}." if path else ""
        return {leaf: item for key, below in value.items() for leaf, item in _leaves(below, f"{prefix}{key}").items()}
    if isinstance(value, list):
        return {
            leaf: item for index, below in enumerate(value) for leaf, item in _leaves(below, f"{path}[{index}]").items()
        }
    return {path: value}
