"""Starts the ranks of a training command by hand, as torchrun would on one or several machines, and reads their run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

EXACT = ["--set", "model.attn_out_dropout=0.0", "--set", "runtime.microbatch_tokens=300"]
RAMP = ["--set", "phases.0.batch={sequences: 8, ramp: {from_sequences: 2, over_tokens: 8k}}"]
"""The first steps have two sequences, so with four ranks some have a sequence without targets only."""
PROGRAM = "from seqpair.cli.app import main; main()"


def train(recipe: Path, runs: Path, world_size: int, *more: str, machines: int = 1, program: str = PROGRAM) -> Path:
    """Train a member of the tiny study on some ranks; return the run's folder."""
    member = more[more.index("--member") + 1] if "--member" in more else "decoder"
    member_words = () if "--member" in more else ("--member", member)
    words = ["train", str(recipe), *member_words, *EXACT, *more, "--set", f"runs={runs}"]
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    here = world_size // machines
    ranks = []
    for rank in range(world_size):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        if world_size > 1:
            places = {"RANK": rank, "LOCAL_RANK": rank % here, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": here}
            environment |= {name: str(value) for name, value in places.items()}
        command = [sys.executable, "-c", program, *words]
        ranks.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    try:
        said = [rank.communicate(timeout=3600)[1] for rank in ranks]  # far more than it takes on a quiet machine
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    assert [rank.returncode for rank in ranks] == [0] * world_size, "\n".join(said)[-3000:]
    return runs / "tiny" / member


def rows(run: Path, kind: str = "train") -> list[dict]:
    """The rows of one kind of a run's metrics."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in found if row["kind"] == kind]
