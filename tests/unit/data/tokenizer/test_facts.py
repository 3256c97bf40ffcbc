"""What tokenizers of several kinds are and do: facts, probes, pieces."""

from __future__ import annotations

import json

import pytest
from checkpointed_run import real_texts, small_tokenizer
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from seqpair.data.tokenizer.facts import NUMBERS, PROBES, AnyTokenizer, behaviour, cut_text, vocabulary_facts
from seqpair.errors import DataError

SPECIALS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    small_tokenizer().save(folder)
    return AnyTokenizer(folder)


@pytest.fixture(scope="module")
def word_pieces(tmp_path_factory):
    """An uncased WordPiece tokenizer with BERT's template."""
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=600, special_tokens=SPECIALS, show_progress=False)
    backend.train_from_iterator(real_texts(), trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    folder = tmp_path_factory.mktemp("word-pieces")
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"padding_side": "right"}))
    return AnyTokenizer(folder)


def digit_by_digit(tmp_path, prefix: bool):
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=prefix)]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["1984 was the year 1984"] * 9, trainer)
    backend.save(str(tmp_path / "tokenizer.json"))
    return AnyTokenizer(tmp_path)


def test_facts_of_ours(ours):
    facts = vocabulary_facts(ours)
    tokenizer = small_tokenizer()
    assert (facts.kind, facts.problem, facts.digest) == ("BPE on bytes", "", tokenizer.digest)
    assert (facts.entries, facts.padded) == (tokenizer.entries, tokenizer.vocab_size)
    assert facts.padded % 64 == 0
    assert {item.role: item.id for item in facts.specials} == {
        role: getattr(tokenizer.specials, role) for role in ("unk", "cls", "sep", "pad", "mask")
    }
    assert [item.role for item in facts.specials if item.takes_left_space] == ["mask"]
    assert (facts.single_template, facts.pair_template, facts.padding_side) == ("A", "A B", "")
    assert (facts.normalizer, facts.added) == ("none", 0)


def test_facts_of_a_kind_that_cannot_be_trained_with(word_pieces):
    facts = vocabulary_facts(word_pieces)
    assert facts.kind == "WordPiece"
    assert "not a byte-level BPE tokenizer" in facts.problem
    assert facts.digest == ""
    assert facts.single_template == "[CLS] A [SEP]"
    assert facts.pair_template == "[CLS] A [SEP] B [SEP]"
    assert (facts.padding_side, facts.normalizer) == ("right", "BertNormalizer")


def test_ours_keeps_every_probe_and_word_pieces_do_not(ours, word_pieces):
    kept, lost = behaviour(ours), behaviour(word_pieces)
    assert kept.not_kept == {}
    assert {"two spaces", "tabs", "capitals and accents"} <= lost.not_kept.keys()
    assert lost.not_kept["two spaces"] == ("a  b", "a b")
    assert kept.spelled_out == tuple(SPECIALS)
    assert list(kept.numbers) == list(NUMBERS)
    assert PROBES["Windows line ends"] == "a\r\nb\r\n"


def test_the_space_before_a_text_is_seen(ours, tmp_path):
    assert not behaviour(ours).adds_prefix_space
    assert behaviour(ours).first_words_differ > 0
    prefixed = behaviour(digit_by_digit(tmp_path, prefix=True))
    assert prefixed.adds_prefix_space
    assert prefixed.first_words_differ == 0


def test_numbers_are_described(ours, tmp_path):
    found = behaviour(digit_by_digit(tmp_path, prefix=False))
    assert found.numbers_rule == "digit by digit"
    assert found.whole_numbers == {1: 1.0, 2: 0.0, 3: 0.0, 4: 0.0}
    assert found.numbers["1984"] == list("1984")
    tokenizer = small_tokenizer()
    two = [str(number) for number in range(10, 100)]
    whole = sum(len(ids) == 1 for ids in tokenizer.encode(two)) / 90
    assert behaviour(ours).whole_numbers[2] == pytest.approx(whole)


def test_indentation_is_counted(ours):
    found = behaviour(ours)
    tokenizer = small_tokenizer()
    for length, more in found.space_runs.items():
        run, lone = tokenizer.encode(["x\n" + " " * length + "y", "x\n y"])
        assert more == len(run) - len(lone)
    assert found.tab_runs.keys() == {1, 2, 3, 4}


def test_pieces_show_parts_of_letters(ours):
    text = "def na\u00efve \U0001f642"
    pieces = cut_text(ours, text)
    assert [piece.id for piece in pieces] == small_tokenizer().encode([text])[0].tolist()
    joined = "".join(piece.text for piece in pieces)
    assert joined.endswith("<0xF0><0x9F><0x99><0x82>")
    assert joined.startswith("def ")


def test_what_is_no_tokenizer_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no tokenizer"):
        AnyTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="is not a tokenizer file"):
        AnyTokenizer(tmp_path)
