"""What a plan costs: floating-point operations, memory, disk, as pure functions."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from seqpair.recipe.objectives import OBJECTIVES, Objective
from seqpair.recipe.plan import ModelPlan, PhasePlan, Plan
from seqpair.recipe.sizes import parameter_count

SPECIALS_PER_SEQUENCE = 2
"""[CLS] and [SEP]; one too many for a causal piece that does not end its document."""

FLOPS_FORMULA = "6 x (L (4 D^2 + 3 D F) + p (D^2 + V D)) + 12 x D x keys summed over layers"
MEMORY_FORMULA = (
    "16 P (weights, gradients, two moments) + microbatch x (L (8 D + 4 F) + 4 D) x bytes + the loss's chunk of logits "
    "(on a GPU 2 x microbatch x V x bytes, at most 1 GiB; on a CPU 512 x V x 4)"
)
DISK_FORMULA = "12 P (weights and two moments in fp32) for each checkpoint kept"
SHARDED = "; with n ranks to a copy 16 P / n + 8 (P - L (4 D^2 + 3 D F)) + 12 (4 D^2 + 3 D F) for the states"
RECOMPUTED = "; a recomputed layer keeps 2 D in place of 8 D + 4 F, all but one at a time"
ONE_MOMENT = " - 4 x L (4 D^2 + 3 D F) (muon keeps one moment of the layers' matrices)"
_LOSS_BYTES_GPU, _LOSS_BYTES_CPU = 1 << 30, 8 << 20
_FEWEST_LOSS_ROWS = 512
TRAINING_PASSES = 3
"""A backward pass costs two forward passes."""


class PhaseCost(BaseModel):
    """One phase's cost: training FLOPs of one token, and of the whole phase."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    flops_per_token: float
    flops: float
    checkpoints: int


class Cost(BaseModel):
    """A plan's cost.

    Attributes:
        parameters, non_embedding_parameters: Exact counts.
        phases: Each phase's cost.
        flops: Training FLOPs of all phases.
        memory_bytes: Rough peak memory of one rank that runs alone.
        checkpoint_bytes: One checkpoint on disk.
        checkpoints_kept: Checkpoints left at the end.
        disk_bytes: Disk for those, and for one more while it is being written.
        formulas: How the numbers were made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: int
    non_embedding_parameters: int
    phases: tuple[PhaseCost, ...]
    flops: float
    memory_bytes: float
    checkpoint_bytes: int
    checkpoints_kept: int
    disk_bytes: int
    formulas: dict[str, str]


def plan_cost(plan: Plan) -> Cost:
    """Return what a plan costs."""
    count = parameter_count(plan.model.shape, plan.model.vocab_size)
    phases = tuple(
        PhaseCost(
            name=phase.name,
            flops_per_token=flops_per_token(plan.model, phase),
            flops=flops_per_token(plan.model, phase) * phase.positions * (phase.mean_tokens + SPECIALS_PER_SEQUENCE),
            checkpoints=len(phase.checkpoint_steps),
        )
        for phase in plan.phases
    )
    each = checkpoint_bytes(plan)
    # The formulas are printed beside the numbers, so they say what this optimiser keeps.
    moments = ONE_MOMENT if plan.optimizer.name == "muon" else ""
    kept = kept_checkpoints(plan)
    return Cost(
        parameters=count.total,
        non_embedding_parameters=count.non_embedding,
        phases=phases,
        flops=sum(phase.flops for phase in phases),
        memory_bytes=memory_bytes(plan, gpu=plan.runtime.device != "cpu"),
        checkpoint_bytes=each,
        checkpoints_kept=kept,
        disk_bytes=each * (kept + 1),
        formulas={
            "flops_per_token": FLOPS_FORMULA,
            "memory": MEMORY_FORMULA
            + moments
            + (SHARDED if plan.runtime.sharding != "none" else "")
            + (RECOMPUTED if recomputed_layers(plan) else ""),
            "checkpoint_disk": DISK_FORMULA + moments,
        },
    )


def mean_keys(tokens: float, window: int | None, objective: Objective) -> float:
    """Return how many keys a token sees on average, itself included, in a sequence of `tokens` tokens.

    On one side a token at distance i from the end sees min(i, w) others; the mean over i = 0 .. n - 1 is
    (n - 1) / 2 without a window, else w - w (w + 1) / (2 n) once n > w. With a prefix of c tokens only these see what
    is to their right, and c is uniform in 1 .. n - 1.
    """
    side = (tokens - 1) / 2 if window is None or tokens <= window + 1 else window - window * (window + 1) / (2 * tokens)
    if objective.has_prefix:
        return 1 + side + _keys_after(tokens, tokens if window is None else window)
    return 1 + side * (2 if objective.direction == "bidirectional" else 1)


def _keys_after(tokens: float, window: float) -> float:
    """Return the mean keys to the right of a token that lie in its window and in a prefix it lies in too.

    A prefix of c tokens has c (c - 1) / 2 such pairs up to c = w + 1, and c w - w (w + 1) / 2 from there on.
    """
    longest = tokens - 1
    if longest <= 0:
        return 0.0
    short = min(longest, window + 1)
    pairs = (short + 1) * short * (short - 1) / 6
    more = longest - short
    pairs += window * more * (longest + short + 1) / 2 - more * window * (window + 1) / 2
    return pairs / longest / tokens


def flops_per_token(model: ModelPlan, phase: PhasePlan) -> float:
    """Return the training FLOPs of one token (forward and backward, a multiply-add as two).

    6 FLOPs a matrix parameter and token: L (4 D^2 + 3 D F) for the layers, and p (D^2 + V D) for the head
    with the vocabulary, where p is the share of tokens predicted (the mask rate, or 1 for `next`). Scores
    and values take 12 D for each key a token sees in a layer (local layers within their window). Lookups,
    norms, activations and the optimiser are not counted. Several objectives count by their sequences.
    """
    tokens = phase.mean_tokens + SPECIALS_PER_SEQUENCE
    flops = 0.0
    for objective, share in objective_shares(phase):
        rate = phase.mean_mask_frac if objective.takes_mask_frac else objective.own_rate
        predicted = 1.0 if rate is None else rate
        flops += share * TRAINING_PASSES * forward_flops(model, tokens, objective, predicted)
    return flops


def forward_flops(model: ModelPlan, tokens: float, objective: Objective, predicted: float) -> float:
    """Return the FLOPs of one token's forward pass in a row of `tokens` tokens; a third of training it.

    Args:
        model: The model.
        tokens: The row's tokens, specials included.
        objective: Which says what a token sees.
        predicted: The share of the tokens at which the head runs.
    """
    shape, width = model.shape, model.shape.width
    layers = shape.layers * (4 * width * width + 3 * width * shape.inner)
    keys = 0.0
    for layer in range(shape.layers):
        keys += mean_keys(tokens, None if layer % model.global_every == 0 else model.window_tokens, objective)
    head = predicted * (width * width + model.vocab_size * width)
    return 2 * (layers + head) + 4 * width * keys


def scoring_cost(
    model: ModelPlan, objective: Objective, context_tokens: float, continuation_tokens: int, *, masks: int = 3
) -> tuple[int, float]:
    """Return the rows and the FLOPs that scoring one continuation from left to right takes.

    A causal model reads `[CLS] context continuation` once. A bidirectional one reads a row for each token of the
    continuation: `[CLS] context t1 .. t(k-1) [MASK] x masks [SEP]`; nothing of a row can be kept for the next, since
    every state depends on all of it. The head runs only where it is read.

    Args:
        model: The model.
        objective: Its objective.
        context_tokens: Tokens of the context.
        continuation_tokens: Tokens of the continuation, m.
        masks: Masks of an encoder's row.
    """
    if objective.direction == "causal":
        tokens = 1 + context_tokens + continuation_tokens
        return 1, tokens * forward_flops(model, tokens, objective, continuation_tokens / tokens)
    flops = 0.0
    for known in range(continuation_tokens):
        tokens = 1 + context_tokens + known + masks + 1
        flops += tokens * forward_flops(model, tokens, objective, 1 / tokens)
    return continuation_tokens, flops


def objective_shares(phase: PhasePlan) -> list[tuple[Objective, float]]:
    """Return what share of a phase's sequences each objective has; a hybrid is given as its two parts."""
    if not phase.steps:
        return [(phase.objective_of(0), 1.0)]
    ends = [span.first_step for span in phase.objectives[1:]] + [phase.steps]
    shares: list[tuple[Objective, float]] = []
    for span, end in zip(phase.objectives, ends, strict=True):
        first = phase.positions_of(span.first_step).start
        # Shares are of sequences, not of steps: during a batch ramp steps differ in size.
        share = (phase.positions_of(end - 1).stop - first) / phase.positions
        parts = OBJECTIVES[span.objective].parts
        if parts is None or span.causal_frac is None:
            shares.append((OBJECTIVES[span.objective], share))
        else:
            causal, rest = (OBJECTIVES[name] for name in parts)
            shares += [(causal, share * span.causal_frac), (rest, share * (1 - span.causal_frac))]
    return shares


def loss_chunk_rows(vocab_size: int, logit_bytes: int, *, gpu: bool) -> int:
    """Return how many rows of logits the loss holds at once.

    On a GPU they and their gradients take 1 GiB. On a CPU the logits, which become their own gradients, take 8 MB, so
    that they stay in the cache; but there are never so few rows that the products become narrow and the whole weight
    gradient is passed over too often (512 rows of V = 50,368 are 103 MB).

    Args:
        vocab_size: V.
        logit_bytes: Bytes of one logit.
        gpu: Whether the loss runs on a GPU.
    """
    budget = _LOSS_BYTES_GPU // 2 if gpu else _LOSS_BYTES_CPU
    return max(_FEWEST_LOSS_ROWS, budget // (logit_bytes * vocab_size))


def memory_bytes(plan: Plan, ranks: int = 1, *, gpu: bool = True) -> float:
    """Return a rough peak memory of one rank; the formula is `MEMORY_FORMULA`, with `SHARDED` and `RECOMPUTED`.

    Activations are those that a layer keeps for its backward pass: norms, Q, K, V, attention output and both halves of
    the gated MLP, in 4 bytes (2 under bf16). The loss holds one chunk of logits. A layer that is recomputed keeps its
    input and what attention returned, and one such layer at a time has all of them.

    Args:
        plan: The plan.
        ranks: How many ranks share one copy of the states, if the plan shards them.
        gpu: Whether the plan runs on a GPU.
    """
    shape = plan.model.shape
    parameters = parameter_count(shape, plan.model.vocab_size).total
    layer = 4 * shape.width**2 + 3 * shape.width * shape.inner
    # 16 = 4 for the weight, 4 for its gradient and 8 for two moments, all in fp32.
    states: float = 16 * parameters - _bytes_without_second_moment(plan)
    if plan.runtime.sharding != "none" and ranks > 1:
        states = states / ranks + 8 * (parameters - shape.layers * layer) + 12 * layer
    recomputed = recomputed_layers(plan)
    of_layer = 8 * shape.width + 4 * shape.inner
    kept = (shape.layers - recomputed + min(1, recomputed)) * of_layer + recomputed * 2 * shape.width
    each = 2 if plan.runtime.precision == "bf16" else 4
    activations = plan.runtime.microbatch_tokens * (kept + 4 * shape.width) * each
    logit_bytes = each if gpu else 4
    rows = min(plan.runtime.microbatch_tokens, loss_chunk_rows(plan.model.vocab_size, logit_bytes, gpu=gpu))
    return states + activations + rows * plan.model.vocab_size * logit_bytes * (2 if gpu else 1)


def recomputed_layers(plan: Plan) -> int:
    """Return how many layers run again in the backward pass."""
    layers = plan.model.shape.layers
    which = plan.runtime.checkpoint_layers
    return min(layers, which) if isinstance(which, int) else {"none": 0, "all": layers}[which]


def settings_that_fit(plan: Plan, device_bytes: float, ranks: int) -> dict[str, str] | None:
    """Return the least change of `runtime` with which a plan fits into a device's memory; None if none does.

    Recomputing layers costs a third more FLOPs, sharding only exchanges, so where there are ranks sharding comes first.

    Args:
        plan: The plan.
        device_bytes: The memory of one device.
        ranks: How many devices share the states.
    """
    changes: list[dict[str, str]] = [{}]
    # Muon steps whole matrices.
    if ranks > 1 and plan.optimizer.name != "muon":
        changes.append({"sharding": "full"})
    changes += [change | {"checkpoint_layers": "all"} for change in changes]
    for change in changes:
        runtime = plan.runtime.model_copy(update=change)
        if memory_bytes(plan.model_copy(update={"runtime": runtime}), ranks) <= device_bytes:
            return change
    return None


def checkpoint_bytes(plan: Plan) -> int:
    """Return the bytes of one checkpoint: weights and the optimiser's moments in fp32, two or, in Muon's part, one."""
    return 12 * parameter_count(plan.model.shape, plan.model.vocab_size).total - _bytes_without_second_moment(plan)


def _bytes_without_second_moment(plan: Plan) -> int:
    """Return the bytes of the moments that Muon does not keep: one of two, for the layers' matrices, in fp32."""
    shape = plan.model.shape
    layers = shape.layers * (4 * shape.width**2 + 3 * shape.width * shape.inner)
    return 4 * layers if plan.optimizer.name == "muon" else 0


def kept_checkpoints(plan: Plan) -> int:
    """Return how many checkpoints the keep rule leaves at the end (see `KeepRule`)."""
    every, last = plan.keep.every_tokens, plan.keep.last
    made: list[float] = []  # content tokens of the run at each checkpoint
    kept: set[int] = set()
    before = 0.0
    for phase in plan.phases:
        named = [f"{phase.tag}{step}" in plan.keep.names for step in phase.checkpoint_steps]
        kept.update(len(made) + index for index, is_named in enumerate(named) if is_named)
        made += [before + phase.planned_tokens(step) for step in phase.checkpoint_steps]
        before += phase.planned_tokens(phase.steps)
        # The phase's last checkpoint stays in any case, as in `catalog.superfluous`.
        kept.add(len(made) - 1)
    if last is None:
        return len(made)
    kept.update(range(max(0, len(made) - last), len(made)))
    if every is not None:
        # Going backwards, the earliest checkpoint at or after each multiple is the one that remains in the mapping.
        first = {int(tokens // every): index for index, tokens in reversed(list(enumerate(made)))}
        kept.update(index for multiple, index in first.items() if multiple >= 1)
    return len(kept)
