"""The training step's CUDA path, checked without a GPU: kernels, devices, waits, graphs, warnings, traffic."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ compiles the stand-in for CUDA's hooks")
STAND_IN = """
import torch
library = torch.library.Library("flash_attn_3", "DEF")
library.define("fwd(Tensor query) -> Tensor")
library.define("bwd(Tensor query) -> Tensor")
"""
"""As much of FlashAttention 3 as torch looks at when it activates it."""
MOST_KILOBYTES_PER_TOKEN = {"encoder": 260, "decoder": 310}


def steps_seen(folder: Path, *paths: Path) -> dict[str, dict]:
    environment = dict(os.environ, SEQPAIR_GUARD_FOLDER=str(folder), OMP_NUM_THREADS="1")
    found = [str(HERE), *map(str, paths), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(found)
    done = subprocess.run(
        [sys.executable, str(HERE / "training_step.py")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def guard_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("guard")


@pytest.fixture(scope="module")
def seen(guard_folder):
    return steps_seen(guard_folder)


@pytest.mark.parametrize("member", ["encoder", "decoder"])
def test_a_step_uses_the_fast_kernel_on_one_device(seen, member):
    assert seen[member]["kernels"] == ["varlen"]
    assert seen[member]["gradient_devices"] == ["cuda:0"]


@pytest.mark.parametrize("member", ["encoder", "decoder"])
def test_a_step_waits_for_the_device_twice_at_most(seen, member):
    """Once for the loss, which ends a run that is not finite; once, with three numbers, for what the update did."""
    assert sum(seen[member]["waits_of_gradients"].values()) == 1
    assert sum(seen[member]["waits_of_update"].values()) == 3


@pytest.mark.parametrize("member", ["encoder", "decoder"])
def test_a_sharded_step_runs_the_same_kernels_and_waits_no_more_often(seen, member):
    """But for the two sums over the ranks, which the pretended group leaves out."""
    sharded = seen[member]["sharded"]
    for name in ("kernels", "gradient_devices"):
        assert sharded[name] == seen[member][name]
    assert sum(sharded["waits_of_gradients"].values()) == 1
    assert sum(sharded["waits_of_update"].values()) == 3


@pytest.mark.parametrize("member", ["encoder", "decoder"])
def test_ragged_steps_compile_to_one_graph_without_a_warning(seen, member):
    assert seen[member].get("error") is None
    assert seen[member]["graphs"] == 1


@pytest.mark.parametrize("member", ["encoder", "decoder"])
def test_the_bytes_of_a_token_stay_within_their_bound(seen, member, record_property):
    moved = seen[member]["kilobytes_per_token"]
    record_property("kilobytes_per_token", moved)
    record_property("loss_share", seen[member]["loss_share"])
    assert 0.8 * MOST_KILOBYTES_PER_TOKEN[member] < moved < MOST_KILOBYTES_PER_TOKEN[member]


@pytest.mark.slow
def test_flash_attention_3_installed_does_not_stop_a_compiled_step(guard_folder, tmp_path):
    package = tmp_path / "flash_attn_interface"
    package.mkdir()
    (package / "__init__.py").write_text(STAND_IN, encoding="utf-8")
    seen = steps_seen(guard_folder, tmp_path)
    assert [part.get("error") for part in seen.values()] == [None, None]
