"""Signals that stop a run, checkpoints that are written meanwhile, and a ledger that an earlier version began."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from seqpair.data.order.batches import read_batch
from seqpair.data.order.ledger import Ledger, LedgerRecord
from seqpair.data.order.order import PhaseOrder
from seqpair.data.order.proof import prove_ledger
from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.counts import plan_member
from seqpair.distributed.world import start_world
from seqpair.errors import DiskFullError
from seqpair.paths import LEDGER_FILE, run_folder
from seqpair.recipe.load import load_recipe
from seqpair.train import loop
from seqpair.train.loop import StopRequest, train_member

KILLED_IN_SAVES = """
import os, random, shutil, signal, sys, time
from pathlib import Path
from seqpair.checkpoint import store
from seqpair.checkpoint.catalog import latest_valid
from seqpair.checkpoint.store import load_checkpoint
from seqpair.cli.app import main

run, kills = Path(sys.argv.pop(1)), int(sys.argv.pop(1))
write, chance = store._write_tensors, random.Random(5)
store._write_tensors = lambda *given: (time.sleep(0.05), write(*given), time.sleep(0.05))
in_a_save = 0
while kills:
    child = os.fork()
    if not child:
        main()
    saves, seen = chance.randint(1, 3), set()
    while len(seen) < saves and os.waitpid(child, os.WNOHANG) == (0, 0):
        seen |= set(run.glob("checkpoints/.partial-*"))
        time.sleep(0.002)
    if len(seen) < saves:  # it came to its end
        shutil.rmtree(run)
        continue
    time.sleep(chance.uniform(0, 0.25))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    kills -= 1
    in_a_save += any(run.glob("checkpoints/.partial-*"))
    found = latest_valid(run)
    if found is not None:
        assert load_checkpoint(found.path).state["place"]["total_step"] == found.manifest.total_steps
print(f"killed in a save: {in_a_save}", flush=True)
main()
"""


@pytest.mark.slow
def test_a_run_killed_in_twenty_saves_has_a_whole_checkpoint_each_time_and_ends_as_without(prepared_study, tmp_path):
    def train(kills):
        run = tmp_path / str(kills) / "tiny" / "decoder"
        words = ["train", str(prepared_study.recipe), "--member", "decoder", "--set", f"runs={run.parent.parent}"]
        words += ["--set", "budget=8k", "--set", "checkpoints.every_tokens=300"]
        command = [sys.executable, "-c", KILLED_IN_SAVES, str(run), str(kills), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=False)
        assert done.returncode == 0, done.stderr
        last = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name.removeprefix("step")))
        files = [last / name for name in ("model.safetensors", "optimizer.safetensors")]
        killed = re.search(r"killed in a save: (\d+)", done.stdout)
        assert killed is not None, done.stdout
        return int(killed[1]), [path.read_bytes() for path in (*files, run / "ledger.jsonl")]

    in_a_save, bits = train(20)
    assert in_a_save >= 10
    assert bits == train(0)[1]


MACHINE = """
import fcntl, socket, sys, time
from seqpair.cli.app import main
from seqpair.train import loop
name, gradients = sys.argv.pop(1), loop.step_gradients
socket.gethostname = lambda: name
fcntl.flock = lambda *_: None
if name == "first":
    loop.step_gradients = lambda *given: (time.sleep(5), gradients(*given))[1]
main()
"""


@pytest.mark.slow
def test_a_second_machine_without_common_locks_is_refused_and_goes_on_once_the_first_is_dead(prepared_study, tmp_path):
    ledger = tmp_path / "shared" / "tiny" / "decoder" / "ledger.jsonl"

    def train(machine, runs):
        words = ["train", str(prepared_study.recipe), "--member", "decoder", "--set", f"runs={tmp_path / runs}"]
        words += ["--set", "budget=8k", "--set", "checkpoints.every_tokens=400"]
        command = [sys.executable, "-c", MACHINE, machine, *words]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    first = train("first", "shared")
    while not (ledger.exists() and ledger.read_bytes().count(b"\n") > 1):
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.1)
    refused = train("second", "shared")
    text = refused.communicate()[1]
    assert refused.returncode == 4, text
    assert f"seen: pid {first.pid} on first, sign of life" in text
    assert first.poll() is None
    first.kill()
    first.communicate()
    for machine, runs in (("second", "shared"), ("third", "alone")):
        done = train(machine, runs)
        text = done.communicate()[1]
        assert done.returncode == 0, text
        assert ("the holder of the run is alive: pid" in text) == (machine == "second")
    assert ledger.read_bytes() == (tmp_path / "alone" / "tiny" / "decoder" / "ledger.jsonl").read_bytes()


def test_steps_run_while_a_checkpoint_is_written_and_its_failure_ends_the_run(prepared_study, tmp_path, monkeypatch):
    recipe = load_recipe(str(prepared_study.recipe), [f"runs={tmp_path}", "budget=2k"])
    plan, prepared = plan_member(recipe, "decoder"), open_recipe_data(recipe)
    steps, folder = [], run_folder(plan)

    def fail(*_, **__):
        for _ in range(500):
            steps.append(sum(1 for _ in Ledger(folder / LEDGER_FILE).records()))
            if steps[-1] > steps[0]:
                break
            time.sleep(0.01)
        raise DiskFullError("the disk is full", seen="0 bytes", fix="free some space")

    monkeypatch.setattr(loop, "save_checkpoint", fail)
    with start_world("cpu") as world, pytest.raises(DiskFullError):
        train_member(plan, prepared, world)
    assert steps[-1] > steps[0]
    assert not list((folder / "checkpoints").glob("step*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_asks(number, capsys):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.signal_number is None
        os.kill(os.getpid(), number)
        assert stop.signal_number == number
    assert signal.getsignal(number) is before
    assert "saving after this step" in capsys.readouterr().err


def test_a_second_ctrl_c_interrupts():
    with StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_run_that_was_begun_with_the_first_format_of_ledgers_goes_on_in_it(prepared_study, tmp_path):
    recipe = load_recipe(str(prepared_study.recipe), [f"runs={tmp_path}", "budget=2k"])
    plan, prepared = plan_member(recipe, "decoder"), open_recipe_data(recipe)

    def train():
        with start_world("cpu") as world:
            assert train_member(plan, prepared, world).finished

    train()
    ledger = Ledger(run_folder(plan) / LEDGER_FILE)
    order, steps = PhaseOrder(plan.seed, plan.phases[0], prepared.train), plan.phases[0].steps
    ledger.path.unlink()
    for step in range(steps):
        ledger.append(LedgerRecord.of(read_batch(order, step), format=1))
    ledger.close()
    begun = ledger.path.read_bytes()
    shutil.rmtree(run_folder(plan) / "checkpoints" / f"step{steps}")
    train()
    assert ledger.path.read_bytes() == begun
    assert prove_ledger(plan, ledger, prepared.train).steps == steps
