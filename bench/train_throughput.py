"""Training throughput on this machine: our model and loss against transformers', side by side in one process.

Three tables (`--table`): `rows`, full rows of 512; `documents`, 16 random sequences a batch of all of
the local text, cut at 1,024 tokens as the store cuts them; `long`, one row of 8,000. Ours and theirs
take turns, first one and then the other first, on the same batch; the ratio is the median of the rounds' ratios.
On a machine that others use, `--clock cpu --threads 1` counts this process's CPU time, which waiting does not enter.

    python bench/train_throughput.py --table rows --rounds 5 --out bench/results/train_throughput_rows.md
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import contenders
import torch
from contenders import Batch, make_batch, make_ours, make_theirs, now_seconds, random_rows, step_flops
from local_data import TEXT

SEQ_LEN, BATCH_SEQUENCES = 1024, 16
CELLS = {
    "rows": [("1m", "encoder"), ("1m", "decoder"), ("17m", "encoder"), ("17m", "decoder")],
    "documents": [("17m", "encoder"), ("17m", "decoder")],
    "long": [("1m", "encoder"), ("1m", "decoder"), ("17m", "encoder"), ("17m", "decoder")],
}
ROWS = {("rows", "1m"): (16, 512), ("rows", "17m"): (8, 512), ("long", "1m"): (1, 8000), ("long", "17m"): (1, 8000)}


def documents() -> list[str]:
    """Return every document of the text collection."""
    found = [path.read_text(encoding="utf-8") for path in sorted(TEXT.glob("novels/*.txt"))]
    for path in [*sorted(TEXT.glob("openstax/*.jsonl")), *sorted(TEXT.glob("*.jsonl"))]:
        for line in path.open(encoding="utf-8"):
            row = json.loads(line)
            found.append(row["text"] if "text" in row else f"{row['question']}\n{row['answer']}")
    return [text for text in found if text]


def document_batches(seed: int = 0) -> Iterator[Batch]:
    """Yield batches of random sequences: a document by its pieces (from its length in characters), a piece of it."""
    texts, tokenizer, draw = documents(), contenders.tokenizer(), random.Random(seed)
    pieces = [-(-len(text) // (4 * (SEQ_LEN - 2))) for text in texts]
    while True:
        sequences = []
        for text in draw.choices(texts, pieces, k=BATCH_SEQUENCES):
            count = -(-len(text) // (4 * (SEQ_LEN - 2)))
            piece = draw.randrange(count)
            part = text[piece * len(text) // count : (piece + 1) * len(text) // count]
            sequences.append(tokenizer(part, truncation=True, max_length=SEQ_LEN)["input_ids"])
        yield make_batch(torch.tensor([i for ids in sequences for i in ids]), [len(ids) for ids in sequences])


def compare(size: str, member: str, batches: list[Batch], clock: str) -> tuple[list[float], list[float]]:
    """Return ours' and theirs' seconds for every batch but the first, which warms up."""
    steps = [make_ours(size, member), make_theirs(size, member)]
    seconds: tuple[list[float], list[float]] = ([], [])
    for number, batch in enumerate(batches):
        for who in (0, 1) if number % 2 else (1, 0):
            started = now_seconds(clock)
            steps[who](batch)
            if number > 0:
                seconds[who].append(now_seconds(clock) - started)
    return seconds


def row(table: str, size: str, member: str, batches: list[Batch], clock: str) -> str:
    """Measure one cell and return its row."""
    ours, theirs = compare(size, member, batches, clock)
    measured = batches[1:]
    tokens = [sum(batch.lengths) for batch in measured]
    ratios = [their / our for our, their in zip(ours, theirs, strict=True)]
    rates = [statistics.median(n / s for n, s in zip(tokens, took, strict=True)) for took in (ours, theirs)]
    padded = sum(len(batch.lengths) * max(batch.lengths) for batch in measured)
    cells = [size, member, f"{rates[0]:,.0f}", f"{rates[1]:,.0f}", f"{1 - sum(tokens) / padded:.0%}"]
    cells += [f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"]
    if table == "long":
        cells.append(f"{bound(size, batches[0], member):.2f}")
    return "| " + " | ".join(cells) + " |"


def bound(size: str, batch: Batch, member: str) -> float:
    """Return theirs by ours in FLOPs: their local layers score every pair, and all else is equal."""
    matrices, global_flops, local_flops = step_flops(size, batch, member)
    layers = contenders.SIZES[size].layers
    global_layers = len(range(0, layers, 3))
    pairs = 2 if member == "decoder" else 1  # a causal window is given as a mask, so nothing is skipped
    theirs = matrices + global_flops * (1 + pairs * (layers - global_layers) / global_layers)
    return theirs / (matrices + global_flops + local_flops)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", choices=list(CELLS), default="rows")
    parser.add_argument("--sizes", nargs="+", default=["1m", "17m"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    last = " bound by FLOPs |" if args.table == "long" else ""
    lines = [
        f"# Training throughput, {args.table}: ours against transformers",
        "",
        f"{contenders.describe_machine(args.clock)}; {args.rounds} alternating rounds, medians; real tokens counted.",
        "",
        f"| size | member | ours, tokens/s | theirs, tokens/s | their padding | ours is faster by (range) |{last}",
        "|---" * (7 if last else 6) + "|",
    ]
    for size, member in CELLS[args.table]:
        if size not in args.sizes:
            continue
        if args.table == "documents":
            batches = list(islice(document_batches(), args.rounds + 1))
        else:
            batches = [random_rows(size, *ROWS[args.table, size])] * (args.rounds + 1)
        lines.append(row(args.table, size, member, batches, args.clock))
        print("\n".join(lines[-1:]), flush=True)
        if args.out:
            args.out.write_text("\n".join([*lines, "", "Written by `bench/train_throughput.py`."]) + "\n")


if __name__ == "__main__":
    main()
