"""A string is found wherever it stands: across tokens and chunks, never across documents."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers

from seqpair.data.store.text_search import TextSearch, document_text
from seqpair.data.tokenizer import tokenizer as tokenizer_module
from seqpair.data.tokenizer.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from seqpair.errors import DataError
from seqpair.recipe.data_spec import TokenizerSpec

TEXTS = [
    "the river ran over the stones",
    "Stones and rivers; na\u00efve \u4e2d\u6587 \U0001f642 text",
    "a [SEP] b",
    "x",
]


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train_tokenizer(TEXTS * 20, TokenizerSpec(train_vocab_size=330))


def store_of(tokenizer: Tokenizer, texts: list[str]) -> SimpleNamespace:
    ids = tokenizer.encode(texts)
    offsets = np.cumsum([0, *map(len, ids)]).astype(np.int64)
    tokens = np.concatenate([*ids, np.zeros(0, dtype=np.int64)]).astype(np.uint16)
    return SimpleNamespace(
        tokens=tokens, offsets=offsets, document_tokens=lambda row: tokens[offsets[row] : offsets[row + 1]]
    )


def rows(search: TextSearch, store: SimpleNamespace, chunk_tokens: int = 1 << 20) -> list[int]:
    return [hit.row for hit in search.find(store, chunk_tokens) if hit is not None]


def test_the_byte_alphabet_is_the_librarys():
    assert tokenizer_module.byte_of_letter().keys() == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(tokenizer_module.byte_of_letter().values()) == list(range(256))


def test_the_pieces_of_a_text_are_the_text(trained):
    for text in (*TEXTS, "\x00\r\n\t  ~", "\u00e9\u0301\u200b"):
        (ids,) = trained.encode([text])
        assert b"".join(trained.pieces[index] for index in ids) == text.encode()
        assert trained.decode(ids) == text.replace("[SEP]", "")
    assert len(trained.pieces) == trained.vocab_size
    assert trained.token_bytes[trained.specials.sep] == 0


def test_a_document_comes_back_with_what_it_spells_out(trained):
    store = store_of(trained, TEXTS)
    assert [document_text(trained, store, row) for row in range(len(TEXTS))] == TEXTS


def test_a_hit_says_where(trained):
    store = store_of(trained, TEXTS)
    (hit,) = [hit for hit in TextSearch(trained, "na\u00efve \u4e2d").find(store) if hit is not None]
    assert (hit.row, hit.match) == (1, "na\u00efve \u4e2d")
    assert TEXTS[1] == hit.before + hit.match + hit.after


def test_every_place_in_a_document_is_given_in_tokens(trained):
    store = store_of(trained, ["xx", "the river and the river", "no"])
    search = TextSearch(trained, "river")
    spans = search.spans_in(store, 1)
    assert len(spans) == 2
    for span in spans:
        held = b"".join(trained.pieces[index] for index in store.document_tokens(1)[span.start : span.stop])
        assert held.strip() == b"river"
    assert search.spans_in(store, 2) == []
    for chunk_tokens in range(1, 9):
        assert search.spans_in(store, 1, chunk_tokens) == spans


def test_documents_are_not_joined_and_are_named_once(trained):
    store = store_of(trained, ["ab river", "river cd", "river river river", "", "rive", "r"])
    assert rows(TextSearch(trained, "riverriver"), store) == []
    assert rows(TextSearch(trained, "river"), store) == [0, 1, 2]
    assert rows(TextSearch(trained, "r"), store) == [0, 1, 2, 4, 5]


def test_case_is_ignored_when_asked(trained):
    store = store_of(trained, ["STRASSE", "stra\u00dfe", "\u00c4pfel", "\u00e4pfel", "a.c", "abc"])
    assert rows(TextSearch(trained, "\u00e4PFEL"), store) == []
    assert rows(TextSearch(trained, "\u00e4PFEL", ignore_case=True), store) == [2, 3]
    assert rows(TextSearch(trained, "stra\u00dfe", ignore_case=True), store) == [0, 1]
    assert rows(TextSearch(trained, "A.C", ignore_case=True), store) == [4]


def test_the_text_meets_the_same_normaliser(trained, tmp_path: Path):
    trained.backend.normalizer = normalizers.NFC()
    trained.save(tmp_path)
    trained.backend.normalizer = None
    composed = load_tokenizer(tmp_path)
    store = store_of(composed, ["cafe\u0301"])
    assert document_text(composed, store, 0) == "caf\u00e9"
    assert rows(TextSearch(composed, "fe\u0301"), store) == [0]
    with pytest.raises(DataError, match="nothing to look for"):
        TextSearch(composed, "")


@settings(max_examples=60)
@given(
    texts=st.lists(st.text(alphabet="aAbB \u00e9\u4e2d\n", max_size=30), max_size=6),
    wanted=st.text(alphabet="aAb \u00e9\u4e2d", min_size=1, max_size=4),
    chunk_tokens=st.integers(1, 9),
    ignore_case=st.booleans(),
)
def test_it_finds_what_python_finds_for_any_chunks(trained, texts, wanted, chunk_tokens, ignore_case):
    store = store_of(trained, texts)
    search = TextSearch(trained, wanted, ignore_case=ignore_case)
    folded = [text.lower() if ignore_case else text for text in texts]
    expected = [row for row, text in enumerate(folded) if (wanted.lower() if ignore_case else wanted) in text]
    assert rows(search, store, chunk_tokens) == expected
    assert search.scanned_bytes == sum(len(text.encode()) for text in texts)
