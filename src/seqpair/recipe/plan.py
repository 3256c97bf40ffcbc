"""The plan: a recipe resolved for one member, with nothing left to guess.

A plan is written as JSON into the run and read back with `Plan.model_validate_json`. The data layer gives the counts
of the stores (`StoreStats`); without them a plan is an estimate.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from seqpair.recipe.data_spec import SourceSpec, TokenizerSpec
from seqpair.recipe.objectives import OBJECTIVES, Objective
from seqpair.recipe.schedule import LrCurve, MaskCurve, MaskFrac, lr_fraction
from seqpair.recipe.sizes import Count, Shape

MUON_MOMENTUM = 0.95
"""Of the nesterov momentum; source: Jordan et al., kellerjordan.github.io/posts/muon, and `torch.optim.Muon`."""

LoggerName = Literal["tensorboard", "trackio", "wandb"]
ModelPart = Annotated[int, Field(ge=0)] | Literal["embedding", "head"]
"""A layer by its number, the token table with its norm, or all that comes after the layers."""
LOGGER_NAMES: tuple[str, ...] = get_args(LoggerName)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelPlan(_Frozen):
    """The model, the same for every member.

    Attributes:
        shape: Layers and widths.
        vocab_size: Rows of the token table V, padded.
        window_tokens: Keys a local layer sees on each visible side, the token itself not counted.
        global_every: Layer i is global when i is a multiple of this.
        norm_eps: Epsilon of the layer norms.
        attn_out_dropout: Dropout after the attention output.
        init: The initialisation scheme (`full_megatron`).
        init_std: Its standard deviation.
    """

    shape: Shape
    vocab_size: int
    window_tokens: int = 64
    global_every: int = 3
    norm_eps: float = 1e-5
    attn_out_dropout: float = 0.1
    init: Literal["full_megatron"] = "full_megatron"
    init_std: float = 0.02


class OptimizerPlan(_Frozen):
    """The optimiser; `lr` is the peak rate that phases scale and that weight decay is relative to.

    Attributes:
        name: StableAdamW, or Muon for the layers' matrices and StableAdamW for everything else.
        lr: Peak learning rate, of which phases take fractions.
        beta1, beta2: Decay rates of StableAdamW's two moments.
        eps: StableAdamW's epsilon.
        weight_decay: Weight decay of a step at the peak learning rate; it scales with the rate. Norms and biases are
            not decayed.
        clip_norm: Clip the gradients to this norm; null does not clip.
        momentum: Muon's momentum, 0.95 unless given. StableAdamW takes none.
    """

    name: Literal["stableadamw", "muon"] = "stableadamw"
    lr: float = Field(gt=0, le=1000)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.98, ge=0, lt=1)
    eps: float = Field(default=1e-6, gt=0)
    weight_decay: float = Field(ge=0, le=1000)
    clip_norm: float | None = Field(default=None, gt=0)
    momentum: float | None = Field(default=None, ge=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _momentum_of_muon(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("name") == "muon" and given.get("momentum") is None:
            return {**given, "momentum": MUON_MOMENTUM}
        return given

    @model_validator(mode="after")
    def _momentum_is_used(self) -> OptimizerPlan:
        if self.name != "muon" and self.momentum is not None:
            raise ValueError(f"'momentum' belongs to muon, and {self.name} would not use it; beta1 is its own")
        return self


class MixtureShare(_Frozen):
    """One source's part in a phase: a share of the content tokens, or epochs; exactly one is set."""

    source: str
    share: float | None = None
    epochs: float | None = None


class BatchStage(_Frozen):
    """A run of steps with one batch: from `first_step` on, `sequences` a step, starting at `first_position`."""

    first_step: int
    first_position: int
    sequences: int


class ObjectiveSpan(_Frozen):
    """An objective from `first_step` of the phase on.

    Attributes:
        first_step: The first step of the phase that trains it.
        objective: Its name in the objectives table.
        causal_frac: For `hybrid`, the share of each step's sequences that is causal; else null.
    """

    first_step: int
    objective: str
    causal_frac: float | None = None

    @field_validator("objective")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in OBJECTIVES:
            raise ValueError(f"'{name}' is not an objective of this version: {', '.join(OBJECTIVES)}")
        return name


class PhasePlan(_Frozen):
    """One phase, every count explicit.

    Attributes:
        name: Its name, part of the order's key.
        tag: The checkpoint tag: `step`, `ext`, `decay` or `cross`.
        seq_len: Tokens of a full sequence, specials included.
        budget_tokens: Content tokens asked for.
        mean_tokens: Content tokens of the mixture's mean sequence.
        steps: Optimiser steps.
        positions: Training positions, that is sequences, over all steps.
        batch_stages: The batch ramp, at most 64 stages.
        rope_global_theta, rope_local_theta: RoPE bases.
        mask_frac: Share of content tokens chosen for prediction, a number or a curve; null if no objective takes it.
        mixture: The sources' parts.
        lr: The learning-rate curve.
        objectives: The objective of each span of steps.
        checkpoint_steps: After how many steps of the phase a checkpoint is made, ascending.
        held_out_steps: After how many steps of the phase the held-out loss is measured, ascending.
    """

    name: str
    tag: str
    seq_len: int
    budget_tokens: int
    mean_tokens: float
    steps: int
    positions: int
    batch_stages: tuple[BatchStage, ...]
    rope_global_theta: float
    rope_local_theta: float
    mask_frac: MaskFrac | None
    mixture: tuple[MixtureShare, ...]
    lr: LrCurve
    objectives: tuple[ObjectiveSpan, ...]
    checkpoint_steps: tuple[int, ...]
    held_out_steps: tuple[int, ...]

    def positions_of(self, step: int) -> range:
        """Return the training positions of a step (0-based within the phase)."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} is outside the phase's {self.steps} steps")
        stage = max((s for s in self.batch_stages if s.first_step <= step), key=lambda s: s.first_step)
        start = stage.first_position + (step - stage.first_step) * stage.sequences
        return range(start, start + stage.sequences)

    def step_of(self, position: int) -> int:
        """Return the step that holds a training position."""
        if not 0 <= position < self.positions:
            raise IndexError(f"position {position} is outside the phase's {self.positions} positions")
        stage = max((s for s in self.batch_stages if s.first_position <= position), key=lambda s: s.first_step)
        return stage.first_step + (position - stage.first_position) // stage.sequences

    def planned_tokens(self, steps_done: int) -> float:
        """Return the content tokens planned for the first `steps_done` steps."""
        if steps_done == 0:
            return 0.0
        return self.positions_of(steps_done - 1).stop * self.mean_tokens

    def lr_frac(self, step: int) -> float:
        """Return a step's learning rate as a fraction of the peak, taken at the step's end."""
        return lr_fraction(self.lr, self.planned_tokens(step + 1), self.positions * self.mean_tokens)

    def mask_frac_of(self, step: int) -> float | None:
        """Return a step's mask rate: that of its first sequence, so the phase's first step has the curve's first."""
        if not isinstance(self.mask_frac, MaskCurve):
            return self.mask_frac
        return self.mask_frac.at(self.positions_of(step).start / self.positions)

    @property
    def highest_mask_frac(self) -> float | None:
        """Return the highest mask rate of any step."""
        return self.mask_frac.highest if isinstance(self.mask_frac, MaskCurve) else self.mask_frac

    @property
    def mean_mask_frac(self) -> float | None:
        """Return the mean mask rate over the phase."""
        return self.mask_frac.mean if isinstance(self.mask_frac, MaskCurve) else self.mask_frac

    def objective_of(self, step: int) -> Objective:
        """Return the objective that a step trains."""
        return OBJECTIVES[self.span_of(step).objective]

    def span_of(self, step: int) -> ObjectiveSpan:
        """Return the span of objectives that a step lies in."""
        return max((span for span in self.objectives if span.first_step <= step), key=lambda span: span.first_step)


class KeepRule(_Frozen):
    """Which checkpoints stay: the newest `last`, the first at or after each multiple of `every_tokens`, phase ends.

    Without `last` all of them stay. `names` are those that other members start from: they stay in any case.
    """

    last: int | None = None
    every_tokens: int | None = None
    names: tuple[str, ...] = ()


class HeldOutPlan(_Frozen):
    """The held-out loss during training: how many fixed sequences of each source, and their mask rate."""

    sequences: int
    mask_frac: float


class RuntimePlan(_Frozen):
    """How the plan is run; none of it changes what is learned, beyond float error, which is largest in `float8`.

    Attributes:
        device: Device to train on; `auto` takes CUDA if there is a device. `mps` is untested.
        kernel: Attention kernel: `auto`, `reference`, `blocked`, `varlen`, `flash` or `flex`; `auto` suits the device.
        precision: Number format; `bf16` is autocast over fp32 weights.
        residual: Number format of the states between layers where `precision` is bf16.
        microbatch_tokens: Tokens that one rank processes at once, special tokens included.
        threads: CPU threads; null leaves torch's default.
        deterministic: Ask torch for deterministic algorithms.
        compile: Compile the model with torch; `auto` does so on CUDA with triton. Microbatches are then padded to one
            shape.
        prefetch_batches: Steps that are prepared ahead on a thread; null is 2 on CUDA and 0 elsewhere.
        float8: Multiply the layers' matrices in float8, with one scale per tensor or per row. Microbatches are then
            padded to one shape.
        loss: On a GPU, compute the loss from its logits in operations of torch or in two Triton kernels.
        loggers: Where metrics go besides `metrics.jsonl`.
        sharding: What each of several ranks keeps of parameters and states: all (`none`), its part (`full`), or its
            part among the ranks of one machine (`hybrid`).
        checkpoint_layers: Layers that keep only their inputs and run again in the backward pass, to save memory: none,
            all, or this number of the first ones.
        timeout_seconds: Seconds that a rank waits for the others before they count as lost; five times as long in the
            first step and while a rank saves or measures.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    kernel: str = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    residual: Literal["fp32", "bf16"] = "fp32"
    microbatch_tokens: Count = Field(default=8192, gt=0)
    threads: int | None = Field(default=None, ge=1)
    deterministic: bool = False
    compile: Literal["auto", "on", "off"] = "auto"
    prefetch_batches: int | None = Field(default=None, ge=0)
    float8: Literal["off", "tensorwise", "rowwise"] = "off"
    loss: Literal["torch", "triton"] = "torch"
    loggers: tuple[LoggerName, ...] = ()
    sharding: Literal["none", "full", "hybrid"] = "none"
    checkpoint_layers: Literal["none", "all"] | Annotated[int, Field(ge=1)] = "none"
    timeout_seconds: float = Field(default=600.0, gt=0, allow_inf_nan=False)

    @field_validator("loggers")
    @classmethod
    def _each_once(cls, names: tuple[LoggerName, ...]) -> tuple[LoggerName, ...]:
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"'{twice[0]}' stands twice")
        return names

    @model_validator(mode="after")
    def _residual_follows_precision(self) -> RuntimePlan:
        if self.residual == "bf16" and self.precision == "fp32":
            raise ValueError("residual: bf16 needs precision: bf16")
        return self

    @property
    def numbers(self) -> str:
        """Return the numbers that training computes with: `fp32`, `bf16`, `bf16 with float8 products (rowwise)`."""
        more = [] if self.residual == "fp32" else ["bf16 between layers"]
        more += [] if self.float8 == "off" else [f"float8 products ({self.float8})"]
        return " with ".join([self.precision, " and ".join(more)]) if more else self.precision


class DerivedPlan(_Frozen):
    """What follows from the last objective; shown so that `diff` can hold it against the table.

    `also_exports` names a second objective that the member is exported for too (`hybrid`: `clm`).
    """

    direction: str
    predicts: str
    ends_every_piece: bool
    hub_class: str
    template: str
    padding_side: str
    also_exports: str | None = None


class Start(_Frozen):
    """Where a member's weights come from, if not from the initialisation.

    Attributes:
        kind: `member` (a checkpoint of this study) or `folder` (any other model).
        member: The member started from; null for another model.
        checkpoint: The checkpoint's name, such as `ext12`; null for the member's last one.
        path: Where the other model is, or its name on the hub; null for a member.
        optimizer: `fresh`, or `carried` on from the checkpoint: moments and their step counts.
        plan_digest: The digest of that member's plan, so that a plan says what it rests on; empty for another model.
        window_tokens: The window that the recipe says the other model was trained with; null is what its class has.
        draws_head: Whether the other model has no language-model head, so that one is drawn by the plan's seed.
        train_layers: The parts that are trained, numbers of layers, `embedding` or `head`; all others stay as they are.
            Null trains all.
    """

    kind: Literal["member", "folder"]
    member: str | None = None
    checkpoint: str | None = None
    path: str | None = None
    optimizer: Literal["fresh", "carried"] = "fresh"
    plan_digest: str = ""
    window_tokens: int | None = None
    draws_head: bool = False
    train_layers: tuple[ModelPart, ...] | None = None

    @property
    def place(self) -> str:
        """Return the place in words: `decoder@ext12`, `decoder`'s last checkpoint, or the other model."""
        if self.kind == "folder":
            window = "" if self.window_tokens is None else f", trained with a window of {self.window_tokens} tokens"
            return f"{self.path}{window}{', its head drawn by the seed' if self.draws_head else ''}"
        return f"{self.member}@{self.checkpoint}" if self.checkpoint else f"{self.member}'s last checkpoint"


class StoreRef(_Frozen):
    """The training store a source's name stands for in this plan; digest empty while estimated."""

    source: str
    digest: str
    documents: int
    tokens: int


class StoreStats(_Frozen):
    """Counts of one source's training store.

    Attributes:
        source: The source's name in the recipe.
        digest: The store's content digest.
        documents: Documents.
        tokens: Content tokens (without added specials).
        text_bytes: UTF-8 bytes of the text behind the tokens.
        sequences: For each sequence length in use, how many sequences the documents give.
    """

    source: str
    digest: str
    documents: int
    tokens: int
    text_bytes: int
    sequences: dict[int, int]

    def mean_tokens(self, seq_len: int) -> float:
        """Return the mean content tokens of a sequence at this sequence length."""
        return self.tokens / self.sequences[seq_len]


class Plan(_Frozen):
    """A recipe resolved for one member.

    Attributes:
        study: The recipe's name.
        member: The member's name.
        size: The size label.
        seed: The one seed: order, corruption and initialisation are keyed by it and a purpose.
        start: What this member starts from, or null for scratch.
        model, optimizer, phases, held_out, keep, runtime: The parts.
        sources, tokenizer, stores: The data.
        derived: What follows from the objective.
        estimated: Whether any count rests on `expected_mean_tokens` rather than on a store.
        runs: The folder of runs; this member's is `<runs>/<study>/<member>`.
        store_folder: The folder of stores.
        origins: For every leaf of the recipe, where its value came from: a preset, a file or `--set`.
    """

    study: str
    member: str
    size: str
    seed: int
    start: Start | None
    model: ModelPlan
    optimizer: OptimizerPlan
    phases: tuple[PhasePlan, ...]
    held_out: HeldOutPlan
    keep: KeepRule
    runtime: RuntimePlan
    sources: tuple[SourceSpec, ...]
    tokenizer: TokenizerSpec
    stores: tuple[StoreRef, ...]
    derived: DerivedPlan
    estimated: bool
    runs: str
    store_folder: str
    origins: dict[str, str]

    def phase(self, name: str) -> PhasePlan:
        """Return the phase of this name."""
        return next(phase for phase in self.phases if phase.name == name)


def derived_plan(objective: Objective) -> DerivedPlan:
    """Return what the objectives table says follows from an objective."""
    return DerivedPlan(**objective.model_dump(include=set(DerivedPlan.model_fields)))
