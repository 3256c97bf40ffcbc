"""Bad tokenizers, at loading and at `prepare`: no text is lost, and nothing that export refuses is trained."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from refusals import refuses

from seqpair.data.prepare.preparation import prepare
from seqpair.data.tokenizer.tokenizer import load_tokenizer, train_tokenizer
from seqpair.nn.decode.generate import Sampling, choose_tokens
from seqpair.recipe.data_spec import SourceSpec, TokenizerSpec

Content = dict[str, Any]
TEXT = "Le caf\u00e9 est ferm\u00e9.  def f(x):\n\treturn x \U0001f642 \u4e2d\u6587\n"


@pytest.fixture(scope="module")
def good() -> Content:
    trained = train_tokenizer(["the river and the stone return " * 20], TokenizerSpec(train_vocab_size=320))
    return json.loads(trained.backend.to_str())


def written(folder: Path, content: object) -> Path:
    (folder / "tokenizer.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


def at(path: str, value: object) -> Callable[[Content], None]:
    """Return a change that sets one value by its path."""

    def change(content: Content) -> None:
        *above, last = path.split(".")
        section: Any = content
        for key in above:
            section = section[int(key) if key.isdecimal() else key]
        section[last] = value

    return change


def with_added(**entry: object) -> Callable[[Content], None]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return lambda content: content["added_tokens"].append({**plain, **entry})


LOADED: list[tuple[Callable[[Content], None], tuple[str, ...]]] = [
    (at("model.end_of_word_suffix", "</w>"), ("marks the parts of words", "</w>")),
    (at("model.continuing_subword_prefix", "##"), ("##",)),
    (at("model.dropout", 0.1), ("at random", "0.1")),
    (at("pre_tokenizer.add_prefix_space", True), ("adds a space",)),
    (at("pre_tokenizer", None), ("not a byte-level BPE",)),
    (at("pre_tokenizer", {"type": "Whitespace"}), ("not a byte-level BPE", "Whitespace")),
    (at("model.vocab", {}), ("not a tokenizer file",)),
    (at("model.vocab.x", 1 << 40), ("not a tokenizer file", str(1 << 40))),
    (at("model.vocab.x", 1 << 31), ("not a tokenizer file", str(1 << 31))),
    (at("model.vocab.x", -1), ("not a tokenizer file", "-1")),
    (at("model.vocab.x", 1.5), ("not a tokenizer file", "1.5")),
    (at("model.vocab.x", True), ("not a tokenizer file", "True")),
    (at("model.vocab.x", "7"), ("not a tokenizer file", "'7'")),
    (at("model.vocab.xyz", 5), ("not a tokenizer file", "one id")),
    (at("model.vocab.\ud83d", 320), ("not a tokenizer file", "Unicode")),
    (at("model.vocab.\u4e2d", 320), ("not a byte-level BPE", "\u4e2d")),
    (at("model.merges", [["no", "such"]]), ("not a tokenizer file",)),
    (at("model.merges", "text"), ("not a tokenizer file",)),
    (at("model.type", "Unigram"), ("not a tokenizer file",)),
    (at("model", None), ("not a tokenizer file",)),
    (at("model", []), ("not a tokenizer file",)),
    (at("version", "7"), ("not a tokenizer file",)),
    (at("added_tokens.0.id", 1 << 40), ("not a tokenizer file", str(1 << 40))),
    (at("added_tokens.0.id", -3), ("not a tokenizer file", "-3")),
    (at("padding", {"strategy": {"Fixed": 1 << 60}}), ("not a tokenizer file",)),
    (at("truncation", {"max_length": 1 << 70, "stride": 0}), ("not a tokenizer file",)),
    (with_added(id=321, content="\ud83d"), ("not a tokenizer file", "Unicode")),
    (lambda content: content["model"]["vocab"].pop("[MASK]") and content["added_tokens"].pop(4), ("lacks", "mask")),
]


@pytest.mark.parametrize(("change", "words"), LOADED, ids=range(len(LOADED)))
def test_a_tokenizer_that_cannot_be_used_is_one_error(tmp_path: Path, good: Content, change: Any, words: Any) -> None:
    content = copy.deepcopy(good)
    change(content)
    refuses(lambda: load_tokenizer(written(tmp_path, content)), *words)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"x"', "[" * 100_000, '{"model": {}}', "\x00"])
def test_a_file_that_is_no_tokenizer_is_one_error(tmp_path: Path, text: str) -> None:
    refuses(lambda: load_tokenizer(written(tmp_path, text)), "tokenizer.json is not a tokenizer file")


def source(folder: Path, text: str = TEXT) -> list[SourceSpec]:
    (folder / "rows.jsonl").write_text("".join(json.dumps({"text": text * 3}) + "\n" for _ in range(20)))
    return [SourceSpec(name="rows", kind="jsonl", paths=(str(folder / "rows.jsonl"),), held_out_frac=0.0)]


def without_letters(content: Content) -> None:
    """Take the letters of the bytes above 0x7f out, as a tokenizer trained on English without the alphabet lacks."""
    model, kept = content["model"], "\u0120\u010a\u0109"
    model["vocab"] = {
        token: n for token, n in model["vocab"].items() if len(token) > 1 or token.isascii() or token in kept
    }


def unknown(content: Content) -> None:
    without_letters(content)
    content["model"]["unk_token"] = "[UNK]"


def before_bytes(stage: Content) -> Callable[[Content], None]:
    return lambda content: at(
        "pre_tokenizer", {"type": "Sequence", "pretokenizers": [stage, content["pre_tokenizer"]]}
    )(content)


SPACES = {"type": "Split", "pattern": {"Regex": "\\s+"}, "behavior": "Removed", "invert": False}
LOSING = [without_letters, unknown, before_bytes({"type": "WhitespaceSplit"}), before_bytes(SPACES)]


@pytest.mark.parametrize("change", LOSING, ids=["no letters", "unknown", "whitespace", "removed"])
def test_a_tokenizer_that_loses_text_is_refused_unless_the_recipe_allows_it(
    tmp_path: Path, good: Content, change: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    content = copy.deepcopy(good)
    change(content)
    folder, specs = str(written(tmp_path, content)), source(tmp_path)
    refuses(lambda: prepare(specs, TokenizerSpec(path=folder), tmp_path / "s"), "does not hold the text", "'rows'")
    capsys.readouterr()
    prepared = prepare(specs, TokenizerSpec(path=folder, allow_lost_text=True), tmp_path / "s")
    assert prepared.train["rows"].manifest.documents == 20
    assert "bits per byte are over what is left" in capsys.readouterr().err


def test_an_unknown_token_beyond_the_sample_is_found_while_the_rest_is_tokenized(
    tmp_path: Path, good: Content, capsys: pytest.CaptureFixture[str]
) -> None:
    content = copy.deepcopy(good)
    unknown(content)
    folder, file = str(written(tmp_path, content)), tmp_path / "rows.jsonl"
    texts = ["the river and the stone return"] * 300
    texts[100], texts[200] = "the [UNK] river", "the caf\u00e9 and the caf\u00e9"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    specs = [SourceSpec(name="rows", kind="jsonl", paths=(str(file),), held_out_frac=0.0)]
    refuses(
        lambda: prepare(specs, TokenizerSpec(path=folder), tmp_path / "s"), "does not hold the text", "4 unknown tokens"
    )
    prepare(specs, TokenizerSpec(path=folder, allow_lost_text=True), tmp_path / "s")
    assert ": 4 of " in capsys.readouterr().err, "the token that the text spells is known"


def test_roles_that_export_needs_are_checked_before_anything_is_tokenized(tmp_path: Path, good: Content) -> None:
    folder = str(written(tmp_path, {**good, "added_tokens": []}))
    error = refuses(
        lambda: prepare(source(tmp_path), TokenizerSpec(path=folder), tmp_path / "s"), "could not be exported", "[MASK]"
    )
    assert "added_tokens" in str(error.fix)
    assert not list((tmp_path / "s").glob("rows-*"))


def test_an_ordinary_added_token_is_text_and_counts_its_bytes(tmp_path: Path, good: Content) -> None:
    content = copy.deepcopy(good)
    with_added(id=len(content["model"]["vocab"]), content="python-dev", normalized=True)(content)
    loaded = load_tokenizer(written(tmp_path, content))
    [ids] = loaded.encode(["a python-dev"])
    own = loaded.backend.token_to_id("python-dev")
    assert own in ids
    assert own not in loaded.special_ids
    assert int(loaded.token_bytes[ids].sum()) == len("a python-dev")
    assert np.isin(loaded.special_ids, range(5)).all()
    specs = source(tmp_path, "a python-dev ")
    assert prepare(specs, TokenizerSpec(path=str(tmp_path)), tmp_path / "s").train["rows"].manifest.documents == 20


def test_a_normaliser_loses_nothing(tmp_path: Path, good: Content) -> None:
    folder = str(written(tmp_path, {**good, "normalizer": {"type": "NFKC"}}))
    prepare(source(tmp_path, "\ufb01ne cafe\u0301 "), TokenizerSpec(path=folder), tmp_path / "s")


def test_a_row_without_a_token_is_never_chosen() -> None:
    logits, numbers = torch.zeros(200, 32), torch.arange(200)
    never = tuple(range(1, 32, 2))
    logits[:, never] = 5.0
    assert not set(choose_tokens(logits.clone(), Sampling(never=never), numbers, 0).tolist()) & set(never)
    for options in ({}, {"top_k": 30}, {"top_p": 0.99}):
        sampling = Sampling(2.0, never=never, **options)
        chosen = set(choose_tokens(logits.clone(), sampling, numbers, 0).tolist())
        assert not chosen & set(never)
        assert len(chosen) > 5


@pytest.mark.parametrize(
    "given",
    [
        {"train_vocab_size": 10**15},
        {"train_vocab_size": 299},
        {"train_vocab_size": float("inf")},
        {"train_vocab_size": float("nan")},
        {"train_vocab_size": True},
        {"train_vocab_size": -1},
        {"train_vocab_size": "many"},
        {"train_bytes": 0},
        {"train_bytes": 10**30},
        {"pad_vocab_to": 0},
        {"pad_vocab_to": 10**12},
        {"pad_vocab_to": True},
        {"allow_lost_text": "perhaps"},
        {"vocabulary": 1},
    ],
    ids=str,
)
def test_sizes_of_a_tokenizer_are_bounded(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="TokenizerSpec"):
        TokenizerSpec(**given)
    assert "allow_lost_text" not in TokenizerSpec().model_dump(mode="json")
