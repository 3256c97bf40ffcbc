"""Training under torchrun on two ranks reads the same sequences and learns the same as on one."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

COMMON = ["--member", "decoder", "--set", "model.attn_out_dropout=0.0", "--set", "runtime.microbatch_tokens=300"]


def train(recipe: Path, runs: Path, launcher: list[str], optimizer: str) -> Path:
    command = [*launcher, "-m", "seqpair", "train", str(recipe), *COMMON, "--set", f"runs={runs}"]
    command += ["--set", f"optimizer.name={optimizer}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    return runs / "tiny" / "decoder"


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["stableadamw", "muon"])
def test_two_ranks_learn_what_one_learns_from_the_same_sequences(prepared_study, tmp_path, optimizer):
    one = train(prepared_study.recipe, tmp_path / "one", [sys.executable], optimizer)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two = train(prepared_study.recipe, tmp_path / "two", torchrun, optimizer)
    assert (one / "ledger.jsonl").read_bytes() == (two / "ledger.jsonl").read_bytes()
    rows = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if '"train"' in line]
        for run in (one, two)
    ]
    for single, double in zip(*rows, strict=True):
        assert double["loss"] == pytest.approx(single["loss"], rel=1e-4)
    names = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (one, two)]
    assert names[0] == names[1]
    last = max(names[0], key=lambda name: int(name.removeprefix("step")))
    first_weights, second_weights = (load_file(run / "checkpoints" / last / "model.safetensors") for run in (one, two))
    for name, weight in first_weights.items():
        if optimizer == "muon":  # it lifts small singular values and computes in bfloat16, so float error grows
            assert np.linalg.norm(second_weights[name] - weight) < 0.05 * max(1e-3, np.linalg.norm(weight)), name
        else:
            assert second_weights[name] == pytest.approx(weight, rel=1e-2, abs=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize("place", ["backward", "all_reduce", "save"])
def test_torchrun_restarts_a_killed_rank_and_the_ledger_is_that_of_a_run_without_a_kill(
    prepared_study, tmp_path, place
):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["train", str(prepared_study.recipe), *COMMON, "--set", "checkpoints.every_tokens=2k"]
    whole = subprocess.run(
        [*torchrun, "-m", "seqpair", *arguments, "--set", f"runs={tmp_path / 'whole'}"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert whole.returncode == 0, whole.stderr
    program = str(Path(__file__).with_name("killed_rank.py"))
    killed = subprocess.run(
        [
            *torchrun,
            "--max-restarts",
            "3",
            program,
            "SIGKILL",
            place,
            *arguments,
            "--set",
            f"runs={tmp_path / 'killed'}",
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert killed.returncode == 0, killed.stderr
    assert "exitcode" in killed.stderr or "Signal" in killed.stderr or "restart" in killed.stderr.lower()
    first, second = (tmp_path / name / "tiny" / "decoder" / "ledger.jsonl" for name in ("whole", "killed"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_a_rank_that_is_stopped_in_a_step_is_named_ten_seconds_after_the_timeout_at_the_latest(
    prepared_study, tmp_path
):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(Path(__file__).with_name("killed_rank.py")), "SIGSTOP", "backward", "train"]
    command += [str(prepared_study.recipe), *COMMON, "--set", f"runs={tmp_path}", "--set", "runtime.timeout_seconds=10"]
    lines, seconds = [], {}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        for line in running.stderr:
            lines.append(line)
            named = re.search(r"rank 1 \(host .*, process (\d+)\)", line)
            if named or "signal sent" in line:
                seconds["named" if named else "sent"] = time.monotonic()
            if named:  # torchrun would wait half a minute for it
                os.kill(int(named[1]), signal.SIGKILL)
    text = "".join(lines)
    assert running.returncode == 1, text
    assert "waited in vain for the gradients" in text, text
    assert re.search(r"is dead, stopped or cut off, last heard of in step \d+, the gradients", text), text
    assert seconds["named"] - seconds["sent"] < 10 + 10
