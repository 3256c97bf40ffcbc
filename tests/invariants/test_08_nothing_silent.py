"""Invariant 8: bad input gives one clear error (what, seen, allowed, next), and nothing is lost."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from seqpair.checkpoint.catalog import latest_valid, list_checkpoints
from seqpair.checkpoint.lock import lock_run
from seqpair.data.prepare.preparation import prepare
from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.counts import plan_member
from seqpair.distributed.world import start_world
from seqpair.errors import (
    CheckpointError,
    DataError,
    DiskFullError,
    RecipeError,
    RunLockedError,
    StoreError,
    TrainingError,
)
from seqpair.paths import run_folder
from seqpair.recipe.load import load_recipe
from seqpair.train.loop import train_member


def prepare_study(study) -> None:
    recipe = load_recipe(str(study.recipe))
    prepare(recipe.data.sources, recipe.data.tokenizer, Path(recipe.data.stores))


def train(study, *overrides: str, member: str = "decoder"):
    recipe = load_recipe(str(study.recipe), overrides)
    prepared, plan = open_recipe_data(recipe), plan_member(recipe, member)
    with start_world("cpu") as world:
        return train_member(plan, prepared, world), run_folder(plan)


def test_an_unknown_key_names_the_nearest_one(tiny_study):
    with pytest.raises(RecipeError, match=r"(?s)weight_decai.*weight_decay"):
        load_recipe(str(tiny_study.recipe), ["optimizer.weight_decai=0.1"])


def test_a_wrong_type_says_what_was_seen_and_what_is_allowed(tiny_study):
    with pytest.raises(RecipeError, match=r"(?s)seq_len.*many"):
        load_recipe(str(tiny_study.recipe), ["phases.0.seq_len=many"])


def test_a_missing_source_file_is_named(tiny_study):
    (tiny_study.folder / "notes.jsonl").unlink()
    with pytest.raises(DataError, match=r"notes\.jsonl"):
        prepare_study(tiny_study)


def test_an_empty_source_is_an_error(tiny_study):
    (tiny_study.folder / "notes.jsonl").write_text("")
    with pytest.raises(DataError, match="notes"):
        prepare_study(tiny_study)


def test_invalid_rows_are_counted_and_reported_not_fatal(tiny_study, capfd):
    with (tiny_study.folder / "notes.jsonl").open("ab") as handle:
        handle.write(b'{"id": "bad-1", "text": null}\n')
        handle.write(b'{"id": "bad-2", "text": "\xff\xfe broken"}\n')
    recipe = load_recipe(str(tiny_study.recipe))
    prepared = prepare(recipe.data.sources, recipe.data.tokenizer, Path(recipe.data.stores))
    assert sum(prepared.train["notes"].manifest.rejected.values()) == 2
    assert "notes.jsonl" in capfd.readouterr().err


def test_training_without_prepared_stores_says_what_to_run(tiny_study):
    with pytest.raises(StoreError, match="seqpair prepare"):
        train(tiny_study)


def test_a_changed_store_is_refused(tiny_study):
    prepare_study(tiny_study)
    tokens = next((tiny_study.folder / "stores").glob("notes-*/train/tokens.bin"))
    with tokens.open("ab") as handle:
        handle.write(b"\0\0")
    with pytest.raises(StoreError, match=r"tokens\.bin"):
        train(tiny_study)


def test_a_run_started_with_another_plan_is_refused_and_says_what_moved(tiny_study):
    prepare_study(tiny_study)
    _, folder = train(tiny_study)
    before = sorted(path.name for path in (folder / "checkpoints").iterdir())
    with pytest.raises(CheckpointError, match=r"(?s)another plan.*lr"):
        train(tiny_study, "optimizer.lr=1e-3")
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == before


def test_a_corrupted_newest_checkpoint_falls_back_to_the_one_before(tiny_study, capfd):
    prepare_study(tiny_study)
    outcome, folder = train(tiny_study)
    newest = folder / "checkpoints" / outcome.checkpoint
    whole = (newest / "model.safetensors").read_bytes()
    damaged = bytearray(whole)
    damaged[-5] ^= 0xFF
    (newest / "model.safetensors").write_bytes(damaged)
    fallback = latest_valid(folder)
    assert fallback is not None
    assert fallback.name != outcome.checkpoint
    assert outcome.checkpoint in capfd.readouterr().err
    again, _ = train(tiny_study)
    assert again.finished
    assert (newest / "model.safetensors").read_bytes() == whole, "resuming made the same bits again"


def test_a_full_disk_while_saving_loses_nothing(tiny_study, monkeypatch):
    prepare_study(tiny_study)
    import seqpair.checkpoint.store as store

    real, folder = store.save_file, tiny_study.folder / "runs" / "tiny" / "decoder"

    def full_after_the_first_checkpoint(*args, **kwargs):
        if list_checkpoints(folder):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr(store, "save_file", full_after_the_first_checkpoint)
    with pytest.raises(DiskFullError, match="repeat the same command"):
        train(tiny_study)
    monkeypatch.undo()
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [latest_valid(folder).name]
    outcome, _ = train(tiny_study)
    assert outcome.finished


def test_two_processes_on_one_run(tiny_study):
    prepare_study(tiny_study)
    folder = tiny_study.folder / "runs" / "tiny" / "decoder"
    folder.mkdir(parents=True)
    with lock_run(folder), pytest.raises(RunLockedError, match="process"):
        train(tiny_study)


def test_a_nan_stops_with_the_batch_address_and_the_last_checkpoint_stays(tiny_study, monkeypatch):
    prepare_study(tiny_study)
    import seqpair.train.step as step

    summed, calls = step.summed_cross_entropy, []

    def poisoned(*args, **kwargs):
        calls.append(1)
        return summed(*args, **kwargs) * (float("nan") if len(calls) > 40 else 1.0)

    monkeypatch.setattr(step, "summed_cross_entropy", poisoned)
    with pytest.raises(TrainingError, match=r"(?s)not finite in phase 'pretrain', step \d+.*positions \d+\.\.\d+"):
        train(tiny_study)
    folder = tiny_study.folder / "runs" / "tiny" / "decoder"
    assert latest_valid(folder) is not None


def test_the_command_line_prints_one_error_without_a_traceback(tiny_study):
    command = [sys.executable, "-m", "seqpair", "plan", str(tiny_study.recipe), "--set", "sead=3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "sead" in done.stderr
    assert "seed" in done.stderr


def test_a_store_made_with_another_tokenizer_is_refused(tiny_study):
    prepare_study(tiny_study)
    recipe = load_recipe(str(tiny_study.recipe))
    prepared = open_recipe_data(recipe)
    with pytest.raises(StoreError, match="tokenizer"):
        prepared.train["notes"].require_tokenizer("0" * 64)
    assert json.loads((prepared.train["notes"].folder / "manifest.json").read_text())["tokenizer_digest"]
