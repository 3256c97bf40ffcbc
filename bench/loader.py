"""The loader's speed on one core: from memory-mapped stores to packed microbatches, against a plain numpy gather.

Everything that a training step is given is made, by `train.feed`: the order's addresses, the content and
its digests, the ledger's record, the divisor (the count of predicted tokens over the whole batch), sharing and packing,
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
from types import SimpleNamespace

import numpy as np
import torch
from local_data import MODERNBERT, TEXT

from seqpair.data.order.batches import step_addresses
from seqpair.data.order.order import PhaseOrder
from seqpair.data.prepare.preparation import prepare
from seqpair.data.prepared import Prepared
from seqpair.data.store.store import Store
from seqpair.objectives.targets import TargetBuilder
from seqpair.recipe.data_spec import SourceSpec, TokenizerSpec
from seqpair.recipe.plan import BatchStage, LrCurve, MixtureShare, ObjectiveSpan, PhasePlan
from seqpair.train.feed import work_of_step
from seqpair.train.step import StepWork

SEQUENCES = 4608
MICROBATCH_TOKENS = 8192
MASK_FRAC = 0.3
SEED = 0
RANKS = (1, 8, 64)


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


def rank_of(order: PhaseOrder, name: str, prepared: Prepared, world_size: int) -> SimpleNamespace:
    """Return what the feed looks at of a run: rank 0 of some, the others of which tell it nothing."""
    spans = (ObjectiveSpan(first_step=0, objective=name),)
    runtime = SimpleNamespace(microbatch_tokens=MICROBATCH_TOKENS)
    return SimpleNamespace(
        phase=order.phase.model_copy(update={"objectives": spans}),
        plan=SimpleNamespace(seed=SEED, runtime=runtime),
        world=SimpleNamespace(rank=0, world_size=world_size, all_reduce_integers=lambda values: values),
        orders={order.phase.name: order},
        builder=TargetBuilder(prepared.tokenizer, SEED),
        prepared=prepared,
        has_one_shape=False,
    )


def load_step(rank: SimpleNamespace, step: int) -> tuple[StepWork, int]:
    """Make all that a rank needs for a step, as `train.feed` does; return the work, and the targets it made."""
    work = work_of_step(rank, rank.phase, step)
    return work, sum(given.target_ids.shape[0] for given in work.microbatches)


def plain_gather(order: PhaseOrder, step: int) -> Callable[[], list[np.ndarray]]:
    """Return a gather of a step's tokens from where its sequences lie, source by source."""
    at = step_addresses(order, step)
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


def measure(order: PhaseOrder, name: str, prepared: Prepared, rounds: int) -> dict[str, object]:
    """Alternate loader and gather over the order's steps, several rounds."""
    rank = rank_of(order, name, prepared, 1)
    gathers = [plain_gather(order, step) for step in range(order.phase.steps)]
    ours, plain, walls, tokens, sequences = [], [], [], 0, 0
    for number in range(rounds + 1):  # round 0 warms caches and maps
        seconds = dict.fromkeys(("ours", "plain", "wall"), 0.0)
        tokens = sequences = 0
        for step in range(order.phase.steps):
            began, wall = time.process_time(), time.perf_counter()
            work, targets = load_step(rank, step)
            seconds["ours"] += time.process_time() - began
            seconds["wall"] += time.perf_counter() - wall
            assert work.divisor == targets > 0
            began = time.process_time()
            taken = gathers[step]()
            seconds["plain"] += time.process_time() - began
            assert sum(part.size for part in taken) == work.record.content_tokens
            tokens += work.record.content_tokens
            sequences += work.record.stop_position - work.record.first_position
        if number:
            ours.append(tokens / seconds["ours"] / 1e6)
            plain.append(tokens / seconds["plain"] / 1e6)
            walls.append(tokens / seconds["wall"] / 1e6)
    ratios = [mine / theirs for mine, theirs in zip(ours, plain, strict=True)]
    return {"mean_tokens": tokens / sequences, "ours": ours, "plain": plain, "wall": walls, "ratio": ratios}


def by_ranks(order: PhaseOrder, name: str, prepared: Prepared, rounds: int) -> list[list[float]]:
    """Return, for each of RANKS, the CPU milliseconds that one of so many ranks spends on a step, round by round."""
    ranks = [rank_of(order, name, prepared, count) for count in RANKS]
    found: list[list[float]] = [[] for _ in RANKS]
    for number in range(rounds + 1):
        for rank, seen in zip(ranks, found, strict=True):
            began = time.process_time()
            for step in range(order.phase.steps):
                load_step(rank, step)
            if number:
                seen.append((time.process_time() - began) / order.phase.steps * 1e3)
    return found


def with_range(values: list[float], form: str) -> str:
    low, middle, high = (format(value, form) for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def rows_of(prepared: Prepared, given: argparse.Namespace) -> list[str]:
    rows = []
    for label, stores in (("all text", prepared.train), ("kjv", {"kjv": prepared.train["kjv"]})):
        for seq_len in (512, 1024):
            order = make_order(stores, seq_len, given.steps)
            for name in ("mlm", "clm"):
                got = measure(order, name, prepared, given.rounds)
                figures = [with_range(got[key], ".1f") for key in ("ours", "wall", "plain")]
                ratio = with_range(got["ratio"], ".2f")
                rows.append(
                    f"| {label} | {seq_len} | {got['mean_tokens']:.0f} | {name} | {' | '.join(figures)} | {ratio} |"
                )
                print(rows[-1], flush=True)
    return rows


def rank_rows_of(prepared: Prepared, given: argparse.Namespace) -> list[str]:
    rows = []
    for label, stores in (("all text", prepared.train), ("kjv", {"kjv": prepared.train["kjv"]})):
        order = make_order(stores, 1024, given.steps)
        for name in ("mlm", "clm"):
            found = by_ranks(order, name, prepared, given.rounds)
            rows.append(f"| {label} | {name} | {' | '.join(with_range(values, '.2f') for values in found)} |")
            print(rows[-1], flush=True)
    return rows


def write(rows: list[str], rank_rows: list[str], given: argparse.Namespace) -> None:
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
        + f"""

CPU milliseconds that one rank spends on a step (seq_len 1024), its share of the batch read, digested and corrupted and
the others' sequences located, by the number of ranks:

| text | objective | {" | ".join(f"{count} ranks" for count in RANKS)} |
|---|---|{"---|" * len(RANKS)}
"""
        + "\n".join(rank_rows)
        + "\n\nWritten by `bench/loader.py`.\n"
    )


def profile(prepared: Prepared) -> None:
    """Print where the time goes, for the verses at 512 and the mask objective."""
    order = make_order({"kjv": prepared.train["kjv"]}, 512, 4)
    measured = cProfile.Profile()
    for name in ("mlm", "clm"):
        rank = rank_of(order, name, prepared, 1)
        load_step(rank, 0)
        measured.enable()
        for step in range(order.phase.steps):
            load_step(rank, step)
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
    if given.profile:
        profile(prepared)
        return
    rows, rank_rows = rows_of(prepared, given), rank_rows_of(prepared, given)
    if given.out:
        write(rows, rank_rows, given)


if __name__ == "__main__":
    main()
