"""Loggers of a real run (TensorBoard itself, the others as modules that are as strict as theirs) over interruptions.

TensorBoard reads its files in the order of their names, so a later process's name must sort later.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.counts import plan_member
from seqpair.distributed.world import start_world
from seqpair.errors import CheckpointError, RecipeError, TrainingError
from seqpair.paths import run_folder
from seqpair.recipe.load import load_recipe
from seqpair.train import loggers
from seqpair.train.assembly import require_ready
from seqpair.train.loggers import (
    LOGGERS_FILE,
    TENSORBOARD_FOLDER,
    LastRows,
    Loggers,
    RunIdentity,
    SentRecord,
    TensorBoardLogger,
    last_rows,
    open_loggers,
    require_loggers,
    row_name,
    values_of,
)
from seqpair.train.loop import train_member
from seqpair.train.metrics import Metrics


def row(step: int, source: str | None = None) -> dict:
    return {"kind": "train", "total_step": step} if source is None else held_out(step, source)


def held_out(step: int, source: str) -> dict:
    return {"kind": "held_out", "total_step": step, "source": source}


def test_the_newest_rows_are_those_of_the_newest_step() -> None:
    rows = [held_out(0, "a"), row(1), row(2), held_out(2, "a")]
    assert last_rows(rows) == LastRows(2, ("train", "held_out/a"))
    assert last_rows([]) == LastRows()


def test_a_step_that_was_cut_short_is_taken_up_in_the_middle() -> None:
    sent = LastRows(2, ("train", "held_out/a"))
    assert [sent.include(one) for one in (row(1), row(2), held_out(2, "a"), held_out(2, "b"), row(3))] == [
        True, True, True, False, False,
    ]  # fmt: skip
    assert not LastRows().include(held_out(0, "a"))


def test_the_id_stays_and_what_was_sent_only_grows(tmp_path) -> None:
    first = SentRecord.read(tmp_path).began(["wandb"], LastRows())
    first.write(tmp_path)
    assert first.rows_sent("wandb") == LastRows()
    second = SentRecord.read(tmp_path).began(["wandb"], LastRows(9, ("train",)))  # killed at step 9
    second.write(tmp_path)
    third = SentRecord.read(tmp_path).began(["wandb"], LastRows(7, ("train",)))  # killed again, before step 9
    assert first.run_id == second.run_id == third.run_id
    assert third.rows_sent("wandb") == LastRows(9, ("train",))
    same = third.began(["wandb"], LastRows(9, ("held_out/a",)))
    assert same.rows_sent("wandb") == LastRows(9, ("train", "held_out/a"))


def test_a_logger_that_was_not_there_got_nothing(tmp_path) -> None:
    plain = SentRecord.read(tmp_path).began([], LastRows())
    added = plain.began(["trackio"], LastRows(5, ("train",)))
    assert added.rows_sent("trackio") == LastRows()
    without = added.began([], LastRows(8, ("train",)))  # trackio got up to 8
    back = without.began(["trackio"], LastRows(20, ("train",)))  # and nothing of what came then
    assert back.rows_sent("trackio") == LastRows(8, ("train",))


def test_two_runs_have_two_ids(tmp_path) -> None:
    assert SentRecord.read(tmp_path).run_id != SentRecord.read(tmp_path).run_id


def test_a_damaged_record_is_said(tmp_path) -> None:
    (tmp_path / LOGGERS_FILE).write_text('{"run_id": ')
    with pytest.raises(CheckpointError, match=r"(?s)loggers.json is damaged.*new id"):
        SentRecord.read(tmp_path)


def logged(folder, process, first_step, steps, monkeypatch):
    """Log a value a step as a process of that number would."""
    monkeypatch.setattr("os.getpid", lambda: process)
    logger = TensorBoardLogger(
        RunIdentity(run_id="r", study="s", member="encoder", folder=folder, first_step=first_step, config={})
    )
    for step in steps:
        logger.log({"train/loss": float(process)}, step)
    logger.close()


def test_a_process_that_follows_within_a_second_sorts_later(tmp_path, monkeypatch):
    time.sleep(1.0 - time.time() % 1.0)  # so that both begin in one second
    logged(tmp_path, 90, -1, range(1, 10), monkeypatch)
    logged(tmp_path, 10, 6, range(7, 12), monkeypatch)
    accumulator = EventAccumulator(str(tmp_path / TENSORBOARD_FOLDER), size_guidance={"scalars": 0})
    accumulator.Reload()
    points = [(event.step, event.value) for event in accumulator.Scalars("train/loss")]
    assert points == [(step, 90.0) for step in range(1, 7)] + [(step, 10.0) for step in range(7, 12)]


class Project:
    """Where a made-up library keeps its runs: what a server would hold after the process died."""

    def __init__(self) -> None:
        self.runs: dict[str, list[tuple[int, dict]]] = {}
        self.inits: list[dict] = []
        self.finished = 0
        self.fails_at = range(0)
        self.calls = 0

    def init(self, **given):
        self.inits.append(given)
        points = self.runs.setdefault(given.get("id") or given["name"], [])
        return types.SimpleNamespace(log=lambda values, step: self.log(points, values, step), finish=self.finish)

    def log(self, points: list, values: dict, step: int) -> None:
        self.calls += 1
        if self.calls - 1 in self.fails_at:
            raise ConnectionError("no route to host")
        assert not points or step >= points[-1][0], "a step that goes back is dropped with a warning"
        assert all(type(value) is float for value in values.values())
        points.append((step, values))

    def finish(self) -> None:
        self.finished += 1


@pytest.fixture(params=["wandb", "trackio"])
def library(request, monkeypatch):
    """A made-up package of that name."""
    project, module = Project(), types.ModuleType(request.param)
    module.__spec__ = importlib.util.spec_from_loader(request.param, loader=None)
    module.init, module.Settings = project.init, dict
    monkeypatch.setitem(sys.modules, request.param, module)
    return request.param, project


def plan_of(study, tmp_path: Path, *names: str):
    overrides = [f"runs={tmp_path}/runs", f"runtime.loggers=[{','.join(names)}]"]
    recipe = load_recipe(str(study.recipe), overrides)
    return plan_member(recipe, "encoder"), open_recipe_data(recipe)


class Killed(BaseException):
    """The process dies here."""


def train(plan, prepared) -> None:
    with start_world("cpu") as world:
        train_member(plan, prepared, world)


def train_until(plan, prepared, monkeypatch, at_step: int, end) -> None:
    """Train; call `end` after the row of a step."""
    whole = Metrics.train

    def train_row(self, place, *rest, **more) -> None:
        whole(self, place, *rest, **more)
        if place.total_step == at_step:
            end()

    with monkeypatch.context() as patch:
        patch.setattr(Metrics, "train", train_row)
        train(plan, prepared)


def train_until_killed(plan, prepared, monkeypatch, at_step: int) -> None:
    """Train; end in the middle of a step, without a goodbye to the loggers."""

    def die() -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Loggers, "close", lambda _: None)
        with pytest.raises(Killed):
            train_until(plan, prepared, monkeypatch, at_step, die)


KILLED_AFTER = """
import os, signal, sys
from seqpair.cli.app import main
from seqpair.train.metrics import Metrics
at_step, whole = int(sys.argv.pop(1)), Metrics.train
def train_row(self, place, *rest, **more):
    whole(self, place, *rest, **more)
    if place.total_step == at_step:
        self._loggers.flush()  # the steps after the checkpoint are in the file
        os.kill(os.getpid(), signal.SIGKILL)
Metrics.train = train_row
main()
"""


def kill_9(study, plan, at_step: int) -> None:
    """Train in another process that dies as `kill -9` makes it die."""
    words = ["train", study.recipe, "--member", plan.member, "--set", f"runs={plan.runs}"]
    words += ["--set", "runtime.loggers=[tensorboard]"]
    command = [sys.executable, "-c", KILLED_AFTER, str(at_step), *map(str, words)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr


def written_rows(plan) -> list[dict]:
    return [json.loads(line) for line in (run_folder(plan) / "metrics.jsonl").read_text().splitlines()]


def expected_points(plan) -> dict[str, list[tuple[int, float]]]:
    """Every value of metrics.jsonl by name, without timings, which differ when a step is run again."""
    points: dict[str, list[tuple[int, float]]] = {}
    for row in written_rows(plan):
        for name, value in values_of(row).items():
            if "second" not in name:
                points.setdefault(name, []).append((row["total_step"], value))
    return points


def points_of(runs: list[tuple[int, dict]]) -> dict[str, list[tuple[int, float]]]:
    points: dict[str, list[tuple[int, float]]] = {}
    for step, values in runs:
        for name, value in values.items():
            if "second" not in name:
                points.setdefault(name, []).append((step, value))
    return points


def read_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    names = [name for name in accumulator.Tags()["scalars"] if "second" not in name]
    return {name: [(event.step, event.value) for event in accumulator.Scalars(name)] for name in names}


def test_names_of_values_and_rows() -> None:
    row = {"kind": "held_out", "phase": "p", "step": 3, "total_step": 9, "tokens": 70, "source": "tales", "loss": 2}
    assert row_name(row) == "held_out/tales"
    assert values_of(row) == {"held_out/tales/tokens": 70.0, "held_out/tales/loss": 2.0}


@pytest.mark.slow
def test_tensorboard_has_every_point_once_after_kills_and_stops(prepared_study, tmp_path, monkeypatch) -> None:
    plan, prepared = plan_of(prepared_study, tmp_path, "tensorboard")
    steps = sum(phase.steps for phase in plan.phases)
    first = plan.phases[0].checkpoint_steps[0]
    kill_9(prepared_study, plan, 2)  # before there is a checkpoint
    kill_9(prepared_study, plan, first + 3)
    train_until(plan, prepared, monkeypatch, first + 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert len(list((run_folder(plan) / "tensorboard").iterdir())) == 3
    train(plan, prepared)
    found, expected = read_events(run_folder(plan) / "tensorboard"), expected_points(plan)
    assert set(found) == set(expected)
    assert [step for step, _ in found["train/loss"]] == list(range(1, steps + 1))
    for name, points in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in points], name
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in points], rel=1e-6)


def test_a_library_that_cannot_forget_gets_no_row_twice(prepared_study, tmp_path, monkeypatch, library) -> None:
    name, project = library
    plan, prepared = plan_of(prepared_study, tmp_path, name)
    first = plan.phases[0].checkpoint_steps[0]
    for killed_at in (2, first + 3, first + 1):
        train_until_killed(plan, prepared, monkeypatch, killed_at)
    train(plan, prepared)
    [points] = project.runs.values()
    assert points_of(points) == expected_points(plan)
    assert len({given.get("id") or given["name"] for given in project.inits}) == 1
    assert all(given["resume"] == "allow" for given in project.inits)
    assert (len(project.inits), project.finished) == (4, 1)


def test_a_logger_that_fails_is_counted_and_training_ends_as_without(prepared_study, tmp_path, library, capsys) -> None:
    name, project = library
    plan, prepared = plan_of(prepared_study, tmp_path, name)
    plain, _ = plan_of(prepared_study, tmp_path / "plain")
    project.fails_at = range(4, 7)
    train(plan, prepared)
    train(plain, prepared)
    said = capsys.readouterr().err
    assert said.count(f"warning: {name} failed (ConnectionError: no route to host)") == 1
    rows = written_rows(plan)
    assert f"warning: {name} missed 3 of {len(rows)} rows (last: ConnectionError: no route to host)" in said
    assert len(rows) == len(written_rows(plain))
    last = f"checkpoints/step{plan.phases[0].steps}/model.safetensors"
    assert (run_folder(plan) / last).read_bytes() == (run_folder(plain) / last).read_bytes()


class Broken:
    """A logger that never works."""

    rewinds = True

    def __init__(self, _=None) -> None:
        self.calls = 0

    def log(self, values, total_step) -> None:
        self.calls += 1
        raise OSError("gone\nand more")

    def flush(self) -> None:
        raise OSError("gone")

    def close(self) -> None:
        raise OSError("gone for good")


def test_one_that_never_works_is_left_alone_and_the_others_go_on(capsys) -> None:
    broken, whole = Broken(), Project()
    points: list = []
    good = types.SimpleNamespace(
        log=lambda values, step: whole.log(points, values, step), flush=lambda: None, close=whole.finish
    )
    both = Loggers(
        [loggers._Followed("bad", broken, loggers.LastRows()), loggers._Followed("good", good, loggers.LastRows())]
    )
    for step in range(1, 51):
        both.send({"kind": "train", "total_step": step, "loss": 1.0})
    both.flush()
    both.close()
    said = capsys.readouterr().err
    assert broken.calls == loggers._FAILURES_IN_A_ROW
    assert len(points) == 50
    assert said.count("\n") == 3
    assert "bad failed 20 times in a row" in said
    assert "bad missed 50 of 50 rows and could not be closed (last: OSError: gone for good)" in said


def test_a_missing_package_is_named_with_its_extra_before_anything_starts(
    prepared_study, tmp_path, monkeypatch
) -> None:
    plan, prepared = plan_of(prepared_study, tmp_path, "trackio", "wandb")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for check in (lambda: require_ready(plan, prepared), lambda: require_loggers(plan.runtime.loggers)):
        with pytest.raises(RecipeError, match=r"(?s)runtime.loggers: trackio, wandb.*seqpair\[trackio,wandb\]"):
            check()
    with start_world("cpu") as world, pytest.raises(RecipeError):
        train_member(plan, prepared, world)
    assert not (run_folder(plan) / "metrics.jsonl").exists()


def test_a_logger_that_cannot_be_opened_stops_before_the_first_step(prepared_study, tmp_path, library) -> None:
    name, _ = library

    def refuse(**given):
        raise RuntimeError("not logged in")

    sys.modules[name].init = refuse
    plan, prepared = plan_of(prepared_study, tmp_path, name)
    with (
        start_world("cpu") as world,
        pytest.raises(TrainingError, match=rf"(?s){name} cannot be opened.*RuntimeError: not logged in"),
    ):
        train_member(plan, prepared, world)
    assert not (run_folder(plan) / "metrics.jsonl").exists()


def test_without_loggers_nothing_is_imported_or_written(prepared_study, tmp_path) -> None:
    plan, _ = plan_of(prepared_study, tmp_path)
    loggers = open_loggers(plan, tmp_path, -1, [])
    loggers.send({"kind": "train", "total_step": 1, "loss": 1.0})
    loggers.close()
    assert not (tmp_path / "loggers.json").exists()


@pytest.mark.parametrize(("given", "message"), [("[tensorbord]", "tensorboard"), ("[wandb,wandb]", "stands twice")])
def test_unknown_and_repeated_names_are_refused(given, message) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("demo", [f"runtime.loggers={given}"])
