import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from seqpair.cli.data import merge
from seqpair.cli.prepare import prepare
from seqpair.errors import DataError

RECIPE = """\
extends: test
name: small
data:
  stores: {folder}/stores
  sources: [{{name: notes, kind: text, paths: [notes], held_out_frac: 0.3}}]
  tokenizer: {{train_vocab_size: 300}}
phases: {{pretrain: {{mixture: {{notes: {{share: 1}}}}}}}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    for index in range(30):
        (tmp_path / "notes" / f"{index}.txt").write_text(f"note {index} on rivers")
    (tmp_path / "notes" / "bad.txt").write_bytes(b"\xff")
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE.format(folder=tmp_path))
    return path


def run(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(prepare)
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_prepare_prints_a_row_a_source_then_skips_what_is_there(recipe: Path, tmp_path: Path) -> None:
    planned = run(str(recipe), "--dry-run")
    assert "would be made in" in planned
    assert not (tmp_path / "stores").exists()
    table = run(str(recipe))
    assert "1 invalid UTF-8" in table
    assert "notes" in table
    again = json.loads(run(str(recipe), "--json", "--verify"))
    notes = again["sources"]["notes"]
    assert notes["train"]["documents"] + notes["held_out"]["documents"] == 30
    assert notes["train"]["rejected"] == {"invalid UTF-8": 1}
    steps = json.loads(run(str(recipe), "--dry-run", "--json"))
    assert [step["ready"] for step in steps] == [True, True]


def test_prepare_names_a_missing_file(recipe: Path) -> None:
    with pytest.raises(DataError, match="there is no file or folder"):
        run(str(recipe), "--set", "data.sources.0.paths=[gone.txt]")


def test_shards_are_merged_from_the_command_line(recipe: Path, tmp_path: Path) -> None:
    made = json.loads(run(str(recipe), "--shard", "1/1", "--json"))
    assert [(outcome["source"], outcome["parts"], outcome["all_parts"]) for outcome in made] == [("notes", 1, 1)]
    assert not list((tmp_path / "stores").glob("notes-*"))
    app = typer.Typer()
    app.command()(merge)
    elsewhere = ["--set", f"data.stores={tmp_path / 'other'}", "--from", str(tmp_path / "stores")]
    planned = CliRunner().invoke(app, [str(recipe), *elsewhere, "--dry-run"], catch_exceptions=False)
    assert not list((tmp_path / "other").glob("notes-*"))
    assert "would be made in" in planned.stdout
    merged = CliRunner().invoke(app, [str(recipe), *elsewhere, "--json"], catch_exceptions=False)
    assert json.loads(merged.stdout)["sources"]["notes"]["train"]["rejected"] == {"invalid UTF-8": 1}
    assert list((tmp_path / "other").glob("notes-*"))


def test_prepare_shows_what_cleaning_removed_by_reason(recipe: Path) -> None:
    rules = "data.cleaning={duplicates: {exact: true}, length: {max_words: 5}}"
    (recipe.parent / "notes" / "again.txt").write_text("note 3 on rivers")
    (recipe.parent / "notes" / "long.txt").write_text("far too many words for a note")
    table = run(str(recipe), "--set", rules)
    assert "1 duplicate: equal text" in table
    assert "1 length: max_words" in table
    manifest = json.loads(run(str(recipe), "--set", rules, "--json"))["sources"]["notes"]["train"]
    assert manifest["removed"] == {"duplicate: equal text": 1, "length: max_words": 1}
