"""Training under torchrun on two ranks reads the same sequences and learns the same as on one."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

KILLED_RANK = str(Path(__file__).with_name("killed_rank.py"))
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
PATIENCE_SECONDS = 1800
"""Far more than a run takes on a quiet machine."""
COMMON = ["--member", "decoder", "--set", "model.attn_out_dropout=0.0", "--set", "runtime.microbatch_tokens=300"]


def train(recipe: Path, runs: Path, launcher: list[str], optimizer: str, *more: str) -> Path:
    command = [*launcher, "-m", "seqpair", "train", str(recipe), *COMMON, "--set", f"runs={runs}"]
    command += ["--set", f"optimizer.name={optimizer}", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return runs / "tiny" / "decoder"


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["stableadamw", "muon"])
def test_two_ranks_learn_what_one_learns_from_the_same_sequences(prepared_study, tmp_path, optimizer):
    one = train(prepared_study.recipe, tmp_path / "one", [sys.executable], optimizer)
    two = train(prepared_study.recipe, tmp_path / "two", TORCHRUN, optimizer)
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


SHORT = ["--set", "budget=12k"]
SAVES = ["--set", "checkpoints.every_tokens=400"]
FIRST_CALL_AND_STEP = {"backward": (2, 1), "all_reduce": (6, 2), "save": (1, 1)}
"""Of 11 steps, each with two backward passes on a rank, two sums and a save."""


@pytest.fixture(scope="module")
def whole(prepared_study, tmp_path_factory):
    """The ledger of a run without a kill."""
    runs = tmp_path_factory.mktemp("whole")
    return (train(prepared_study.recipe, runs, TORCHRUN, "stableadamw", *SHORT) / "ledger.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("place", list(FIRST_CALL_AND_STEP))
def test_torchrun_restarts_a_killed_rank_and_the_ledger_is_that_of_a_run_without_a_kill(
    prepared_study, tmp_path, whole, place, number
):
    first, between = FIRST_CALL_AND_STEP[place]
    words = ["SIGKILL", place, str(first + number * between), "train", str(prepared_study.recipe), *COMMON, *SHORT]
    command = [*TORCHRUN, "--max-restarts", "3", KILLED_RANK, *words, *SAVES, "--set", f"runs={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert "signal sent" in done.stderr
    assert (tmp_path / "tiny" / "decoder" / "ledger.jsonl").read_bytes() == whole


@pytest.mark.slow
def test_a_rank_that_is_stopped_in_a_step_is_named_ten_seconds_after_the_timeout_at_the_latest(
    prepared_study, tmp_path
):
    command = [*TORCHRUN, KILLED_RANK, "SIGSTOP", "backward", "7", "train", str(prepared_study.recipe), *COMMON]
    command += ["--set", f"runs={tmp_path}", "--set", "runtime.timeout_seconds=10"]
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


def ip(*words: str) -> int:
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode


@pytest.fixture
def two_hosts():
    """Two network namespaces and their addresses; the cable between them has an end of the same name in each."""
    one, two = (f"{letter}{os.getpid()}" for letter in "ab")
    if shutil.which("ip") is None or ip("netns", "add", one):
        pytest.skip("network namespaces need `ip` and the rights to make them")
    hosts = {one: "10.99.0.1", two: "10.99.0.2"}
    try:
        assert not ip("netns", "add", two)
        assert not ip("link", "add", one, "netns", one, "type", "veth", "peer", "name", two, "netns", two)
        for name, address in hosts.items():
            assert not ip("-n", name, "addr", "add", f"{address}/24", "dev", name)
            for device in (name, "lo"):
                assert not ip("-n", name, "link", "set", device, "up")
        yield hosts
    finally:
        for name in hosts:
            ip("netns", "del", name)


@pytest.mark.slow
def test_two_hosts_that_are_cut_apart_in_a_step_say_so_within_a_minute_and_finish_once_joined(
    prepared_study, tmp_path, two_hosts, whole
):
    words = ["train", str(prepared_study.recipe), *COMMON, *SHORT, "--set", f"runs={tmp_path}"]
    words += ["--set", "runtime.timeout_seconds=10"]
    ledger, agents, files = tmp_path / "tiny" / "decoder" / "ledger.jsonl", [], []
    first = next(iter(two_hosts))
    for name, address in two_hosts.items():
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{two_hosts[first]}:29500", "--local-addr", address]
        # torchrun knows its own addresses by the machine's name, which both hosts share here.
        meeting += ["--rdzv-conf", f"is_host={int(name == first)}", "--nnodes", "2", "--nproc-per-node", "1"]
        command = ["ip", "netns", "exec", name, *TORCHRUN[:3], *meeting, "--max-restarts", "3", "-m", "seqpair", *words]
        files.append((tmp_path / name).open("w"))
        environment = os.environ | {"GLOO_SOCKET_IFNAME": name}
        agents.append(subprocess.Popen(command, stdout=files[-1], stderr=subprocess.STDOUT, env=environment))

    def said() -> list[str]:
        return [(tmp_path / name).read_text() for name in two_hosts]

    def wait(done, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, said()
            time.sleep(0.05)

    try:
        wait(lambda: ledger.exists() and ledger.read_bytes().count(b"\n") >= 5, PATIENCE_SECONDS)
        ip("-n", first, "link", "set", first, "down")
        wait(lambda: all("waited in vain for" in text for text in said()), 60)
        ip("-n", first, "link", "set", first, "up")
        wait(lambda: all(agent.poll() is not None for agent in agents), PATIENCE_SECONDS)
    finally:
        for agent, file in zip(agents, files, strict=True):
            agent.kill()
            agent.wait()
            file.close()
    assert [agent.returncode for agent in agents] == [0, 0], said()
    assert "rank 1 (host" in said()[0]
    assert "is dead, stopped or cut off, last heard of in step" in said()[0]
    assert "the store of rank 0's machine, where they tell it, is lost too" in said()[1]
    assert ledger.read_bytes() == whole
