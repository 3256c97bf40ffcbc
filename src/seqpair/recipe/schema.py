"""The recipe: what a user writes, as validated values.

`data_spec` and `cleaning_spec` have the values of its section `data`, `member_spec` those of `members`. What the class
docstrings say about each key is also the reference of keys (`keys.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    model_validator,
)

from seqpair.recipe.data_spec import DataSpec
from seqpair.recipe.member_spec import MemberSpec, check_members
from seqpair.recipe.plan import OptimizerPlan, RuntimePlan
from seqpair.recipe.schedule import LrCurve, MaskFrac
from seqpair.recipe.sizes import SIZES, Count, Shape
from seqpair.text import nearest

PositiveCount = Annotated[Count, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=100)]
TAKEN_NAMES = frozenset({"report", "sweeps", "order"})
"""Folders that lie beside those of members, in a study or in its release."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSpec(_Section):
    """What the shape does not say about the model.

    Attributes:
        window_tokens: Tokens that a local layer sees on each visible side, besides the token itself.
        global_every: Layer i is global when i is a multiple of this; layers - 1 must be a multiple, too.
        norm_eps: Epsilon of the layer norms.
        attn_out_dropout: Dropout rate after the attention output.
        init: Initialisation scheme.
        init_std: Standard deviation of the initialisation.
    """

    window_tokens: PositiveCount = 64
    global_every: int = Field(default=3, ge=1)
    norm_eps: float = Field(default=1e-5, gt=0)
    attn_out_dropout: float = Field(default=0.1, ge=0, lt=1)
    init: Literal["full_megatron"] = "full_megatron"
    init_std: float = Field(default=0.02, gt=0)


class MixSpec(_Section):
    """One source's part in a phase: a share of the content tokens, or epochs of the source.

    Attributes:
        share: Share of the phase's content tokens. Shares sum to 1 (within 0.005), or to less if a source has epochs.
        epochs: Weight in epochs: these sources divide what the shares leave in proportion to epochs times size.
    """

    share: float | None = Field(default=None, gt=0, le=1)
    epochs: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _exactly_one(self) -> MixSpec:
        if (self.share is None) == (self.epochs is None):
            raise ValueError("exactly one of 'share' and 'epochs' is expected")
        return self


class RampSpec(_Section):
    """A batch ramp: the batch grows to the phase's batch in at most 63 sizes with equally many steps each.

    Attributes:
        from_sequences: Sequences of the first steps' batch; give this or `from_tokens`.
        from_tokens: Content tokens of the first steps' batch.
        over_tokens: Content tokens that are read while the batch grows.
    """

    from_sequences: PositiveCount | None = None
    from_tokens: PositiveCount | None = None
    over_tokens: PositiveCount

    @model_validator(mode="after")
    def _exactly_one(self) -> RampSpec:
        if (self.from_sequences is None) == (self.from_tokens is None):
            raise ValueError("exactly one of 'from_sequences' and 'from_tokens' is expected")
        return self


class BatchSpec(_Section):
    """The batch of one optimiser step over all ranks, in sequences or in content tokens.

    Attributes:
        sequences: Sequences per step; give this or `tokens`.
        tokens: Content tokens per step, converted to sequences by the mixture's mean length.
        ramp: Start with smaller batches.
    """

    sequences: PositiveCount | None = None
    tokens: PositiveCount | None = None
    ramp: RampSpec | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> BatchSpec:
        if (self.sequences is None) == (self.tokens is None):
            raise ValueError("exactly one of 'sequences' and 'tokens' is expected")
        return self


class PhaseSpec(_Section):
    """One phase; it continues from the weights, moments and step count of the phase before it.

    Attributes:
        name: Name of the phase; it is part of the key of the data order.
        tag: Prefix of the checkpoint names. A member's phases have different tags. Members run phases with tag
            `cross` only if they name them.
        seq_len: Tokens of a full sequence, special tokens included.
        budget_tokens: Content tokens to train on, rounded to whole steps.
        mixture: What is read of each source; null if the recipe has one source.
        rope_global_theta: RoPE base of the global layers.
        rope_local_theta: RoPE base of the local layers.
        mask_frac: Share of tokens chosen for prediction, a number or a curve over the phase. Objectives that predict
            every token ignore it.
        batch: Size of one optimiser step over all ranks.
        lr: Learning rate over the phase, in fractions of `optimizer.lr`.
    """

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
    """Which checkpoints stay. A phase's last checkpoint and those that other members start from always stay.

    Attributes:
        last: Number of newest checkpoints to keep; null keeps all.
        every_tokens: Also keep the first checkpoint at or after each multiple of this many tokens; needs `last`.
    """

    last: PositiveCount | None = None
    every_tokens: PositiveCount | None = None

    @model_validator(mode="after")
    def _every_needs_last(self) -> KeepSpec:
        if self.every_tokens is not None and self.last is None:
            raise ValueError("'every_tokens' names exceptions from 'last', which is missing; without it all stay")
        return self


class CheckpointSpec(_Section):
    """How often a checkpoint is made, and which ones stay.

    Attributes:
        every_tokens: Content tokens between checkpoints, counted from each phase's start. A phase's end makes one, too.
        early: Also save after 1, 2, 4, ... steps of the first phase, until the first regular checkpoint.
        keep: Which checkpoints stay on disk.
    """

    every_tokens: PositiveCount
    early: bool = False
    keep: KeepSpec = KeepSpec()


class HeldOutSpec(_Section):
    """The held-out loss during training.

    Attributes:
        every_tokens: Content tokens between measurements, counted from each phase's start.
        sequences: Held-out sequences per source, the same at every measurement.
        mask_frac: Mask rate of the measurement.
    """

    every_tokens: PositiveCount
    sequences: PositiveCount = 64
    mask_frac: float = Field(default=0.3, gt=0, lt=1)


class EvaluationSpec(_Section):
    """What `seqpair run` evaluates besides the tasks on the study's own text; no part of any plan.

    Attributes:
        suites: Suites to evaluate, such as `zorro` or `probes`.
        tasks: YAML file that declares tasks of your own, relative to the recipe.
        data: Folder of the suites' data files, relative to the recipe.
        limit: Maximum number of items per task; null takes all.
    """

    suites: tuple[str, ...] = ()
    tasks: str | None = None
    data: str = "data/eval"
    limit: PositiveCount | None = None


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


def _check_names(section: str, names: Sequence[str], taken: Iterable[str] = ()) -> None:
    # Most of them name folders, and macOS takes `A` and `a` for one.
    found = dict.fromkeys(taken, "is a folder of its own in every study")
    for name in names:
        if name.casefold() in found:
            raise ValueError(f"{section}: the name '{name}' {found[name.casefold()]}")
        found[name.casefold()] = f"stands twice, first as '{name}'"


class Recipe(_Section):
    """A whole recipe.

    Attributes:
        name: Name of the study. Its runs are in `<runs>/<name>`.
        size: Label of a model size (test, 1m, 4m, 17m, 32m, 68m, 150m, 400m or 1b), or a shape.
        seed: Seed of the data order, the corruption and the initialisation.
        budget: Content tokens of all phases except those with tag `cross`. It scales all phases with their warm-ups,
            decays, ramps and cadences; null leaves the phases as they are written.
        data: Sources, cleaning, tokenizer and stores.
        model: What the size does not say about the model.
        optimizer: Optimiser of all phases.
        phases: Phases of training, in order.
        checkpoints: When checkpoints are made and which ones stay.
        held_out: The held-out loss during training.
        members: The models to train, by name.
        runtime: How training runs. It changes nothing beyond float error and is not part of a plan's digest.
        evaluation: What `seqpair run` evaluates besides the tasks on the study's own text. It is not part of the plan.
        runs: Folder of the runs, relative to the current folder.
    """

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
        """Return where the value of each leaf came from: `preset X`, `file X:line`, `--set` or `default`."""
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
        _check_names("phases", [phase.name for phase in self.phases])
        _check_names("data.sources", [source.name for source in self.data.sources])
        _check_names("members", list(self.members), taken=TAKEN_NAMES)
        check_members(self.members, [phase.name for phase in self.phases])
        for name, spec in self.members.items():
            for part in spec.train_layers or ():
                if isinstance(part, int) and part >= layers:
                    raise ValueError(f"members.{name}.train_layers: there is no layer {part}; the last is {layers - 1}")
        return self
