"""Two gloo ranks on this machine: exchanges, gradient averaging, and a rank that fails."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import rank_programs

from seqpair.distributed.world import start_world

WORLD_SIZE = 2
PROGRAMS = Path(__file__).with_name("rank_programs.py")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def run_ranks(*names: str, answering: int = WORLD_SIZE) -> list[dict]:
    """Start two ranks as torchrun does; return what the first `answering` printed, and kill the others then."""
    port = free_port()
    ranks = []
    for rank in range(WORLD_SIZE):
        environment = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(WORLD_SIZE),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, str(PROGRAMS), *names]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        ranks.append(subprocess.Popen(command, env=environment, text=True, **pipes))
    try:
        ready = [rank.stdout.readline() for rank in ranks]
        assert ready == ["ready\n"] * WORLD_SIZE, [rank.stderr.read() for rank in ranks]
        for rank in ranks:
            rank.stdin.write("go\n")
            rank.stdin.flush()
        printed = [rank.communicate(timeout=60) for rank in ranks[:answering]]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()
    values = []
    for rank, (output, errors) in zip(ranks, printed, strict=False):
        assert rank.returncode == 0, errors
        values.append(json.loads(output.splitlines()[-1]))
    return values


@pytest.fixture(scope="module")
def two() -> list[dict]:
    return run_ranks("exchanges", "train")


@pytest.fixture(scope="module")
def one() -> dict:
    return {"train": rank_programs.train(start_world("cpu", environment={}), steps=4)}


def test_sums_are_over_both_ranks_and_both_get_them(two: list[dict]) -> None:
    assert [rank["exchanges"]["sums"] for rank in two] == [[3.0, 2.0**53 + 1, 1.0]] * 2


def test_all_get_rank_0_s_value(two: list[dict]) -> None:
    value = {"name": "dec\u00f6der", "list": [1, None, 2.5]}
    assert [rank["exchanges"]["value"] for rank in two] == [value, value]
    assert [rank["exchanges"]["nothing"] for rank in two] == [None, None]
    assert [rank["exchanges"]["main"] for rank in two] == [True, False]
    assert {rank["exchanges"]["backend"] for rank in two} == {"gloo"}


def test_both_ranks_hold_the_same_bits_after_training(two: list[dict]) -> None:
    assert two[0]["train"] == two[1]["train"]


def test_two_ranks_train_as_one_does(two: list[dict], one: dict) -> None:
    assert two[0]["train"]["losses"] == pytest.approx(one["train"]["losses"], rel=1e-6)
    assert one["train"]["losses"][-1] < one["train"]["losses"][0]
    for name, values in one["train"]["parameters"].items():
        seen = two[0]["train"]["parameters"][name]
        flat = [pair for row in zip(values, seen, strict=True) for pair in flattened(*row)]
        assert max(abs(a - b) for a, b in flat) < 1e-6, name


def flattened(a, b):
    return zip(a, b, strict=True) if isinstance(a, list) else [(a, b)]


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("one_rank_dies", "is dead, stopped or cut off, last heard of in step 3, reading the batch"),
        pytest.param("one_rank_stops", "is dead, stopped or cut off, last heard of in step 0", marks=SLOW),
        pytest.param("one_rank_hangs", "is alive but did not come", marks=SLOW),
    ],
)
def test_a_rank_that_is_lost_is_named_in_time(program: str, said: str) -> None:
    first = run_ranks(program, answering=1)[0][program]
    assert "rank 0 of 2 waited in vain for a sum over all ranks" in first["error"]
    assert "rank 1 (host" in first["error"]
    assert said in first["error"]
    assert first["seconds"] < 4 + 10  # the programs' timeout, and ten seconds to find out and say who it is
