"""One member of a recipe: what it starts from, which phases it runs, what it trains."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from seqpair.recipe.merge import nearest
from seqpair.recipe.objectives import OBJECTIVES

CHECKPOINT_NAME = re.compile(r"^(step|ext|decay|cross)([1-9][0-9]*)$")
"""A checkpoint's name: a phase's tag and the steps done in it."""

_FORMS = "clm, mlm or mntp; a list such as [{clm: 0.25}, {mlm: 0.75}]; or {hybrid: {causal_frac: 0.0625}}"
_FRACTIONS_TOLERANCE = 1e-6


@dataclass(frozen=True)
class ObjectivePart:
    """One part of a member's objective.

    Attributes:
        objective: Its name in the objectives table.
        frac: Its share of the pretraining's content tokens; the parts' shares sum to one.
        causal_frac: For `hybrid`, the share of each step's sequences that is causal; else null.
    """

    objective: str
    frac: float = 1.0
    causal_frac: float | None = None


def is_folder(start: str) -> bool:
    """Return whether a member's `from` is a path rather than a member's name."""
    return "/" in start or start.startswith((".", "~"))


def _parts(value: object) -> object:
    """Read an objective in any of its written forms."""
    if value is None or (isinstance(value, tuple) and all(isinstance(part, ObjectivePart) for part in value)):
        return value
    if isinstance(value, str):
        return (ObjectivePart(_plain_objective(value)),)
    if isinstance(value, dict) and set(value) == {"hybrid"}:
        return (ObjectivePart("hybrid", causal_frac=_causal_frac(value["hybrid"])),)
    if not isinstance(value, list) or not value:
        raise ValueError(f"not an objective; allowed: {_FORMS}")
    parts = tuple(_scheduled(item) for item in value)
    total = math.fsum(part.frac for part in parts)
    if abs(total - 1.0) > _FRACTIONS_TOLERANCE:
        raise ValueError(f"the fractions of an objective's parts must sum to 1, but they sum to {total:g}")
    return parts


def _plain_objective(name: object) -> str:
    if name == "hybrid":
        raise ValueError("'hybrid' needs its causal share and stands alone: {hybrid: {causal_frac: 0.0625}}")
    if name == "diffusion":
        raise ValueError(f"'diffusion' is not there yet; allowed: {_FORMS}")
    if not isinstance(name, str) or name not in OBJECTIVES:
        raise ValueError(f"'{name}' is not an objective{nearest(str(name), OBJECTIVES)}; allowed: {_FORMS}")
    return name


def _causal_frac(value: object) -> float:
    if not isinstance(value, dict) or set(value) != {"causal_frac"}:
        raise ValueError("'hybrid' takes one key: {hybrid: {causal_frac: 0.0625}}")
    return _fraction(value["causal_frac"], "causal_frac", below_one=True)


def _scheduled(item: object) -> ObjectivePart:
    if not isinstance(item, dict) or len(item) != 1:
        raise ValueError("a part of a schedule is one objective with its fraction, such as {clm: 0.25}")
    ((name, frac),) = item.items()
    return ObjectivePart(_plain_objective(name), _fraction(frac, f"the fraction of '{name}'", below_one=False))


def _fraction(value: object, what: str, *, below_one: bool) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{what} must be a number, but it is {value!r}")
    if not 0 < value <= 1 or (below_one and value == 1):
        raise ValueError(f"{what} must be above 0 and {'below' if below_one else 'at most'} 1, but it is {value:g}")
    return float(value)


def _written(parts: tuple[ObjectivePart, ...] | None) -> object:
    """Return an objective as a recipe writes it."""
    if parts is None:
        return None
    if len(parts) > 1:
        return [{part.objective: part.frac} for part in parts]
    (part,) = parts
    return part.objective if part.causal_frac is None else {part.objective: {"causal_frac": part.causal_frac}}


WrittenObjective = Annotated[tuple[ObjectivePart, ...] | None, BeforeValidator(_parts), PlainSerializer(_written)]
PhaseName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class MemberSpec(BaseModel):
    """One member of a recipe.

    Attributes:
        objective: Its parts in order; null (only where `from` names a member) goes on with the objective
            that the checkpoint was trained with.
        starts_from: Written `from`: a member (`decoder`), one of its checkpoints (`decoder@ext12`) or a
            Hugging Face folder; null is from scratch.
        phases: The phases it runs, in this order; null is all but those with tag `cross`.
        mask_frac: Its mask rate in all its phases; null takes each phase's.
        optimizer: `fresh` or `carried` over from the checkpoint; null carries it where the objective stays.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    objective: WrittenObjective = None
    starts_from: str | None = Field(default=None, alias="from", min_length=1)
    phases: tuple[PhaseName, ...] | None = None
    mask_frac: float | None = Field(default=None, gt=0, lt=1)
    optimizer: Literal["fresh", "carried"] | None = None

    @property
    def folder(self) -> str | None:
        """Return the folder it starts from, if it starts from one."""
        return self.starts_from if self.starts_from is not None and is_folder(self.starts_from) else None

    @property
    def source(self) -> str | None:
        """Return the member it starts from, if it starts from one."""
        return None if self.starts_from is None or self.folder else self.starts_from.partition("@")[0]

    @property
    def checkpoint(self) -> str | None:
        """Return the name of the checkpoint it starts from; null stands for the last one."""
        return None if self.source is None else str(self.starts_from).partition("@")[2] or None

    @model_validator(mode="after")
    def _says_where_it_goes(self) -> MemberSpec:
        if self.objective is None and self.source is None:
            raise ValueError("'objective' is missing; only a member that starts from another one may leave it out")
        if self.source is not None and self.phases is None:
            raise ValueError("'phases' is missing: name what it runs after its start, such as phases: [cross]")
        if self.phases is not None and (not self.phases or len(set(self.phases)) < len(self.phases)):
            raise ValueError(f"'phases' must name at least one phase and none twice, but it is {list(self.phases)}")
        if self.optimizer is not None and self.starts_from is None:
            raise ValueError("'optimizer' belongs to members with 'from': from scratch it is always fresh")
        if self.optimizer == "carried" and self.folder is not None:
            raise ValueError("'optimizer: carried' needs a checkpoint; a Hugging Face folder has no optimiser state")
        named = "@" in str(self.starts_from) and self.source is not None
        if named and not CHECKPOINT_NAME.match(self.checkpoint or ""):
            raise ValueError(
                f"'from' names a checkpoint as member@step1200 (or ext, decay, cross), but it is '{self.starts_from}'"
            )
        return self


def check_members(members: Mapping[str, MemberSpec], phases: Iterable[str]) -> None:
    """Check that every phase and member that a member names is there, and that no start leads back to itself.

    Raises:
        ValueError: One is not there, or members start from each other in a circle.
    """
    known = list(phases)
    for name, spec in members.items():
        for phase in spec.phases or ():
            if phase not in known:
                raise ValueError(
                    f"members.{name}.phases: there is no phase '{phase}'{nearest(phase, known)}; "
                    f"there are {', '.join(known)}"
                )
        if spec.source is not None and spec.source not in members:
            raise ValueError(
                f"members.{name}.from: there is no member '{spec.source}'{nearest(spec.source, members)}; "
                f"there are {', '.join(members)}, and a folder is written with a '/'"
            )
    for name in members:
        chain = [name]
        while (before := members[chain[-1]].source) is not None:
            chain.append(before)
            if chain.count(before) > 1:
                raise ValueError(f"members start from each other in a circle: {' -> '.join(chain)}")
