"""What `runtime` leaves to choose, side by side on this machine: steps made ahead on a thread, and a compiled model.

Blocks of steps of two runs alternate; a block's first step is left out, since it fills the queue. Each ratio is
the plain step's median time by the other's: above 1 the choice pays.

    python bench/runtime_choices.py --size 1m --seq-len 512
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch

from seqpair.distributed.hardware import processor_name
from seqpair.distributed.world import World
from seqpair.train.assembly import Run, assemble_run
from seqpair.train.feed import StepFeed
from seqpair.train.loop import step_gradients
from seqpair.train.synthetic import synthetic_study

RESULTS = Path(__file__).parent / "results" / "runtime_choices.json"
CHOICES = {"prefetch_batches=2": "runtime.prefetch_batches=2", "compile=on": "runtime.compile=on"}


def block(run: Run, first: int, steps: int) -> list[float]:
    """Run some steps; return their seconds but for the first step's."""
    phase, took = run.plan.phases[0], []
    with contextlib.closing(StepFeed(run, ((phase, step) for step in range(first, first + steps)))) as feed:
        for _ in range(steps):
            started = time.perf_counter()
            step_gradients(run, phase, feed.take())
            run.optimizer.step().read()
            run.optimizer.zero_grad(set_to_none=True)
            took.append(time.perf_counter() - started)
    return took[1:]


def make_run(folder: Path, size: str, member: str, seq_len: int, override: str) -> Run:
    folder.mkdir()
    plan, prepared = synthetic_study(
        folder,
        size,
        member,
        vocab_size=4096 if size in ("test", "1m", "4m") else 50_368,
        seq_len=seq_len,
        batch_tokens=8192,
        precision="fp32",
        overrides=[override],
    )
    return assemble_run(plan, prepared, World(0, 1, 0, torch.device("cpu"), None))


def compare(choice: str, size: str, member: str, seq_len: int, rounds: int, steps: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="seqpair-choices-") as folder:
        overrides = ("runtime.prefetch_batches=0", CHOICES[choice])
        runs = [make_run(Path(folder) / str(i), size, member, seq_len, text) for i, text in enumerate(overrides)]
        started = time.perf_counter()
        for run in runs:
            block(run, 0, 2)
        warm_up_seconds = time.perf_counter() - started
        ratios = []
        for number in range(rounds):
            plain, chosen = (statistics.median(block(run, number * steps, steps)) for run in runs)
            ratios.append(plain / chosen)
    return {
        "choice": choice,
        "size": size,
        "member": member,
        "seq_len": seq_len,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "warm_up_seconds": round(warm_up_seconds, 1),
        "ratio": round(statistics.median(ratios), 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1m")
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--choices", nargs="+", choices=list(CHOICES), default=list(CHOICES))
    parser.add_argument("--members", nargs="+", default=["encoder", "decoder"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    rows = []
    for choice in args.choices:
        for member in args.members:
            rows.append(compare(choice, args.size, member, args.seq_len, args.rounds, args.steps))
            print(rows[-1], flush=True)
            about = {
                "date": str(datetime.date.today()),
                "commit": commit.stdout.strip(),
                "machine": processor_name(),
                "cores": os.cpu_count(),
                "torch": torch.__version__,
                "rows": rows,
            }
            RESULTS.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
