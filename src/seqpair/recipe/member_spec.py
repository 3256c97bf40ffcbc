"""What a recipe says about its members: the objective of each, and what it starts from."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    Tag,
    WithJsonSchema,
    model_validator,
)

from seqpair.recipe.objectives import OBJECTIVES
from seqpair.recipe.plan import ModelPart
from seqpair.recipe.schedule import MaskFrac
from seqpair.text import nearest

CHECKPOINT_NAME = re.compile(r"^(step|ext|decay|cross)([1-9][0-9]*)$")
"""A checkpoint's name: a phase's tag and the steps done in it."""

_FORMS = (
    "clm, mlm, mntp, diffusion or prefix; a list such as [{clm: 0.25}, {mlm: 0.75}]; or {hybrid: {causal_frac: 0.0625}}"
)
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


class ModelStart(BaseModel):
    """A model from outside the study, as a member's `from`.

    Attributes:
        model: A run, a checkpoint, an export, a Hugging Face folder, or a name on the hub with `@revision`.
        window_tokens: Window that the model was trained with, if its Hugging Face class computes another one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1)
    window_tokens: int | None = Field(default=None, ge=1)


def is_model(start: str) -> bool:
    """Return whether a member's `from`, written as a text, is a model's place rather than a member's name."""
    return "/" in start or start.startswith((".", "~"))


def _start_kind(value: object) -> str:
    return "[name]" if isinstance(value, str) else "[model]"


WrittenStart = Annotated[
    Annotated[str, Field(min_length=1), Tag("[name]")] | Annotated[ModelStart, Tag("[model]")],
    Discriminator(_start_kind),
]


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


WrittenObjective = Annotated[
    tuple[ObjectivePart, ...] | None,
    BeforeValidator(_parts),
    PlainSerializer(_written),
    WithJsonSchema(
        {"anyOf": [{"enum": [name for name in OBJECTIVES if name != "hybrid"]}, {"type": "array"}, {"type": "object"}]}
    ),
]
PhaseName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class MemberSpec(BaseModel):
    """One member of a recipe.

    Attributes:
        objective: What it trains: a name, a schedule such as `[{clm: 0.25}, {mlm: 0.75}]`, or
            `{hybrid: {causal_frac: 0.0625}}`. Null continues with the checkpoint's objective, if `from` names a member.
        from: What it starts from (in Python `starts_from`): a member, one of its checkpoints (`decoder@ext12`) or any
            other model; null starts from scratch.
        phases: Phases that it runs, in this order; null runs all without tag `cross`. Required if `from` names a
            member; an empty list then leaves the checkpoint untrained.
        mask_frac: Mask rate in all its phases, a number or a curve; null takes that of each phase.
        optimizer: Whether the optimiser state starts `fresh` or is `carried` over from the checkpoint; null carries it
            if the objective stays the same.
        train_layers: Parts to train: layer numbers, `embedding`, `head`; null trains all. Needs `from` and a fresh
            optimiser.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    objective: WrittenObjective = None
    starts_from: WrittenStart | None = Field(default=None, alias="from")
    phases: tuple[PhaseName, ...] | None = None
    mask_frac: MaskFrac | None = None
    optimizer: Literal["fresh", "carried"] | None = None
    train_layers: Annotated[tuple[ModelPart, ...], Field(min_length=1)] | None = None

    @property
    def outside(self) -> ModelStart | None:
        """Return the model from outside the study that it starts from, if it starts from one."""
        if isinstance(self.starts_from, str):
            return ModelStart(model=self.starts_from) if is_model(self.starts_from) else None
        return self.starts_from

    @property
    def source(self) -> str | None:
        """Return the member it starts from, if it starts from one."""
        return None if self.starts_from is None or self.outside else str(self.starts_from).partition("@")[0]

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
        if self.phases is not None and len(set(self.phases)) < len(self.phases):
            raise ValueError(f"'phases' must name no phase twice, but it is {list(self.phases)}")
        if self.phases == () and (self.source is None or len(self.objective or ()) > 1):
            raise ValueError("'phases' is empty: that needs a start from another member, and one objective")
        return self

    @model_validator(mode="after")
    def _starts_as_it_can(self) -> MemberSpec:
        if self.optimizer is not None and self.starts_from is None:
            raise ValueError("'optimizer' belongs to members with 'from': from scratch it is always fresh")
        if self.optimizer == "carried" and self.outside is not None:
            raise ValueError("'optimizer: carried' needs a member's checkpoint; other models have no optimiser state")
        if self.train_layers is not None and (self.starts_from is None or self.optimizer == "carried"):
            raise ValueError("'train_layers' belongs to members with 'from' whose optimizer is fresh")
        if len(set(self.train_layers or ())) < len(self.train_layers or ()):
            raise ValueError(f"'train_layers' must name none twice, but it is {self.train_layers}")
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
                f"there are {', '.join(members)}; another model is written with a '/', or as {{model: NAME}}"
            )
    for name in members:
        chain = [name]
        while (before := members[chain[-1]].source) is not None:
            chain.append(before)
            if chain.count(before) > 1:
                raise ValueError(f"members start from each other in a circle: {' -> '.join(chain)}")
