"""The recipe: what a user writes, as validated values."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, PrivateAttr, Tag, model_validator

from seqpair.recipe.counts import Count
from seqpair.recipe.data_spec import DataSpec
from seqpair.recipe.member_spec import MemberSpec, check_members
from seqpair.recipe.merge import nearest
from seqpair.recipe.plan import OptimizerPlan, RuntimePlan
from seqpair.recipe.schedule import LrCurve
from seqpair.recipe.sizes import SIZES, Shape

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
    rope_global_theta: float = Field(default=10_000.0, gt=1)
    rope_local_theta: float = Field(default=10_000.0, gt=1)
    mask_frac: float = Field(default=0.3, gt=0, lt=1)
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
        return self
