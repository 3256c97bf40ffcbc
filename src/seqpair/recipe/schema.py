"""The recipe: what a user writes, as validated values.

`data_spec` and `cleaning_spec` have the values of its section `data`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainSerializer,
    PrivateAttr,
    Tag,
    model_validator,
)

from seqpair.recipe.data_spec import DataSpec
from seqpair.recipe.objectives import OBJECTIVES
from seqpair.recipe.plan import ModelPart, OptimizerPlan, RuntimePlan
from seqpair.recipe.schedule import LrCurve, MaskFrac
from seqpair.recipe.sizes import SIZES, Count, Shape
from seqpair.text import nearest

PositiveCount = Annotated[Count, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSpec(_Section):
    """The model section: what the shape does not say; the meanings are those of `ModelPlan`."""

    window_tokens: PositiveCount = 64
    global_every: int = Field(default=3, ge=1)
    norm_eps: float = Field(default=1e-5, gt=0)
    attn_out_dropout: float = Field(default=0.1, ge=0, lt=1)
    init: Literal["full_megatron"] = "full_megatron"
    init_std: float = Field(default=0.02, gt=0)


class MixSpec(_Section):
    """One source's part in a phase: a share of the content tokens, or epochs of the source."""

    share: float | None = Field(default=None, gt=0, le=1)
    epochs: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _exactly_one(self) -> MixSpec:
        if (self.share is None) == (self.epochs is None):
            raise ValueError("exactly one of 'share' and 'epochs' is expected")
        return self


class RampSpec(_Section):
    """A batch ramp: from this batch to the phase's batch while `over_tokens` content tokens are read."""

    from_sequences: PositiveCount | None = None
    from_tokens: PositiveCount | None = None
    over_tokens: PositiveCount

    @model_validator(mode="after")
    def _exactly_one(self) -> RampSpec:
        if (self.from_sequences is None) == (self.from_tokens is None):
            raise ValueError("exactly one of 'from_sequences' and 'from_tokens' is expected")
        return self


class BatchSpec(_Section):
    """The batch of one optimiser step over all ranks, in sequences or in content tokens."""

    sequences: PositiveCount | None = None
    tokens: PositiveCount | None = None
    ramp: RampSpec | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> BatchSpec:
        if (self.sequences is None) == (self.tokens is None):
            raise ValueError("exactly one of 'sequences' and 'tokens' is expected")
        return self


class PhaseSpec(_Section):
    """One phase; `mixture` may be left out when the recipe has one source."""

    name: Name
    tag: Literal["step", "ext", "decay", "cross"] = "step"
    seq_len: Annotated[Count, Field(ge=8)]
    budget_tokens: PositiveCount
    mixture: dict[str, MixSpec] | None = None
    rope_global_theta: float = Field(default=10_000.0, gt=1, le=1e12)
    rope_local_theta: float = Field(default=10_000.0, gt=1, le=1e12)
    mask_frac: MaskFrac = 0.3
    batch: BatchSpec
    lr: LrCurve


class KeepSpec(_Section):
    """Which checkpoints stay; without `last`, all of them. A phase's last one always stays."""

    last: PositiveCount | None = None
    every_tokens: PositiveCount | None = None

    @model_validator(mode="after")
    def _every_needs_last(self) -> KeepSpec:
        if self.every_tokens is not None and self.last is None:
            raise ValueError("'every_tokens' names exceptions from 'last', which is missing; without it all stay")
        return self


class CheckpointSpec(_Section):
    """How often a checkpoint is made, counted from each phase's start, and which ones stay.

    `early` adds those after 1, 2, 4, ... steps of the first phase, until the cadence takes over.
    """

    every_tokens: PositiveCount
    early: bool = False
    keep: KeepSpec = KeepSpec()


class HeldOutSpec(_Section):
    """The held-out loss during training: cadence, fixed sequences of each source, their mask rate."""

    every_tokens: PositiveCount
    sequences: PositiveCount = 64
    mask_frac: float = Field(default=0.3, gt=0, lt=1)


CHECKPOINT_NAME = re.compile(r"^(step|ext|decay|cross)([1-9][0-9]*)$")
"""A checkpoint's name: a phase's tag and the steps done in it."""

_FORMS = (
    "clm, mlm, mntp, diffusion or prefix; a list such as [{clm: 0.25}, {mlm: 0.75}]; or {hybrid: {causal_frac: 0.0625}}"
)
_FRACTIONS_TOLERANCE = 1e-6


class EvaluationSpec(_Section):
    """What `seqpair run` evaluates besides the tasks on the study's own text; no part of any plan.

    Attributes:
        suites: Names of suites.
        tasks: A file that declares tasks of one's own, relative to the recipe.
        data: The folder with the suites' data files, relative to the recipe.
        limit: Most items per task; null takes all.
    """

    suites: tuple[str, ...] = ()
    tasks: str | None = None
    data: str = "data/eval"
    limit: PositiveCount | None = None


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
        window_tokens: The window that it was trained with, where its Hugging Face class computes another one.
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


WrittenObjective = Annotated[tuple[ObjectivePart, ...] | None, BeforeValidator(_parts), PlainSerializer(_written)]
PhaseName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class MemberSpec(BaseModel):
    """One member of a recipe.

    Attributes:
        objective: Its parts in order; null (only where `from` names a member) goes on with the objective
            that the checkpoint was trained with.
        starts_from: Written `from`: a member (`decoder`), one of its checkpoints (`decoder@ext12`), or any other
            model; null is from scratch.
        phases: The phases it runs, in this order; null is all but those with tag `cross`. Of a member that starts from
            another one they may be none: it is that member's checkpoint, read by this one's objective.
        mask_frac: Its mask rate in all its phases, a number or a curve; null takes each phase's.
        optimizer: `fresh` or `carried` over from the checkpoint; null carries it where the objective stays.
        train_layers: Numbers of the layers that are trained, `embedding` and `head`; only with `from`. Null trains all.
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


def _size_kind(value: object) -> str:
    return "label" if isinstance(value, str) else "shape"


def _known_label(label: str) -> str:
    if label not in SIZES:
        raise ValueError(f"not a size{nearest(label, SIZES)}; there are {', '.join(SIZES)}, or a shape as a mapping")
    return label


Size = Annotated[
    Annotated[str, AfterValidator(_known_label), Tag("label")] | Annotated[Shape, Tag("shape")],
    Discriminator(_size_kind),
]


class Recipe(_Section):
    """A whole recipe; `origins` says for every leaf where its value came from."""

    name: Name
    size: Size
    seed: int = Field(default=21, ge=0, lt=1 << 32)
    budget: PositiveCount | None = None
    data: DataSpec
    model: ModelSpec = ModelSpec()
    optimizer: OptimizerPlan
    phases: tuple[PhaseSpec, ...]
    checkpoints: CheckpointSpec
    held_out: HeldOutSpec
    members: dict[Name, MemberSpec]
    runtime: RuntimePlan = RuntimePlan()
    evaluation: EvaluationSpec = EvaluationSpec()
    runs: str = "runs"
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _folder: Path = PrivateAttr(default_factory=Path)

    @property
    def origins(self) -> dict[str, str]:
        """Return where each leaf's value came from: `preset X`, `file X:line`, `--set` or `default`."""
        return self._origins

    @property
    def folder(self) -> Path:
        """Return the folder of the recipe file; the current folder for a preset."""
        return self._folder

    @property
    def shape(self) -> Shape:
        """Return the model's shape."""
        return SIZES[self.size] if isinstance(self.size, str) else self.size

    @property
    def size_label(self) -> str:
        """Return the size's label; `custom` for a shape written out."""
        return self.size if isinstance(self.size, str) else "custom"

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        for section, count in (("phases", len(self.phases)), ("members", len(self.members))):
            if count == 0:
                raise ValueError(f"{section}: at least one is needed")
        layers, every = self.shape.layers, self.model.global_every
        if (layers - 1) % every:
            raise ValueError(
                f"size: layers - 1 must be a multiple of {every} (model.global_every), but layers is {layers}"
            )
        for section, names in (
            ("phases", [phase.name for phase in self.phases]),
            ("data.sources", [source.name for source in self.data.sources]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"{section}: the name '{twice[0]}' stands twice")
        check_members(self.members, [phase.name for phase in self.phases])
        for name, spec in self.members.items():
            for part in spec.train_layers or ():
                if isinstance(part, int) and part >= layers:
                    raise ValueError(f"members.{name}.train_layers: there is no layer {part}; the last is {layers - 1}")
        return self
