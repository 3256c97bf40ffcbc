"""`seqpair data show` and `data cat`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
from tiny import write_tiny_study

from seqpair.data.prepared import open_recipe_data
from seqpair.recipe.load import load_recipe


def test_the_tree_shows_sources_lengths_and_epochs(seqpair, prepared_study):
    recipe = str(prepared_study.recipe)
    code, out, err = seqpair("data", "show", recipe)
    assert (code, err) == (0, "")
    shown = json.loads(seqpair("data", "show", recipe, "--json")[1])
    assert out.startswith("tiny: 2 sources, ")
    for source in shown["sources"]:
        assert f"{source['name']} ({source['kind']}) in {source['folder']}" in out
        assert f"{source['documents']:,} documents, " in out
        assert f"longest {source['longest_tokens']:,}" in out
        assert max(len(line) - len(line.rstrip("#")) for line in out.splitlines()) == 40
    assert [line.split() for line in out.splitlines() if line.startswith("  notes ")][0][:4] == [
        "notes",
        "60.00",
        "%",
        f"{100 * shown['phases'][0]['sources'][0]['share']:.2f}",
    ]
    assert "warning" not in out
    many = seqpair("data", "show", recipe, "--set", "budget=400k")[1]
    assert "<- more than 4" in many
    assert many.splitlines()[-1].startswith("warning: source 'tales' is read ")


def test_plan_and_data_show_warn_alike(seqpair, prepared_study):
    asked = (str(prepared_study.recipe), "--set", "budget=400k")
    warnings = json.loads(seqpair("data", "show", *asked, "--json")[1])["warnings"]
    assert warnings
    code, out, err = seqpair("plan", *asked, "--json")
    assert code == 0
    assert set(json.loads(out)) == {"encoder", "decoder"}
    assert err.splitlines() == [f"warning: {text}" for text in warnings]


def test_unprepared_data_is_marked(seqpair, tiny_study):
    code, out, _ = seqpair("data", "show", str(tiny_study.recipe))
    assert code == 0
    assert "not prepared: what follows is a guess" in out
    assert "notes (jsonl), not prepared" in out
    assert out.splitlines()[-1] == "note: `seqpair prepare` with this recipe counts what is guessed here"


def test_a_document_is_printed_as_it_was_written(seqpair, prepared_study):
    recipe = str(prepared_study.recipe)
    rows = [json.loads(line) for line in (prepared_study.folder / "notes.jsonl").read_text().splitlines()]
    prepared = open_recipe_data(load_recipe(recipe))
    for split in ("train", "held_out"):
        document = getattr(prepared, split)["notes"].document_id(0)
        text = rows[int(document.removeprefix("notes.jsonl:"))]["text"]
        assert seqpair("data", "cat", recipe, document)[:2] == (0, text + "\n")
        shown = json.loads(seqpair("data", "cat", recipe, document, "--json")[1])
        assert (shown["text"], shown["split"], shown["source"]) == (text, split, "notes")
        assert shown["ids"] == prepared.tokenizer.encode([text])[0].tolist()
        ids = seqpair("data", "cat", recipe, document, "--tokens")[1]
        assert ids.split() == [str(index) for index in shown["ids"]]


def test_an_unknown_id_and_source_are_refused(seqpair, prepared_study):
    code, out, err = seqpair("data", "cat", str(prepared_study.recipe), "nothing")
    assert (code, out) == (2, "")
    assert "no store has a document of this id\n  seen: 'nothing', looked for in notes, tales" in err
    assert "in tales: 'tale" in err
    code, _, err = seqpair("data", "cat", str(prepared_study.recipe), "tale05.txt", "--source", "tale")
    assert code == 2
    assert "the recipe has no such source (did you mean 'tales'?)" in err


def test_an_id_in_two_sources_needs_a_choice(seqpair, tmp_path):
    study = write_tiny_study(tmp_path)
    shutil.copytree(tmp_path / "tales", tmp_path / "more")
    (tmp_path / "more" / "tale05.txt").write_text("another tale of this name")
    text = study.recipe.read_text().replace(
        "name: notes, kind: jsonl, paths: [notes.jsonl]", "name: notes, kind: text, paths: [more]"
    )
    study.recipe.write_text(text)
    seqpair("prepare", study.recipe)
    code, _, err = seqpair("data", "cat", study.recipe, "tale05.txt")
    assert code == 2
    assert "several sources have a document of this id\n  seen: 'tale05.txt' in notes (" in err
    assert "next: add --source notes" in err
    code, out, _ = seqpair("data", "cat", study.recipe, "tale05.txt", "--source", "notes")
    assert (code, out) == (0, "another tale of this name\n")


@pytest.mark.parametrize("forbidden", ["torch", "tokenizers", "pyarrow"])
def test_show_imports_nothing_heavy(prepared_study, forbidden):
    program = (
        "import sys; from seqpair.cli import app\n"
        "sys.argv = ['seqpair', 'data', 'show', sys.argv[1]]\n"
        "try: app.main()\nexcept SystemExit as ended: assert not ended.code\n"
        f"assert {forbidden!r} not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(prepared_study.recipe)], check=True, stdout=subprocess.DEVNULL)
