"""Invariant 4: a run killed at any instant and resumed ends with the bits of the run that was never killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny import write_tiny_study

from seqpair.data.prepare.preparation import prepare
from seqpair.recipe.load import load_recipe

MEMBERS = ["members.diffusion={objective: diffusion}", "members.prefix={objective: prefix}"]
TIMED = ("tokens_per_second", "seconds")


def start_training(recipe: Path, runs: Path, member: str, *overrides: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "seqpair", "train", str(recipe), "--member", member]
    command += [word for override in (f"runs={runs}", *overrides) for word in ("--set", override)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> int:
    _, complaint = process.communicate(timeout=120)
    assert process.returncode in (0, 128 + signal.SIGTERM), complaint.decode()
    return process.returncode


def steps_in_ledger(folder: Path) -> int:
    ledger = folder / "ledger.jsonl"
    return ledger.read_bytes().count(b"\n") if ledger.exists() else 0


def wait_for_steps(process: subprocess.Popen[bytes], folder: Path, steps: int) -> None:
    while process.poll() is None and steps_in_ledger(folder) < steps:
        time.sleep(0.002)


def final_bits(folder: Path) -> dict[str, bytes]:
    """The last checkpoint's tensors, the ledger, and the metrics without their timings."""
    checkpoints = folder / "checkpoints"
    last = max(checkpoints.iterdir(), key=lambda path: int(path.name.removeprefix("step")))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timeless = [{key: value for key, value in row.items() if key not in TIMED} for row in rows]
    return {
        "name": last.name.encode(),
        "model": (last / "model.safetensors").read_bytes(),
        "optimizer": (last / "optimizer.safetensors").read_bytes(),
        "ledger": (folder / "ledger.jsonl").read_bytes(),
        "metrics": json.dumps(timeless).encode(),
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, request):
    """The tiny study, prepared, and both members trained in one go."""
    study = write_tiny_study(tmp_path_factory.mktemp("resume"))
    recipe = load_recipe(str(study.recipe))
    prepare(recipe.data.sources, recipe.data.tokenizer, Path(recipe.data.stores))
    bits = {}
    for member in ("encoder", "decoder", "diffusion", "prefix"):
        finish(start_training(study.recipe, study.folder / "whole", member, *MEMBERS))
        bits[member] = final_bits(study.folder / "whole" / "tiny" / member)
    return study, bits


@pytest.mark.parametrize(
    ("member", "kills"), [("encoder", 2), pytest.param("diffusion", 5, marks=pytest.mark.slow), ("prefix", 1)]
)
def test_resume_is_exact_after_kill_9_at_random_steps(uninterrupted, member, kills):
    study, bits = uninterrupted
    runs = study.folder / "killed"
    folder = runs / "tiny" / member
    total = bits[member]["ledger"].count(b"\n")
    kill_at = sorted(random.Random(11).sample(range(2, total), kills))
    for steps in kill_at:
        process = start_training(study.recipe, runs, member, *MEMBERS)
        wait_for_steps(process, folder, steps)
        process.kill()
        process.communicate()
    finish(start_training(study.recipe, runs, member, *MEMBERS))
    assert final_bits(folder) == bits[member]


def test_resume_is_exact_after_sigterm_and_sigterm_saves(uninterrupted):
    """Here with steps made ahead: those that were not trained when the signal came do not count."""
    study, bits = uninterrupted
    ahead = "runtime.prefetch_batches=3"
    runs = study.folder / "stopped"
    folder = runs / "tiny" / "decoder"
    process = start_training(study.recipe, runs, "decoder", *MEMBERS, ahead)
    wait_for_steps(process, folder, 3)
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process) == 128 + signal.SIGTERM
    saved_at = steps_in_ledger(folder)
    assert (folder / "checkpoints" / f"step{saved_at}").is_dir()
    finish(start_training(study.recipe, runs, "decoder", *MEMBERS, ahead))
    assert final_bits(folder) == bits["decoder"]
