"""`seqpair order --text`: the documents that hold a string, and when they are read."""

from __future__ import annotations

import json

import pytest

from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.text_search import document_text
from seqpair.recipe.load import load_recipe


@pytest.fixture(scope="module")
def prepared(prepared_study):
    return open_recipe_data(load_recipe(str(prepared_study.recipe)))


def texts_of(prepared, split):
    return {
        (name, store.document_id(row)): document_text(prepared.tokenizer, store, row)
        for name, store in getattr(prepared, split).items()
        for row in range(store.manifest.documents)
    }


def test_the_documents_found_are_those_that_hold_it_and_are_traced(seqpair, prepared_study, prepared):
    train, held_out = texts_of(prepared, "train"), texts_of(prepared, "held_out")
    wanted = "lantern river"
    expected = [key for texts in (train, held_out) for key, text in texts.items() if wanted in text]
    assert 2 < len(expected) < len(train)
    recipe = str(prepared_study.recipe)
    code, out, err = seqpair("order", recipe, "--text", wanted, "--all", "--json")
    assert code == 0
    answer = json.loads(out)
    assert [(item["source"], item["document"]) for item in answer["documents"]] == expected
    assert answer["complete"] is True
    total = sum(len(text.encode()) for texts in (train, held_out) for text in texts.values())
    assert answer["scanned_bytes"] == answer["total_bytes"] == total
    assert "MB/s" in err
    for item in answer["documents"]:
        key = (item["source"], item["document"])
        assert item["before"] + item["match"] + item["after"] in {**train, **held_out}[key]
        if item["split"] == "held_out":
            assert item["readings"] == item["seen_by"] == []
            continue
        alone = seqpair("order", recipe, "--document", key[1], "--source", key[0], "--json")[1]
        (trace,) = json.loads(alone)["documents"]
        length, count = trace["tokens"], trace["pieces"]["pretrain"]
        held = {
            piece
            for piece in range(count)
            for start, stop in item["places"]
            if start < (piece + 1) * length // count and stop > piece * length // count
        }
        assert held
        assert item["readings"] == [reading for reading in trace["readings"] if reading["piece"] in held]
        for seen in item["seen_by"]:
            done = int(seen["checkpoint"].removeprefix("step"))
            assert seen["sequences_read"] == sum(reading["step"] < done for reading in item["readings"])


def test_case_source_and_limit(seqpair, prepared_study):
    ask = ("order", str(prepared_study.recipe), "--text", "LANTERN", "--json")
    assert json.loads(seqpair(*ask)[1])["documents"] == []
    code, out, _ = seqpair(*ask, "-i", "--source", "tales", "--limit", "2")
    assert code == 0
    answer = json.loads(out)
    assert [item["source"] for item in answer["documents"]] == ["tales", "tales"]
    assert answer["complete"] is False
    assert all(item["match"].lower() == "lantern" for item in answer["documents"])


def test_the_text_says_what_was_searched(seqpair, prepared_study):
    recipe = str(prepared_study.recipe)
    _, out, _ = seqpair("order", recipe, "--text", "lantern", "--limit", "8")
    lines = out.splitlines()
    assert "[[lantern]]" in lines[1]
    assert any(line.startswith("  read ") for line in lines)
    assert "stopped at --limit 8" in lines[-1]
    code, out, _ = seqpair("order", recipe, "--text", "no such words")
    assert code == 0
    assert out.startswith("no document holds 'no such words'; ")
    assert out.endswith("in notes, tales searched\n")
    code, _, err = seqpair("order", recipe, "--text", "")
    assert code == 2
    assert "nothing to look for" in err
