"""`seqpair tokenizer train`, `audit` and `show`."""

from __future__ import annotations

import json

import pytest
from checkpointed_run import small_tokenizer

from seqpair.data.tokenizer.tokenizer import load_tokenizer


@pytest.fixture
def saved(tmp_path):
    small_tokenizer().save(tmp_path / "small")
    return tmp_path / "small"


def test_files_give_the_same_tokenizer_twice_and_a_padded_vocabulary(seqpair, tiny_study, tmp_path):
    ask = ("tokenizer", "train", "--from", tiny_study.folder / "tales", "--from", tiny_study.folder / "notes.jsonl")
    code, out, err = seqpair(*ask, "--vocab-size", "350", "--out", tmp_path / "one", "--json")
    assert code == 0
    shown = json.loads(out)
    assert (shown["entries"], shown["vocab_size"]) == (350, 384)
    assert "counting and merging over" in err
    seqpair(*ask, "--vocab-size", "350", "--out", tmp_path / "two")
    assert (tmp_path / "one" / "tokenizer.json").read_bytes() == (tmp_path / "two" / "tokenizer.json").read_bytes()
    assert load_tokenizer(tmp_path / "one").digest == shown["digest"]
    code, _, err = seqpair(*ask, "--out", tmp_path / "one")
    assert code == 2
    assert "is there already" in err


def test_a_recipes_tokenizer_is_the_one_that_prepare_trains(seqpair, prepared_study, tmp_path):
    seqpair("tokenizer", "train", prepared_study.recipe, "--out", tmp_path / "out")
    shown = json.loads(seqpair("tokenizer", "show", prepared_study.recipe, "--json")[1])
    assert load_tokenizer(tmp_path / "out").digest == shown["digest"]


def test_dry_run_writes_nothing_and_too_little_text_is_said(seqpair, tmp_path):
    (tmp_path / "a.txt").write_text("so little text")
    ask = ("tokenizer", "train", "--from", tmp_path / "a.txt", "--out", tmp_path / "out")
    code, out, _ = seqpair(*ask, "--dry-run", "--vocab-size", "8k")
    assert code == 0
    assert "would train 8,000 entries from up to 47.7 MiB of 1 files (14 B in a)" in out
    assert not (tmp_path / "out").exists()
    code, _, err = seqpair(*ask, "--vocab-size", "8k")
    assert code == 0
    assert "of 8,000 entries: there is too little of it" in err


@pytest.mark.parametrize("words", [(), ("demo", "--from", "x")])
def test_text_is_named_once(seqpair, tmp_path, words):
    code, _, err = seqpair("tokenizer", "train", *words, "--out", tmp_path / "out")
    assert code == 2
    assert "one source of text is needed" in err


def test_audit_compares_two_by_source(seqpair, saved, prepared_study, tmp_path):
    recipe = str(prepared_study.recipe)
    ask = ("tokenizer", "audit", saved, "--against", recipe, "--recipe", recipe)
    code, out, err = seqpair(*ask, "--json")
    assert code == 0
    assert "encoding with" in err
    first, second = json.loads(out)["tokenizers"]
    assert [source["source"] for source in first["sources"]] == ["notes", "tales"]
    for mine, other in zip(first["sources"], second["sources"], strict=True):
        assert mine["text_bytes"] == other["text_bytes"] > 0
        assert mine["tokens"] > other["tokens"]  # the second was trained on this very text
        assert mine["not_kept"] == other["not_kept"] == 0
    out = seqpair(*ask)[1]
    more = 100 * (first["sources"][0]["tokens"] / second["sources"][0]["tokens"] - 1)
    assert f"{more:+.1f} % tokens" in out
    assert "A, B  none; " in out
    assert "not kept by" not in out


def test_audit_without_text_probes_only(seqpair, saved):
    code, out, _ = seqpair("tokenizer", "audit", saved)
    assert code == 0
    assert "no text was named" in out
    for row in ("numbers", "indent of n spaces", "space before a text", "template", "probes that do not come back"):
        assert row in out


def test_show_says_what_it_is_and_how_a_text_is_cut(seqpair, saved):
    tokenizer = small_tokenizer()
    code, out, _ = seqpair("tokenizer", "show", saved)
    assert code == 0
    assert f"{tokenizer.entries:,}, padded to {tokenizer.vocab_size:,} rows" in out
    assert f"digest {tokenizer.digest[:16]}" in out
    code, out, _ = seqpair("tokenizer", "show", saved, "  a\tb\n")
    lines = out.splitlines()
    assert lines[1].replace("|", "").strip() == "\u00b7\u00b7a\u2192b\u23ce"
    assert "not kept" not in out
    shown = json.loads(seqpair("tokenizer", "show", saved, "a b", "--json")[1])
    assert [piece["id"] for piece in shown["pieces"]] == tokenizer.encode(["a b"])[0].tolist()


def test_what_is_no_tokenizer_is_refused(seqpair, tiny_study, tmp_path):
    code, _, err = seqpair("tokenizer", "show", tmp_path / "nowhere")
    assert code == 2
    assert "there is no tokenizer" in err
    code, _, err = seqpair("tokenizer", "show", tiny_study.recipe)
    assert code == 2
    assert f"not trained yet\n  seen: {tiny_study.recipe}\n  next: seqpair prepare" in err
