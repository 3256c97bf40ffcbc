"""Training steps with their work made in time and made ahead on a thread, side by side on this machine.

Blocks of steps of one run alternate between the two; a block's first step is left out, since it fills the queue.

    python bench/prefetch.py --size 1m --seq-len 512
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

RESULTS = Path(__file__).parent / "results" / "prefetch.json"


def block(run: Run, ahead: int, first: int, steps: int) -> list[float]:
    """Run some steps with this many made ahead; return their seconds but for the first step's."""
    runtime = run.plan.runtime.model_copy(update={"prefetch_batches": ahead})
    run.plan = run.plan.model_copy(update={"runtime": runtime})
    phase, took = run.plan.phases[0], []
    with contextlib.closing(StepFeed(run, ((phase, step) for step in range(first, first + steps)))) as feed:
        for _ in range(steps):
            started = time.perf_counter()
            step_gradients(run, phase, feed.take())
            run.optimizer.step().read()
            run.optimizer.zero_grad(set_to_none=True)
            took.append(time.perf_counter() - started)
    return took[1:]


def compare(size: str, member: str, seq_len: int, rounds: int, steps: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="seqpair-prefetch-") as folder:
        vocab = 4096 if size in ("test", "1m", "4m") else 50_368
        plan, prepared = synthetic_study(
            Path(folder), size, member, vocab_size=vocab, seq_len=seq_len, batch_tokens=8192, precision="fp32",
            overrides=[],
        )  # fmt: skip
        run = assemble_run(plan, prepared, World(0, 1, 0, torch.device("cpu"), None))
        block(run, 0, 0, 2)
        ratios = []
        for number in range(rounds):
            medians = [statistics.median(block(run, ahead, number * steps, steps)) for ahead in (0, 2)]
            ratios.append(medians[0] / medians[1])
    return {
        "size": size,
        "member": member,
        "seq_len": seq_len,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "ratio": round(statistics.median(ratios), 3),
        "lowest": round(min(ratios), 3),
        "highest": round(max(ratios), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1m")
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    rows = []
    for threads in (1, os.cpu_count() or 1):
        torch.set_num_threads(threads)
        for member in ("encoder", "decoder"):
            rows.append(compare(args.size, member, args.seq_len, args.rounds, args.steps))
            print(rows[-1])
    about = {
        "date": str(datetime.date.today()),
        "commit": commit.stdout.strip(),
        "machine": processor_name(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "ratio": "step time made in time by step time with 2 steps made ahead; above 1, ahead is faster",
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
