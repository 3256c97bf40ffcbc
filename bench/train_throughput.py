"""Training throughput on this machine: our model and loss against transformers', side by side in one process.

Both run forward, backward and the same plain `torch.optim.AdamW(foreach=True)` step on the same packed rows of
full length, in fp32. Theirs is `ModernBertForMaskedLM` / `ModernBertDecoderForCausalLM` with its own loss and
sdpa; for the encoder also with `sparse_prediction`, its option that projects labelled tokens only. The runs
alternate in every round, in a rotated order, so that a machine that is busy for a while is busy for all; the ratio is
the median of the rounds' ratios. Dropout is off in the compared rows, since theirs cannot express ours; a
row with it on is shown apart, and one on sequences of a real collection's lengths.

    python bench/train_throughput.py --rounds 7 --out bench/results/train_throughput.md
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import transformers

from seqpair.nn.init import initialise
from seqpair.nn.layout import Layout
from seqpair.nn.model import LanguageModel
from seqpair.nn.rope import RopeBases
from seqpair.objectives.loss import summed_cross_entropy
from seqpair.recipe.objectives import Direction
from seqpair.recipe.plan import ModelPlan
from seqpair.recipe.sizes import SIZES

SEQ_LEN = 512
MASK_FRAC = 0.3
ROPE = RopeBases(10_000.0, 10_000.0)
VOCAB_SIZES = {"1m": 4096, "17m": 50_368}
MICROBATCH_TOKENS = {"1m": 8192, "17m": 4096}  # theirs holds several copies of all logits: 0.8 GB each at 17m
Step = Callable[[], float]


def document_lengths(total_tokens: int, seed: int = 0) -> list[int]:
    """Return lengths of at most SEQ_LEN that sum to the total: log-normal documents cut as the store cuts them."""
    rng = np.random.default_rng(seed)
    lengths: list[int] = []
    while sum(lengths) < total_tokens:
        document = int(np.clip(rng.lognormal(5.8, 1.0), 33, 20_000))
        pieces = -(-document // SEQ_LEN)
        lengths += [document // pieces] * pieces
    while sum(lengths[:-1]) >= total_tokens:
        lengths.pop()
    return [*lengths[:-1], total_tokens - sum(lengths[:-1])]


def make_ours(size: str, direction: Direction, lengths: list[int], ids: torch.Tensor, *, dropout: float) -> Step:
    """Return a step of ours: forward, chunked loss, backward, update."""
    plan = ModelPlan(shape=SIZES[size], vocab_size=VOCAB_SIZES[size], attn_out_dropout=dropout)
    model = LanguageModel(plan).train()
    initialise(model, plan, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True)
    ends = torch.tensor(lengths).cumsum(0) - 1
    if direction == "causal":
        keep = torch.ones(len(ids), dtype=torch.bool)
        keep[ends] = False
        output_index = keep.nonzero().flatten()
        targets = ids[output_index + 1]
    else:
        output_index = masked_places(len(ids))
        targets = ids[output_index]

    def step() -> float:
        layout = Layout.from_lengths(lengths)  # masks and tables are made anew, as in training
        states = model(ids, layout, direction, ROPE, output_index)
        loss = summed_cross_entropy(states, model.output_weight, model.output_bias, targets) / len(targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def masked_places(total: int) -> torch.Tensor:
    """Return the ascending places of the masked tokens."""
    chosen = torch.rand(total, generator=torch.Generator().manual_seed(1)) < MASK_FRAC
    return chosen.nonzero().flatten()


def make_theirs(size: str, direction: Direction, rows: int, ids: torch.Tensor, *, sparse: bool = False) -> Step:
    """Return a step of theirs on the same tokens as (rows, SEQ_LEN)."""
    shape = SIZES[size]
    causal = direction == "causal"
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
    theirs.train()
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-4, foreach=True)
    given = ids.view(rows, SEQ_LEN)
    if causal:
        labels, options = given, {"use_cache": False}
    else:
        places = masked_places(len(ids))
        labels = torch.full_like(ids, -100).index_copy(0, places, ids[places]).view(rows, SEQ_LEN)
        options = {}

    def step() -> float:
        loss = theirs(input_ids=given, labels=labels, **options).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def measure(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each step in each round; one round more warms up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for number in range(rounds + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            started = time.perf_counter()
            steps[name]()
            if number > 0:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def compare(size: str, direction: Direction, rounds: int) -> list[str]:
    """Measure one size and direction and return the table's rows."""
    tokens = MICROBATCH_TOKENS[size]
    ids = torch.randint(5, VOCAB_SIZES[size], (tokens,), generator=torch.Generator().manual_seed(0))
    full = [SEQ_LEN] * (tokens // SEQ_LEN)
    steps = {
        "ours": make_ours(size, direction, full, ids, dropout=0.0),
        "transformers": make_theirs(size, direction, len(full), ids),
    }
    if direction == "bidirectional":
        steps["transformers, sparse_prediction"] = make_theirs(size, direction, len(full), ids, sparse=True)
    steps["ours, dropout 0.1"] = make_ours(size, direction, full, ids, dropout=0.1)
    steps["ours, dropout 0.1, real lengths"] = make_ours(size, direction, document_lengths(tokens), ids, dropout=0.1)
    seconds = measure(steps, rounds)
    member = "decoder" if direction == "causal" else "encoder"
    rows = []
    for name, took in seconds.items():
        ratios = [theirs / mine for theirs, mine in zip(took, seconds["ours"], strict=True)]
        ratio = (
            ""
            if name.startswith("ours")
            else f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
        rows.append(f"| {size} | {member} | {name} | {tokens / statistics.median(took):,.0f} | {ratio} |")
    return rows


def describe_machine() -> str:
    """Return the line that says where and on what the numbers were taken."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    return (
        f"{datetime.date.today()}, commit {commit.stdout.strip()}, {torch.get_num_threads()} threads "
        f"({torch.backends.cpu.get_cpu_capability()}, {platform.machine()}), torch {torch.__version__}, "
        f"transformers {transformers.__version__}, load average {os.getloadavg()[0]:.1f} before"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=list(VOCAB_SIZES), choices=list(VOCAB_SIZES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    lines = [
        "# Training throughput: ours against transformers",
        "",
        f"{describe_machine()}. One step = forward, loss, backward and a plain AdamW update on",
        "8,192 tokens (1m, V = 4,096) or 4,096 tokens (17m, V = 50,368), "
        f"fp32, rows of {SEQ_LEN}; medians of {args.rounds} alternating rounds; the ratio is theirs by ours in time, "
        "median (range) of the rounds' ratios.",
        "",
        "| size | member | run | tokens/s | ours is faster by |",
        "|---|---|---|---|---|",
    ]
    for size in args.sizes:
        for direction in ("bidirectional", "causal"):
            lines += compare(size, direction, args.rounds)
            print("\n".join(lines), flush=True)
    lines += ["", "Written by `bench/train_throughput.py`."]
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
