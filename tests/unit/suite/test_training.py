"""Several runs at once: the same bits, a start before what starts from it, and an end of all with their parent."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import threading
import time

import pytest
from tiny import write_tiny_study

from seqpair.checkpoint.catalog import latest_valid
from seqpair.errors import NotFiniteError, SeqpairError, TrainingError
from seqpair.suite import training as training_module
from seqpair.suite.places import find_study
from seqpair.suite.starts import start_finder
from seqpair.suite.study import prepare_part
from seqpair.suite.training import train_runs

CROSSED = """\
extends: tiny.yaml
phases:
  pretrain: {budget_tokens: 3k, lr: {warmup_tokens: 1k, decay_tokens: 1k}}
  cross:
    name: cross
    tag: cross
    seq_len: 96
    budget_tokens: 2k
    mixture: {notes: {share: 1.0}}
    batch: {sequences: 16}
    lr: {curve: constant}
members:
  decoder: {phases: [pretrain]}
  encoder: {phases: [pretrain]}
  encoder-from-decoder: {from: decoder, objective: mntp, phases: [cross]}
"""
BUDGET = "phases.pretrain.budget_tokens=3M"
PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe of two members and one that starts from the second; its data is prepared."""
    study = write_tiny_study(tmp_path_factory.mktemp("at-once"))
    path = study.folder / "crossed.yaml"
    path.write_text(CROSSED)
    prepare_part(find_study(str(path)).data)
    return path


def train(recipe, runs, workers, *overrides, members=()):
    """Train a study's members; return the order in which they began, and how each ended."""
    study = find_study(str(recipe), [f"runs={runs}", *overrides])
    prepared = study.open_data()
    by_member = study.plans(study.training_order(members))
    began: list[str] = []
    trained = train_runs(
        list(by_member.values()),
        study.data,
        prepared,
        start_finder(prepared),
        workers=workers,
        announce=lambda plan: began.append(plan.member),
    )
    return began, {plan.member: result for plan, result in trained}


def weights(runs):
    return {
        path.parent.parent.parent.name + path.parent.name: path.read_bytes() for path in runs.rglob("model.safetensors")
    }


def test_runs_trained_at_once_have_the_bits_of_runs_trained_in_turn(recipe, tmp_path):
    began, ended = train(recipe, tmp_path / "at-once", 2)
    assert sorted(began[:2]) == ["decoder", "encoder"]
    assert began[2] == "encoder-from-decoder"
    assert all(outcome.finished for outcome in ended.values())
    train(recipe, tmp_path / "in-turn", 1)
    assert weights(tmp_path / "at-once") == weights(tmp_path / "in-turn") != {}


def test_what_starts_from_a_diverged_run_ends_with_its_error(recipe, tmp_path, monkeypatch):
    def diverge(plan, prepared, find_start):
        raise NotFiniteError(f"the loss of {plan.member} is not finite")

    monkeypatch.setattr(training_module, "train_part", diverge)
    _, ended = train(recipe, tmp_path, 1)
    assert str(ended["encoder-from-decoder"]) == "the loss of decoder is not finite"


@pytest.mark.slow
def test_an_error_of_one_run_stops_the_other_and_is_raised(recipe, tmp_path):
    (tmp_path / "tiny" / "decoder").mkdir(parents=True)
    (tmp_path / "tiny" / "decoder" / "plan.json").write_text("{}")
    with pytest.raises(SeqpairError, match=r"plan\.json"):
        train(recipe, tmp_path, 2, BUDGET, members=("encoder", "decoder"))
    run = tmp_path / "tiny" / "encoder"
    assert latest_valid(run) is not None or not run.exists()


def test_several_runs_at_once_are_refused_under_torchrun(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SeqpairError, match="cannot train at once under it"):
        train(recipe, tmp_path, 2)


@pytest.fixture
def running(recipe, tmp_path):
    """A command that trains two members at once, both past their first checkpoint."""
    words = ["run", str(recipe), "--members", "encoder,decoder", "--workers", "2", "--set", f"runs={tmp_path}"]
    words += ["--set", BUDGET, "--set", "checkpoints.every_tokens=6k"]
    command = subprocess.Popen([sys.executable, "-m", "seqpair", *words], stderr=subprocess.PIPE, text=True)
    runs = [tmp_path / "tiny" / member for member in ("encoder", "decoder")]
    end = time.monotonic() + PATIENCE_SECONDS
    while not all((run / "checkpoints").exists() for run in runs):
        assert command.poll() is None, command.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.1)
    yield command, runs
    command.kill()
    command.communicate()


@pytest.mark.slow
def test_a_signal_to_the_command_saves_both_runs(running):
    command, runs = running
    command.send_signal(signal.SIGTERM)
    _, text = command.communicate(timeout=PATIENCE_SECONDS)
    assert command.returncode == 128 + signal.SIGTERM
    assert text.count("saving after this step") == 3
    assert "Traceback" not in text
    assert all(
        latest_valid(run).manifest.total_steps == (run / "ledger.jsonl").read_bytes().count(b"\n") for run in runs
    )


@pytest.mark.slow
def test_runs_whose_command_was_killed_stop_at_a_checkpoint(running):
    command, runs = running
    command.kill()
    command.wait()
    end = time.monotonic() + PATIENCE_SECONDS
    while (sizes := [(run / "ledger.jsonl").stat().st_size for run in runs]) is not None:
        time.sleep(3)
        if sizes == [(run / "ledger.jsonl").stat().st_size for run in runs]:
            break
        assert time.monotonic() < end
    assert all(
        latest_valid(run).manifest.total_steps == (run / "ledger.jsonl").read_bytes().count(b"\n") for run in runs
    )


@pytest.mark.slow
def test_a_run_whose_process_dies_is_named(recipe, tmp_path):
    def kill() -> None:
        while not (tmp_path / "tiny" / "encoder" / "ledger.jsonl").exists():
            time.sleep(0.1)
        for process in multiprocessing.active_children():
            process.kill()

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(TrainingError, match=r"(?s)encoder ended before its last step.*exit code -9"):
        train(recipe, tmp_path, 2, BUDGET, members=["encoder"])
