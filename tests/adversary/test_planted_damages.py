"""Forty damages planted in one finished study, each with the verb that must find it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import RECIPE, write_tiny_study

from seqpair.suite.places import find_study
from seqpair.suite.study import run_study

ENCODER, DECODER = Path("runs/tiny/encoder"), Path("runs/tiny/decoder")
Damage = Callable[[], None]


def flip(path: Path, at: float = 0.5) -> Damage:
    """Flip a bit of a file, at a share of its length."""

    def plant() -> None:
        data = bytearray(path.read_bytes())
        data[min(len(data) - 1, int(at * len(data)))] ^= 1
        before = path.stat()
        path.write_bytes(data)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    return plant


def cut(path: Path, left: float = 0.5) -> Damage:
    """Cut a file."""
    return lambda: os.truncate(path, int(path.stat().st_size * left))


def remove(path: Path) -> Damage:
    """Remove a file or a folder."""
    return lambda: shutil.rmtree(path) if path.is_dir() else path.unlink()


def pipe(path: Path) -> Damage:
    """Put a pipe that nobody writes into in a file's place."""
    return lambda: (path.unlink(), os.mkfifo(path))[1]


def edit(path: Path, *keys: str | int, to: Any) -> Damage:
    """Set a value inside a JSON file."""

    def plant() -> None:
        value = inner = json.loads(path.read_text())
        for key in keys[:-1]:
            inner = inner[key]
        inner[keys[-1]] = to
        path.write_text(json.dumps(value, indent=1))

    return plant


def line(path: Path, number: int, to: Callable[[str], str]) -> Damage:
    """Change, double or drop one line."""

    def plant() -> None:
        lines = path.read_text().splitlines(keepends=True)
        lines[number] = to(lines[number])
        path.write_text("".join(lines))

    return plant


def swap(first: Path, second: Path) -> Damage:
    """Swap two files or folders."""

    def plant() -> None:
        aside = first.with_name("aside")
        first.rename(aside)
        second.rename(first)
        aside.rename(second)

    return plant


def copy(source: Path, target: Path) -> Damage:
    """Put a copy of one file or folder in another's place."""

    def plant() -> None:
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)

    return plant


def inside(pattern: str, damage: Callable[..., Damage], *words: Any, **named: Any) -> Damage:
    """Plant a damage in the one file that a pattern means."""

    def plant() -> None:
        (path,) = Path().glob(pattern)
        damage(path, *words, **named)()

    return plant


def changed(key: str, to: Callable[[Any], Any]) -> Callable[[str], str]:
    """Change one value of a line."""

    def change(text: str) -> str:
        record = json.loads(text)
        return json.dumps({**record, key: to(record[key])}) + "\n"

    return change


VERIFY, LIST = ("verify", "tiny.yaml"), ("checkpoints", "tiny.yaml", "--verify")
PREPARE, TRAIN = ("prepare", "tiny.yaml", "--verify"), ("train", ENCODER)
EXPORT = ("export", ENCODER / "checkpoints/step11", "out")
EXPORT_RUN = ("export", ENCODER, "out")
EVAL = ("eval", ENCODER / "export", "--suite", "own", "--limit", "4", "--out", "results")
REPORT = ("report", "tiny.yaml", "--dry-run")
NOTES = "stores/notes-*/train/"
STEP, EXPORTED, RESULTS = ENCODER / "checkpoints/step11", ENCODER / "export", ENCODER / "evaluation"
ITEMS = RESULTS / "masked_accuracy.items.jsonl"

DAMAGES: dict[str, tuple[Damage, tuple[str | Path, ...], str]] = {
    # Stores
    "a token": (inside(NOTES + "tokens.bin", flip), VERIFY, "tokens.bin is not as it was written"),
    "a token, before a run": (inside(NOTES + "tokens.bin", flip), TRAIN, "tokens.bin is not as it was written"),
    "a token, prepare": (inside(NOTES + "tokens.bin", flip), PREPARE, "tokens.bin is not as it was written"),
    "an offset": (inside(NOTES + "offsets.i64", flip), VERIFY, "offsets.i64 is not as it was written"),
    "an id": (inside(NOTES + "documents.parquet", flip), VERIFY, "documents.parquet is not as it was written"),
    "the hash of an id": (inside(NOTES + "ids.u64", flip), VERIFY, "ids.u64 is not as it was written"),
    "a held-out token": (inside("stores/notes-*/held_out/tokens.bin", flip), VERIFY, "tokens.bin is not as it was"),
    "a piece": (inside(NOTES + "pieces-96.i64", flip), VERIFY, "is not what the store's offsets give"),
    "a store is gone": (inside("stores/tales-*", remove), VERIFY, "encoder stores"),
    "a store's counts": (inside(NOTES + "manifest.json", edit, "tokens", to=7), VERIFY, "encoder stores"),
    "the stores' tokenizer": (inside("stores/tokenizers/*/tokenizer.json", flip, 0.9), VERIFY, "encoder stores"),
    # Plans, ledgers, metrics
    "no plan": (remove(DECODER / "plan.json"), VERIFY, "there is no plan.json"),
    "a cut plan": (cut(ENCODER / "plan.json"), VERIFY, "plan.json is not a plan"),
    "a plan's seed": (edit(ENCODER / "plan.json", "seed", to=8), VERIFY, "does not belong to the run"),
    "a plan's window": (
        edit(ENCODER / "plan.json", "model", "window_tokens", to=4),
        LIST,
        "does not belong to the run",
    ),
    "swapped runs": (swap(ENCODER, DECODER), VERIFY, "is another member's"),
    "no ledger": (remove(DECODER / "ledger.jsonl"), VERIFY, "there is no ledger"),
    "a short ledger": (line(ENCODER / "ledger.jsonl", -1, lambda _: ""), VERIFY, "shorter than the newest checkpoint"),
    "a short ledger, resumed": (line(ENCODER / "ledger.jsonl", -1, lambda _: ""), TRAIN, "shorter than the checkpoint"),
    "a ledger's digest": (
        line(ENCODER / "ledger.jsonl", 4, changed("digest", lambda value: value[::-1])),
        VERIFY,
        "does not hold what its plan and stores give",
    ),
    "a ledger's line twice": (line(ENCODER / "ledger.jsonl", 4, lambda text: 2 * text), VERIFY, "encoder ledger"),
    "a step without metrics": (line(ENCODER / "metrics.jsonl", 5, lambda _: ""), VERIFY, "encoder metrics"),
    "a metric's tokens": (
        line(ENCODER / "metrics.jsonl", -3, changed("tokens", lambda value: value + 1)),
        VERIFY,
        "encoder metrics",
    ),
    "a metric that is no number": (
        line(ENCODER / "metrics.jsonl", 5, lambda text: text.replace('"lr": ', '"lr": NaN, "was": ')),
        VERIFY,
        "NaN is no finite number",
    ),
    "a torn held-out loss": (cut(ENCODER / "metrics.jsonl", 0.999), VERIFY, "lacks held-out losses"),
    "a pipe as ledger": (pipe(ENCODER / "ledger.jsonl"), VERIFY, "ledger"),
    # Checkpoints
    "a weight": (flip(STEP / "model.safetensors", 0.9), LIST, "model.safetensors: SHA-256"),
    "a moment": (flip(STEP / "optimizer.safetensors", 0.9), VERIFY, "is damaged: optimizer.safetensors"),
    "no state": (remove(STEP / "state.json"), VERIFY, "is damaged: state.json"),
    "a manifest's window": (
        edit(STEP / "manifest.json", "plan", "model", "window_tokens", to=4),
        EXPORT,
        "is damaged: manifest.json",
    ),
    "a manifest's tokens": (edit(STEP / "manifest.json", "content_tokens", to=1), VERIFY, "does not fit the ledger"),
    "another member's checkpoint": (copy(DECODER / "checkpoints/step11", STEP), EXPORT, "does not belong to the run"),
    "a renamed checkpoint": (swap(STEP, ENCODER / "checkpoints/step9"), LIST, "another name than its folder"),
    "the last checkpoint is gone": (remove(STEP), LIST, "step11 (missing)"),
    "no manifest": (remove(STEP / "manifest.json"), LIST, "step11 is not a checkpoint"),
    "a run's tokenizer": (flip(ENCODER / "tokenizer/tokenizer.json", 0.9), EXPORT_RUN, "tokenizer"),
    # Exports
    "an exported weight": (flip(EXPORTED / "model.safetensors", 0.9), EVAL, "is not the file that was exported"),
    "an exported base": (edit(EXPORTED / "config.json", "rope_theta", to=5), EVAL, "is not the file that was exported"),
    "an exported tokenizer": (flip(EXPORTED / "tokenizer.json", 0.5), VERIFY, "is not the file that was exported"),
    "no record": (remove(EXPORTED / "seqpair_export.json"), VERIFY, "encoder export export"),
    "another member's export": (copy(DECODER / "export", EXPORTED), VERIFY, "is of another run"),
    # Results
    "a value": (edit(RESULTS / "masked_accuracy.json", "value", to=0.9), VERIFY, "is not the mean of its items"),
    "an item": (line(ITEMS, 3, changed("value", lambda value: 1 - value)), VERIFY, "is not the mean of its items"),
    "an item less": (line(ITEMS, 3, lambda _: ""), VERIFY, "does not contain the items"),
    "no items": (remove(ITEMS), VERIFY, "the items of a result are missing"),
    "another model's result": (
        edit(RESULTS / "masked_accuracy.json", "model_digest", to="0" * 64),
        VERIFY,
        "was computed with other weights",
    ),
    "swapped results": (swap(RESULTS, DECODER / "evaluation"), VERIFY, "is another model's result"),
    "a cut result": (cut(RESULTS / "masked_accuracy.json"), VERIFY, "is not an evaluation result"),
    "a cut result, reported": (
        cut(RESULTS / "masked_accuracy.json"),
        REPORT,
        "the result masked_accuracy cannot be read",
    ),
    "a value, reported": (
        edit(RESULTS / "masked_accuracy.json", "value", to="0.9"),
        REPORT,
        "is not the mean of its items",
    ),
    "a copied result, reported": (
        copy(RESULTS / "masked_accuracy.json", RESULTS / "copy.json"),
        REPORT,
        "is the result of another task",
    ),
    "a pipe as result, reported": (pipe(RESULTS / "masked_accuracy.json"), REPORT, "is not a file"),
    "swapped results, reported": (
        swap(RESULTS, DECODER / "evaluation"),
        REPORT,
        "it is another model's (member decoder",
    ),
    "swapped runs, reported": (swap(ENCODER, DECODER), REPORT, "the run of decoder lies in encoder/"),
    "an unknown plan, reported": (
        edit(ENCODER / "plan.json", "phases", 0, "objectives", 0, "objective", to="xyz"),
        REPORT,
        "encoder: plan.json cannot be read",
    ),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny study that is trained, exported and evaluated; its paths are relative."""
    folder = tmp_path_factory.mktemp("finished")
    study = write_tiny_study(folder)
    recipe = RECIPE.replace("{folder}/", "").format().replace("budget_tokens: 24k", "budget_tokens: 12k")
    study.recipe.write_text(recipe.replace("checkpoints: {every_tokens: 6k}", "checkpoints: {every_tokens: 3k}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_study(find_study("tiny.yaml"))
    shutil.rmtree(folder / "runs" / "tiny" / "report")
    return folder


@pytest.fixture
def study(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the study, which is the current folder."""
    copied = Path(shutil.copytree(finished, tmp_path / "copy"))
    monkeypatch.chdir(copied)
    return copied


@pytest.mark.parametrize("verb", [VERIFY, LIST, PREPARE, TRAIN, EVAL, REPORT], ids=lambda words: words[0])
def test_a_study_without_damage_passes(study, seqpair, verb):
    code, _, messages = seqpair(*verb)
    assert code == 0, messages


@pytest.mark.parametrize("name", DAMAGES)
def test_the_verb_finds_the_damage(study, seqpair, name):
    plant, verb, message = DAMAGES[name]
    plant()
    code, _, messages = seqpair(*verb)
    assert message in " ".join(messages.split()), messages
    assert "Traceback" not in messages
    assert (code != 0) == (verb is not REPORT)


@pytest.mark.slow
def test_the_user_s_own_files_stay(study, seqpair):
    (study / EXPORTED / "own.gguf").write_text("mine")
    assert seqpair("export", ENCODER, EXPORTED, "--overwrite")[0] == 0
    assert (study / EXPORTED / "own.gguf").read_text() == "mine"
    report = study / "runs/tiny/report"
    assert seqpair("report", "tiny.yaml")[0] == 0
    (report / "tables/own.csv").write_text("mine")
    (report / "tables/earlier.csv").write_text("ours")
    written = json.loads((report / ".written.json").read_text())
    (report / ".written.json").write_text(json.dumps([*written, "tables/earlier.csv"]))
    assert seqpair("report", "tiny.yaml")[0] == 0
    assert (report / "tables/own.csv").read_text() == "mine"
    assert not (report / "tables/earlier.csv").exists()
