"""`seqpair search` and `seqpair classify` on files and standard input, in both forms of output."""

from __future__ import annotations

import json

import numpy as np
import pytest
from labelled_sets import answers, numbers, tags
from typer.testing import CliRunner

from seqpair.cli.app import app
from seqpair.errors import DataError, SeqpairError
from seqpair.evaluate.finetune.keep import keep_tuned
from seqpair.evaluate.finetune.runs import tune_grid
from seqpair.evaluate.finetune.settings import TuneSetting
from seqpair.models.embed import embed_texts
from seqpair.models.text_file import read_texts

TEXTS = ["def size(self):", "import torch", "Return the length of a plan.", "def sizes(self):"]


def run(*arguments, given=None):
    return CliRunner().invoke(app, list(map(str, arguments)), input=given, catch_exceptions=False)


@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_search_ranks_by_the_cosine_of_the_vectors_of_embed(random_exports, models, tmp_path, name):
    (tmp_path / "docs.jsonl").write_text(
        "".join(json.dumps({"id": f"d{n}", "text": t}) + "\n" for n, t in enumerate(TEXTS))
    )
    queries = ["def size(self):", "import"]
    found = run(
        "search", random_exports[name], tmp_path / "docs.jsonl", "-", "--top", 3, "--json", given="\n".join(queries)
    )
    results = json.loads(found.stdout)["results"]
    vectors, asked = (embed_texts(models[name], texts, normalise=True).vectors for texts in (TEXTS, queries))
    cosines = asked @ vectors.T
    for row, (result, query) in zip(cosines, zip(results, queries, strict=True), strict=True):
        best = np.argsort(-row, kind="stable")[:3]
        assert (result["query"], [one["id"] for one in result["found"]]) == (query, [f"d{n}" for n in best])
        assert [one["cosine"] for one in result["found"]] == pytest.approx(row[best].tolist(), abs=1e-5)
    assert results[0]["found"][0]["cosine"] == pytest.approx(1.0, abs=1e-5)
    shown = run(
        "search", random_exports[name], tmp_path / "docs.jsonl", "-", "--top", 1, given="\n".join(queries)
    ).stdout
    assert shown.splitlines()[:2] == [queries[0], "  1.0000  d0  def size(self):"]


def test_plain_lines_and_json_lines_are_read_from_a_file_and_from_standard_input(tmp_path, monkeypatch):
    import io
    from pathlib import Path

    (tmp_path / "plain.txt").write_text('{"text": 1}\n\n two\n')
    assert [(one.id, one.text) for one in read_texts(tmp_path / "plain.txt")] == [("1", '{"text": 1}'), ("3", " two")]
    for given, wanted in (
        ("one\n{two\n", [("1", "one"), ("2", "{two")]),
        ('\n{"text": "one", "id": 7}\n{"text": "two"}\n', [("7", "one"), ("3", "two")]),
    ):
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        assert [(one.id, one.text) for one in read_texts(Path("-"))] == wanted
    monkeypatch.setattr("sys.stdin", io.StringIO('{"text": "one"}\ntwo\n'))
    with pytest.raises(DataError, match="standard input, line 2 is not JSON"):
        read_texts(Path("-"))
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(DataError, match="contains no text"):
        read_texts(Path("-"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match="cannot be read"):
        read_texts(tmp_path / "latin.txt")


def test_every_kind_of_head_answers_rows_without_labels(models, tmp_path):
    labelled, setting = (numbers(), tags(), answers()), TuneSetting(1e-2, epochs=2, batch_rows=8, dropout=0.0)
    result = tune_grid(models["mlm"], labelled, [setting], [0], tmp_path, lambda *_: None, keep_weights=True)
    keep_tuned(models["mlm"], result, tmp_path / "model")
    for one in labelled:
        rows = [{"id": row.id, "text": row.text, "pair": row.pair or ""} for row in one.reported]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        pair = () if one.kind == "tags" else ("--pair-key", "pair")
        found = run("classify", tmp_path / "model", tmp_path / "rows.jsonl", "--head", one.name, *pair, "--json")
        said = [item["answer"] for item in json.loads(found.stdout)["answers"]]
        guesses = result.best.guesses[one.name]
        if one.kind == "number":
            assert said == pytest.approx(guesses, abs=1e-3)
        else:
            assert said == (
                [[one.labels[tag] for tag in guess] for guess in guesses] if one.kind == "tags" else guesses
            )
    with pytest.raises(SeqpairError, match="several heads"):
        run("classify", tmp_path / "model", tmp_path / "rows.jsonl")


def test_a_file_with_pairs_needs_them_in_every_row(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "pair": "b"}\n{"text": "a"}\n')
    with pytest.raises(DataError, match=r"(?s)line 2 has no text.*'pair'"):
        read_texts(tmp_path / "rows.jsonl", pair_key="pair")
