"""How far a training step of ours is from the matrix products alone, and whether long rows cost what they should.

Limit: a step's matrix and attention FLOPs at the rates that `torch.mm` reaches at those very shapes (for each
linear layer forward, gradient of the input and of the weight; the vocabulary in chunks of 512; for attention
scores and values of one head), by the step's time. Optimiser, norms, activations and softmax count against us.
Cost: tokens/s at 8,000 by what the FLOP count predicts from the rate at 1,024. All measured in turn in every round.

    python bench/train_limits.py --rounds 3 --out bench/results/train_limits.md
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import contenders
import torch
from contenders import Batch, now_seconds, random_rows, step_flops

VOCABULARY_ROWS = 512


def product_rates(shapes: list[tuple[int, int, int]], clock: str) -> float:
    """Return FLOPs a second over products of (m, k) by (k, n), one after the other."""
    flops = seconds = 0.0
    for m, k, n in shapes:
        left, right = torch.randn(m, k), torch.randn(k, n)
        out = torch.mm(left, right)
        started = now_seconds(clock)
        torch.mm(left, right, out=out)
        seconds += now_seconds(clock) - started
        flops += 2.0 * m * k * n
    return flops / seconds


def linear_shapes(size: str, batch: Batch, member: str) -> list[tuple[float, list[tuple[int, int, int]]]]:
    """Return (how often, forward and both gradients' shapes) for every matrix of a step."""
    shape, tokens = contenders.SIZES[size], sum(batch.lengths)
    predicted = tokens - len(batch.lengths) if member == "decoder" else len(batch.masked)
    width, inner, vocab = shape.width, shape.inner, contenders.VOCAB_SIZES[size]
    layers = [(width, 3 * width), (width, width), (width, 2 * inner), (inner, width)]
    found = [(float(shape.layers), [(tokens, i, o), (tokens, o, i), (o, tokens, i)]) for i, o in layers]
    rows = VOCABULARY_ROWS
    return [*found, (predicted / rows, [(rows, width, vocab), (rows, vocab, width), (vocab, rows, width)])]


def least_seconds(size: str, batch: Batch, member: str, clock: str) -> float:
    """Return the time that the products alone take, at the rates measured now."""
    seconds = 0.0
    for often, shapes in linear_shapes(size, batch, member):
        flops = sum(2.0 * m * k * n for m, k, n in shapes)
        seconds += often * flops / product_rates(shapes, clock)
    length, head_dim = max(batch.lengths), contenders.SIZES[size].head_dim
    rate = product_rates([(length, head_dim, length), (length, length, head_dim)], clock)
    _, global_flops, local_flops = step_flops(size, batch, member)
    return seconds + (global_flops + local_flops) / rate


def measure(size: str, member: str, rounds: int, clock: str) -> list[str]:
    """Measure one size and member and return its rows."""
    step = contenders.make_ours(size, member)
    batches = {512: random_rows(size, 8, 512), 1024: random_rows(size, 8, 1024), 8000: random_rows(size, 1, 8000)}
    seconds: dict[int, list[float]] = {length: [] for length in batches}
    shares: dict[int, list[float]] = {length: [] for length in batches}
    step(batches[512])
    for _ in range(rounds):
        for length, batch in batches.items():
            least = least_seconds(size, batch, member, clock)
            started = now_seconds(clock)
            step(batch)
            seconds[length].append(now_seconds(clock) - started)
            shares[length].append(least / seconds[length][-1])
    flops = {length: sum(step_flops(size, batch, member)) for length, batch in batches.items()}
    predicted = flops[8000] / flops[1024]
    costs = [predicted * short / long for short, long in zip(seconds[1024], seconds[8000], strict=True)]
    rows = []
    for length, batch in batches.items():
        rate = sum(batch.lengths) / statistics.median(seconds[length])
        share = f"{statistics.median(shares[length]):.0%} ({min(shares[length]):.0%} to {max(shares[length]):.0%})"
        cost = f"{statistics.median(costs):.2f} ({min(costs):.2f} to {max(costs):.2f})" if length == 8000 else ""
        rows.append(f"| {size} | {member} | {length:,} | {rate:,.0f} | {share} | {cost} |")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="17m")
    parser.add_argument(
        "--members", nargs="+", default=list(contenders.DIRECTIONS), choices=list(contenders.DIRECTIONS)
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    lines = [
        "# A training step against its matrix products",
        "",
        f"{contenders.describe_machine(args.clock)}; median (range) of {args.rounds} rounds. The last column: the rate",
        "at 8,000 by the one that the FLOP count predicts from 1,024: 1 is as predicted, above 1 is faster.",
        "",
        "| size | member | row | tokens/s | share of the products' time | rate by prediction |",
        "|---|---|---|---|---|---|",
    ]
    for member in args.members:
        lines += measure(args.size, member, args.rounds, args.clock)
        print("\n".join(lines[-3:]), flush=True)
        if args.out:
            args.out.write_text("\n".join([*lines, "", "Written by `bench/train_limits.py`."]) + "\n")


if __name__ == "__main__":
    main()
