"""How fast the order is on one core: permutations forwards and backwards, references, batches, packing.

Run: taskset -c 0 python bench/order.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from seqpair.data.order.batches import assemble, read_batch, sequence_lengths
from seqpair.data.order.feistel import KeyedPermutation
from seqpair.data.order.order import PhaseOrder
from seqpair.data.order.packing import pack, share
from seqpair.data.store.pieces import PieceIndex
from seqpair.recipe.plan import BatchStage, LrCurve, MixtureShare, ObjectiveSpan, PhasePlan

POSITIONS = 1_000_000
SIZES = [1, 2, 3, 5, 7, 13, 100]
SIZES += [4**power + offset for power in (5, 8, 10, 12, 16, 20) for offset in (-1, 0, 1)]
SIZES += [2 * 4**power + offset for power in (8, 12, 16) for offset in (-1, 0, 1)]
SIZES += [10**9, 10**12, 10**12 + 39, 2**61 + 1, 2**62 - 1]


def best_seconds(run: Callable[[], object], repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def permutations() -> list[dict[str, float]]:
    rows = []
    for size in SIZES:
        numbers = np.random.default_rng(size).integers(0, size, POSITIONS)
        permutation = KeyedPermutation(size, "bench")
        image = permutation.forward(numbers)
        assert np.array_equal(permutation.backward(image), numbers)
        forward = best_seconds(lambda p=permutation, n=numbers: p.forward(n))
        backward = best_seconds(lambda p=permutation, n=image: p.backward(n))
        rows.append(
            {
                "size": size,
                "walking_frac": permutation.walking_frac,
                "forward_per_second": POSITIONS / forward,
                "backward_per_second": POSITIONS / backward,
            }
        )
    return rows


def fake_order(folder: Path, mean_tokens: int, sequences: int) -> PhaseOrder:
    """Two sources of exponentially distributed documents, 40 million tokens in all, in memory."""
    stores = {}
    for name, tokens, seed in (("web", 30_000_000, 1), ("code", 10_000_000, 2)):
        rng = np.random.default_rng(seed)
        lengths = np.maximum(1, rng.exponential(mean_tokens, tokens // mean_tokens)).astype(np.int64)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        (folder / name).mkdir()
        index = PieceIndex.open(folder / name, offsets, 1024)
        stores[name] = SimpleNamespace(
            offsets=offsets,
            tokens=rng.integers(0, 50_000, offsets[-1]).astype(np.uint16),
            manifest=SimpleNamespace(digest=name),
            pieces=lambda seq_len, index=index: index,
        )
    phase = PhasePlan(
        name="bench",
        tag="step",
        seq_len=1024,
        budget_tokens=1,
        mean_tokens=1.0,
        steps=4,
        positions=4 * sequences,
        batch_stages=(BatchStage(first_step=0, first_position=0, sequences=sequences),),
        rope_global_theta=1e4,
        rope_local_theta=1e4,
        mask_frac=None,
        mixture=(MixtureShare(source="web", share=0.6), MixtureShare(source="code", share=0.4)),
        lr=LrCurve(curve="constant"),
        objectives=(ObjectiveSpan(first_step=0, objective="clm"),),
        checkpoint_steps=(),
        held_out_steps=(),
    )
    return PhaseOrder(0, phase, stores)


def batches(mean_tokens: int) -> dict[str, float]:
    specials = SimpleNamespace(cls=1, sep=2)
    with tempfile.TemporaryDirectory() as name:
        order = fake_order(Path(name), mean_tokens, 4608)
        batch = read_batch(order, 0)
        tokens, every = batch.content.size, np.arange(batch.positions.size)
        lengths = sequence_lengths(batch, True)
        span = np.arange(order.phase.positions)
        groups = pack(lengths, 8192)
        return {
            "mean_document_tokens": mean_tokens,
            "batch_tokens": tokens,
            "refs_per_second": span.size / best_seconds(lambda: order.refs(span)),
            "read_tokens_per_second": tokens / best_seconds(lambda: read_batch(order, 0)),
            "assemble_tokens_per_second": tokens / best_seconds(lambda: assemble(batch, every, specials, True)),
            "pack_8_ranks_seconds": best_seconds(lambda: pack(lengths[share(lengths, 8, 0)], 8192)),
            "pack_waste_frac": 1 - int(lengths.sum()) / (len(groups) * 8192),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="Also write the figures to this file.")
    given = parser.parse_args()
    permuted, read = permutations(), [batches(mean) for mean in (30, 150, 700)]
    print(f"{'N':>20}  walking  forward M/s  backward M/s")
    for row in permuted:
        rates = [row[f"{way}_per_second"] / 1e6 for way in ("forward", "backward")]
        print(f"{row['size']:>20}  {row['walking_frac']:>7.4f}  {rates[0]:>11.1f}  {rates[1]:>12.1f}")
    slowest = min(min(row["forward_per_second"], row["backward_per_second"]) for row in permuted)
    print(f"slowest: {slowest / 1e6:.1f} million positions a second\n")
    for row in read:
        print(
            f"documents of {row['mean_document_tokens']} tokens, a batch of 4,608 sequences, {row['batch_tokens']:,} "
            f"tokens: refs {row['refs_per_second'] / 1e6:.1f} M/s, read {row['read_tokens_per_second'] / 1e6:.0f} M "
            f"tokens/s, assemble {row['assemble_tokens_per_second'] / 1e6:.0f} M tokens/s, share and pack for 8 ranks "
            f"{row['pack_8_ranks_seconds'] * 1e3:.0f} ms, waste {100 * row['pack_waste_frac']:.2f} %"
        )
    if given.json:
        given.json.write_text(json.dumps({"permutations": permuted, "batches": read}, indent=1) + "\n")


if __name__ == "__main__":
    main()
