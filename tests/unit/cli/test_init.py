"""The recipe that `init` writes: it plans and trains as it stands."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
from tiny import made_up_text

from seqpair.recipe.load import load_recipe


@pytest.fixture
def texts(tmp_path, monkeypatch) -> Path:
    """A current folder with a folder of text files and a file of rows."""
    monkeypatch.chdir(tmp_path)
    draw = random.Random(3)
    (tmp_path / "my texts").mkdir()
    for number in range(30):
        (tmp_path / "my texts" / f"{number}.txt").write_text(made_up_text(draw, 12))
    rows = [{"body": made_up_text(draw, 3)} for _ in range(40)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_the_recipe_plans_and_trains_as_it_stands(seqpair, texts):
    words = ("--text", "my texts", "--text", "rows.jsonl", "--text-field", "body", "--size", "test")
    code, out, _ = seqpair("init", "sub/mine.yaml", *words)
    assert code == 0
    assert "next: seqpair plan sub/mine.yaml, then seqpair run sub/mine.yaml" in out
    recipe = load_recipe("sub/mine.yaml", ["runtime.device=cpu"])
    assert (recipe.name, recipe.size, list(recipe.members)) == ("mine", "test", ["encoder", "decoder"])
    assert {source.kind for source in recipe.data.sources} == {"text", "jsonl"}
    assert seqpair("plan", "sub/mine.yaml")[0] == 0
    assert seqpair("prepare", "sub/mine.yaml")[0] == 0
    words = ("--member", "decoder", "--set", "runtime.device=cpu", "--set", "budget=2k", "--json")
    code, out, _ = seqpair("train", "sub/mine.yaml", *words)
    assert code == 0
    assert json.loads(out)["finished"]
    assert (texts / "runs" / "mine" / "decoder" / "plan.json").is_file()


@pytest.mark.parametrize("size", ["1m", "17m"])
def test_a_small_text_gets_a_small_budget_and_small_batches(seqpair, texts, size):
    assert seqpair("init", "--text", "my texts", "--size", size, "--name", "small")[0] == 0
    recipe = load_recipe("recipe.yaml")
    assert recipe.name == "small"
    assert recipe.budget == pytest.approx(sum(p.stat().st_size for p in (texts / "my texts").iterdir()), rel=0.05)
    assert all(phase.batch.tokens <= 16_000 and phase.batch.ramp is None for phase in recipe.phases)
    plans = json.loads(seqpair("plan", "recipe.yaml", "--json")[1])
    assert plans["encoder"]["plan"]["phases"][0]["steps"] >= 10


def test_packed_text_keeps_the_presets_budget(seqpair, texts):
    (texts / "rows.jsonl.gz").write_bytes(gzip.compress((texts / "rows.jsonl").read_bytes()))
    assert seqpair("init", "--text", "rows.jsonl.gz", "--text-field", "body")[0] == 0
    assert load_recipe("recipe.yaml").budget == load_recipe("1m").phases[0].budget_tokens


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Missing option '--text'"),
        (("--text", "no-such.txt"), "there is no file or folder"),
        (("--text", "my texts", "--size", "2m"), "there is no size '2m' (did you mean '32m'?)"),
        (("--text", "my texts", "--name", "a b"), "the study's name is not made of letters"),
        (("--text", "my texts", "--name", ""), "the study's name is not made of letters"),
    ],
)
def test_what_cannot_become_a_recipe_is_refused(seqpair, texts, words, message):
    code, _, err = seqpair("init", *words)
    assert code == 2
    assert message in " ".join(err.replace("│", " ").split())
    assert not (texts / "recipe.yaml").exists()


def test_a_file_is_never_replaced(seqpair, texts):
    (texts / "recipe.yaml").write_text("mine")
    code, _, err = seqpair("init", "--text", "my texts")
    assert code == 2
    assert "the recipe file exists" in err
    assert (texts / "recipe.yaml").read_text() == "mine"


def test_a_table_of_rows_is_read_as_rows(seqpair, texts):
    (texts / "rows.csv").write_text("text,label\n" + "".join(f"some words {n},{n}\n" for n in range(9)))
    assert seqpair("init", "--text", "rows.csv")[0] == 0
    assert load_recipe("recipe.yaml").data.sources[0].kind == "csv"


def test_keys_are_printed_one_per_line_with_values_and_default(seqpair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = seqpair("init", "--keys")
    assert code == 0
    lines = dict(line.split(": ", 1) for line in out.splitlines())
    assert lines["data.sources[].held_out_frac"].startswith("number at least 0 and below 1 (default: 0.01). ")
    assert "(required)" in lines["phases[].budget_tokens"]
    assert not list(tmp_path.iterdir())
