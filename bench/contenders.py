"""What the training benchmarks compare: one step of ours and one of transformers', on the same tokens.

Both run forward, loss, backward and the same `torch.optim.AdamW(fused=True)` in fp32, with the same initial weights.
Ours gets packed sequences. Theirs gets rows: `ModernBertForMaskedLM` with sdpa and `sparse_prediction` (it projects
labelled tokens only), `ModernBertDecoderForCausalLM` with sdpa, no cache; rows of unequal length are padded by its own
`DataCollatorForTokenClassification`. Padding-free forms of theirs are not in: the encoder has none outside flash
attention, and the decoder's (positions that restart, no mask) runs on one row whose every layer is masked N x N.
"""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import transformers
from local_data import MODERNBERT

from seqpair.hub.weights import to_hub
from seqpair.nn.layout import Layout
from seqpair.nn.model import LanguageModel, initialise
from seqpair.nn.rope import RopeBases
from seqpair.objectives.loss import summed_cross_entropy
from seqpair.optim.choice import parameter_groups
from seqpair.optim.stable_adamw import StableAdamW
from seqpair.recipe.cost import mean_keys
from seqpair.recipe.objectives import OBJECTIVES, Direction
from seqpair.recipe.plan import ModelPlan
from seqpair.recipe.sizes import SIZES

MASK_FRAC = 0.3
ROPE = RopeBases(10_000.0, 10_000.0)
VOCAB_SIZES = {"1m": 4096, "17m": 50_368}
DIRECTIONS: dict[str, Direction] = {"encoder": "bidirectional", "decoder": "causal"}
Step = Callable[["Batch"], float]


class Batch(NamedTuple):
    """Sequences end to end, and the places of their masked tokens.

    Attributes:
        ids: (N,) int64.
        lengths: S lengths that sum to N.
        masked: (M,) int64, ascending.
    """

    ids: torch.Tensor
    lengths: list[int]
    masked: torch.Tensor


def make_batch(ids: torch.Tensor, lengths: Sequence[int]) -> Batch:
    """Return a batch with 30 % of its tokens masked."""
    chosen = torch.rand(len(ids), generator=torch.Generator().manual_seed(1)) < MASK_FRAC
    return Batch(ids, list(lengths), chosen.nonzero().flatten())


def random_rows(size: str, rows: int, length: int) -> Batch:
    """Return rows of equal length with random ids."""
    ids = torch.randint(5, VOCAB_SIZES[size], (rows * length,), generator=torch.Generator().manual_seed(0))
    return make_batch(ids, [length] * rows)


def model_plan(size: str, dropout: float = 0.0) -> ModelPlan:
    return ModelPlan(shape=SIZES[size], vocab_size=VOCAB_SIZES[size], attn_out_dropout=dropout)


def make_ours(size: str, member: str, *, dropout: float = 0.0, stable: bool = False) -> Step:
    """Return a step of ours: layout, forward, chunked loss, backward, update."""
    plan = model_plan(size, dropout)
    model = LanguageModel(plan).train()
    initialise(model, plan, 0)
    if stable:
        optimizer: torch.optim.Optimizer = StableAdamW(parameter_groups(model, 0.01), lr=1e-4)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step(batch: Batch) -> float:
        layout = Layout.from_lengths(batch.lengths)  # masks and tables are made anew, as in training
        outputs = batch.masked
        if member == "decoder":
            keep = torch.ones(layout.total, dtype=torch.bool)
            keep[layout.starts[1:] - 1] = False
            outputs = keep.nonzero().flatten()
        targets = batch.ids[outputs + 1 if member == "decoder" else outputs]
        states = model(batch.ids, layout, DIRECTIONS[member], ROPE, outputs)
        loss = summed_cross_entropy(states, model.output_weight, model.output_bias, targets) / len(targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def make_theirs(size: str, member: str, *, sparse: bool = True) -> Step:
    """Return a step of theirs on the same weights."""
    model = _their_model(size, member, sparse=sparse).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    options = {"use_cache": False} if member == "decoder" else {}

    def step(batch: Batch) -> float:
        loss = model(**collate(batch, member), **options).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def collate(batch: Batch, member: str) -> dict[str, torch.Tensor]:
    """Return a batch as their rows; equal rows have no mask, others are padded by their collator."""
    labels = batch.ids
    if member == "encoder":
        labels = torch.full_like(batch.ids, -100).index_copy(0, batch.masked, batch.ids[batch.masked])
    if len(set(batch.lengths)) == 1:
        shape = (len(batch.lengths), batch.lengths[0])
        return {"input_ids": batch.ids.view(shape), "labels": labels.view(shape)}
    collator = transformers.DataCollatorForTokenClassification(tokenizer())
    rows = zip(batch.ids.split(batch.lengths), labels.split(batch.lengths), strict=True)
    return dict(collator([{"input_ids": ids.tolist(), "labels": wanted.tolist()} for ids, wanted in rows]))


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    return transformers.AutoTokenizer.from_pretrained(MODERNBERT)


def _their_model(size: str, member: str, *, sparse: bool) -> transformers.PreTrainedModel:
    shape, causal = SIZES[size], member == "decoder"
    make_config = transformers.ModernBertDecoderConfig if causal else transformers.ModernBertConfig
    config = make_config(
        vocab_size=VOCAB_SIZES[size],
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        local_attention=130 if causal else 128,
        rope_parameters={
            kind: {"rope_type": "default", "rope_theta": 10_000.0} for kind in ("full_attention", "sliding_attention")
        },
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        cls_token_id=1,
        sep_token_id=2,
        attn_implementation="sdpa",
        **({} if causal else {"sparse_prediction": sparse}),
    )
    theirs = (transformers.ModernBertDecoderForCausalLM if causal else transformers.ModernBertForMaskedLM)(config)
    plan = model_plan(size)
    ours = LanguageModel(plan)
    initialise(ours, plan, 0)
    weights = to_hub(ours.state_dict(), plan.shape.layers, DIRECTIONS[member])
    missing = theirs.load_state_dict(weights, strict=False).missing_keys
    assert set(missing) <= {"decoder.weight"}, missing  # tied
    theirs.tie_weights()
    return theirs


def attention_pairs(length: int, member: str, *, window: int | None) -> float:
    """Return the query-key pairs of one sequence in one layer."""
    objective = OBJECTIVES["clm" if member == "decoder" else "mlm"]
    return length * mean_keys(length, window, objective)


def step_flops(size: str, batch: Batch, member: str) -> tuple[float, float, float]:
    """Return a training step's FLOPs: matrices, global attention, local attention (a multiply-add as two)."""
    plan = model_plan(size)
    shape, width = plan.shape, plan.shape.width
    total = sum(batch.lengths)
    predicted = total - len(batch.lengths) if member == "decoder" else len(batch.masked)
    layers = shape.layers * (4 * width * width + 3 * width * shape.inner)
    matrices = 6.0 * (total * layers + predicted * (width * width + plan.vocab_size * width))
    global_layers = len(range(0, shape.layers, plan.global_every))
    pairs = [
        sum(attention_pairs(length, member, window=window) for length in batch.lengths)
        for window in (None, plan.window_tokens)
    ]
    return matrices, 12.0 * width * pairs[0] * global_layers, 12.0 * width * pairs[1] * (shape.layers - global_layers)


def now_seconds(clock: str) -> float:
    """Return wall-clock seconds, or this process's CPU seconds."""
    return time.process_time() if clock == "cpu" else time.perf_counter()


def describe_machine(clock: str) -> str:
    """Return the line that says where, on what and how the numbers were taken."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    kind = "CPU seconds of the process" if clock == "cpu" else "wall-clock seconds"
    return (
        f"{datetime.date.today()}, commit {commit.stdout.strip()}, {torch.get_num_threads()} thread(s), {kind} "
        f"({torch.backends.cpu.get_cpu_capability()}, {platform.machine()}), torch {torch.__version__}, "
        f"transformers {transformers.__version__}, load average {os.getloadavg()[0]:.1f} before"
    )
