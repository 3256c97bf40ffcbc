"""The loader's speed on one core: from memory-mapped stores to packed microbatches, against a plain numpy gather.

Everything that a training step is given is made, as `train.step` makes it: the order's addresses, the content and
its digest, the ledger's record, the divisor (the count of predicted tokens over the whole batch), sharing and packing,
and each microbatch with special tokens, corruption, targets, boundaries and positions, as torch tensors. The gather
that it is held against takes the same tokens of the same steps from the same maps with one plain numpy index, made from
the sequences' starts and lengths, and does nothing else. The two alternate, step by step, so a machine that is busy
for a while is busy for both; seconds are CPU seconds of the one thread.

Sources: all text of the local text (prepared into --stores first, once), each read once a
round, so lengths come as in the text; and the verses alone, the hard case: their sequences have 33 tokens.

    OMP_NUM_THREADS=1 taskset -c 0 python bench/loader.py --stores FOLDER --out bench/results/loader.md
"""

from __future__ import annotations

import argparse
import cProfile
import datetime
import os
import platform
import pstats
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from local_data import MODERNBERT, TEXT

from seqpair.data.order.batches import Batch, assemble, read_addresses, read_batch, sequence_lengths
from seqpair.data.order.ledger import LedgerRecord
from seqpair.data.order.order import PhaseOrder
from seqpair.data.order.packing import microbatches
from seqpair.data.prepare.preparation import prepare
from seqpair.data.prepared import Prepared
from seqpair.data.store.store import Store
from seqpair.objectives.selection import parts_of_step
from seqpair.objectives.targets import ModelInput, TargetBuilder
from seqpair.recipe.data_spec import SourceSpec, TokenizerSpec
from seqpair.recipe.objectives import OBJECTIVES, Objective
from seqpair.recipe.plan import BatchStage, LrCurve, MixtureShare, ObjectiveSpan, PhasePlan

SEQUENCES = 4608
MICROBATCH_TOKENS = 8192
MASK_FRAC = 0.3
SEED = 0


def sources(text: Path) -> list[SourceSpec]:
    """Return the folder's six sources."""
    jsonl = {"kjv": "kjv.jsonl", "factbook": "factbook.jsonl", "peps": "peps.jsonl", "openstax": "openstax/*.jsonl"}
    found = [SourceSpec(name=name, kind="jsonl", paths=(str(text / path),)) for name, path in jsonl.items()]
    medquad = SourceSpec(
        name="medquad", kind="jsonl", paths=(str(text / "medquad.jsonl"),), text_field=("question", "answer")
    )
    return [*found, medquad, SourceSpec(name="novels", kind="text", paths=(str(text / "novels/*.txt"),))]


def make_order(stores: dict[str, Store], seq_len: int, steps: int) -> PhaseOrder:
    """Return an order that reads every source once a round."""
    phase = PhasePlan(
        name="bench",
        tag="step",
        seq_len=seq_len,
        budget_tokens=1,
        mean_tokens=1.0,
        steps=steps,
        positions=steps * SEQUENCES,
        batch_stages=(BatchStage(first_step=0, first_position=0, sequences=SEQUENCES),),
        rope_global_theta=1e4,
        rope_local_theta=1e4,
        mask_frac=MASK_FRAC,
        mixture=tuple(MixtureShare(source=name, epochs=1.0) for name in stores),
        lr=LrCurve(curve="constant"),
        objectives=(ObjectiveSpan(first_step=0, objective="mlm"),),
        checkpoint_steps=(),
        held_out_steps=(),
    )
    return PhaseOrder(SEED, phase, stores)


def load_step(
    order: PhaseOrder, step: int, objective: Objective, builder: TargetBuilder, prepared: Prepared, world_size: int
) -> tuple[Batch, int, int]:
    """Make all that rank 0 of `world_size` ranks needs for a step, as `train.loop` and `train.step` do.

    Returns:
        The batch, the divisor, and the targets in the microbatches made.
    """
    batch = read_batch(order, step)
    LedgerRecord.of(batch)
    divisor = targets = 0
    specials = prepared.tokenizer.specials
    for part in parts_of_step(batch, objective, None, SEED):
        chosen = builder.choose(part, batch, MASK_FRAC)
        divisor += chosen.divisor
        lengths = sequence_lengths(batch, part.objective.ends_every_piece)[part.indices]
        for group in microbatches(lengths, world_size, MICROBATCH_TOKENS)[0]:
            rows = assemble(batch, part.indices[group], specials, part.objective.ends_every_piece)
            given: ModelInput = builder.build(part.objective, rows, chosen, "cpu")
            targets += given.target_ids.shape[0]
    return batch, divisor, targets


def plain_gather(order: PhaseOrder, step: int) -> Callable[[], list[np.ndarray]]:
    """Return a gather of a step's tokens from where its sequences lie, source by source."""
    span = order.phase.positions_of(step)
    at = read_addresses(order, np.arange(span.start, span.stop, dtype=np.int64))
    found = []
    for number, store in enumerate(order.stores):
        mine = np.flatnonzero(at.source == number)
        starts, lengths = at.pieces.start[mine], at.pieces.stop[mine] - at.pieces.start[mine]
        found.append((np.asarray(store.tokens), starts, lengths))

    def gather() -> list[np.ndarray]:
        taken = []
        for tokens, starts, lengths in found:
            shift = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
            taken.append(tokens[shift + np.arange(shift.size)])
        return taken

    return gather


def measure(order: PhaseOrder, name: str, builder: TargetBuilder, prepared: Prepared, rounds: int) -> dict[str, object]:
    """Alternate loader and gather over the order's steps, several rounds."""
    objective = OBJECTIVES[name]
    gathers = [plain_gather(order, step) for step in range(order.phase.steps)]
    ours, plain, walls, tokens, sequences = [], [], [], 0, 0
    for number in range(rounds + 1):  # round 0 warms caches and maps
        seconds = dict.fromkeys(("ours", "plain", "wall"), 0.0)
        tokens = sequences = 0
        for step in range(order.phase.steps):
            began, wall = time.process_time(), time.perf_counter()
            batch, divisor, targets = load_step(order, step, objective, builder, prepared, 1)
            seconds["ours"] += time.process_time() - began
            seconds["wall"] += time.perf_counter() - wall
            assert divisor == targets > 0
            began = time.process_time()
            taken = gathers[step]()
            seconds["plain"] += time.process_time() - began
            assert sum(part.size for part in taken) == batch.content.size
            tokens += batch.content.size
            sequences += batch.positions.size
        if number:
            ours.append(tokens / seconds["ours"] / 1e6)
            plain.append(tokens / seconds["plain"] / 1e6)
            walls.append(tokens / seconds["wall"] / 1e6)
    ratios = [mine / theirs for mine, theirs in zip(ours, plain, strict=True)]
    return {"mean_tokens": tokens / sequences, "ours": ours, "plain": plain, "wall": walls, "ratio": ratios}


def with_range(values: list[float], form: str) -> str:
    low, middle, high = (format(value, form) for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def rows_of(prepared: Prepared, builder: TargetBuilder, given: argparse.Namespace) -> list[str]:
    rows = []
    for label, stores in (("all text", prepared.train), ("kjv", {"kjv": prepared.train["kjv"]})):
        for seq_len in (512, 1024):
            order = make_order(stores, seq_len, given.steps)
            for name in ("mlm", "clm"):
                got = measure(order, name, builder, prepared, given.rounds)
                figures = [with_range(got[key], ".1f") for key in ("ours", "wall", "plain")]
                ratio = with_range(got["ratio"], ".2f")
                rows.append(
                    f"| {label} | {seq_len} | {got['mean_tokens']:.0f} | {name} | {' | '.join(figures)} | {ratio} |"
                )
                print(rows[-1], flush=True)
    return rows


def write(rows: list[str], given: argparse.Namespace) -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    about = (
        f"{datetime.date.today()}, commit {commit.stdout.strip()}, {cpu} ({platform.machine()}), one thread, numpy "
        f"{np.__version__}, torch {torch.__version__}, load average {os.getloadavg()[0]:.1f}. Batches of {SEQUENCES:,} "
        f"sequences, microbatches of {MICROBATCH_TOKENS:,}\ntokens, mask rate {MASK_FRAC}, {given.steps} steps; "
        f"medians (range) of {given.rounds} rounds in which loader and gather alternate step by step. Million content\n"
        "tokens a second: by CPU time of the one thread, by the wall clock (the machine is shared), and for a plain "
        "numpy gather of the same tokens\n(CPU time). The ratio is ours by the gather's. mlm is the encoder, clm the "
        "decoder."
    )
    given.out.write_text(
        f"""# The loader on one core

{about}

| text | seq_len | tokens a sequence | objective | loader, CPU | loader, wall | plain gather | ratio |
|---|---|---|---|---|---|---|---|
"""
        + "\n".join(rows)
        + "\n\nWritten by `bench/loader.py`.\n"
    )


def profile(prepared: Prepared, builder: TargetBuilder) -> None:
    """Print where the time goes, for the verses at 512 and the mask objective."""
    order = make_order({"kjv": prepared.train["kjv"]}, 512, 4)
    measured = cProfile.Profile()
    for name in ("mlm", "clm"):
        load_step(order, 0, OBJECTIVES[name], builder, prepared, 1)
        measured.enable()
        for step in range(order.phase.steps):
            load_step(order, step, OBJECTIVES[name], builder, prepared, 1)
        measured.disable()
    pstats.Stats(measured).sort_stats("tottime").print_stats(25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, default=TEXT)
    parser.add_argument("--tokenizer", default=str(MODERNBERT))
    parser.add_argument("--stores", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="Show where the time goes instead.")
    parser.add_argument("--out", type=Path, help="Write the figures to this file.")
    given = parser.parse_args()
    torch.set_num_threads(1)
    prepared = prepare(sources(given.text), TokenizerSpec(path=given.tokenizer), given.stores)
    builder = TargetBuilder(prepared.tokenizer, SEED)
    if given.profile:
        profile(prepared, builder)
        return
    rows = rows_of(prepared, builder, given)
    if given.out:
        write(rows, given)


if __name__ == "__main__":
    main()
