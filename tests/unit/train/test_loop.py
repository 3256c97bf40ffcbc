"""Signals that ask a run to stop, and a ledger that an earlier version began."""

from __future__ import annotations

import os
import shutil
import signal

import pytest

from seqpair.data.order.batches import read_batch
from seqpair.data.order.ledger import Ledger, LedgerRecord
from seqpair.data.order.order import PhaseOrder
from seqpair.data.order.proof import prove_ledger
from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.counts import plan_member
from seqpair.distributed.world import start_world
from seqpair.paths import LEDGER_FILE, run_folder
from seqpair.recipe.load import load_recipe
from seqpair.train.loop import StopRequest, train_member


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
