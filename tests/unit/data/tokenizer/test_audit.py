"""Counts of an audit, against plain ones."""

from __future__ import annotations

import pytest
from checkpointed_run import real_texts, small_tokenizer
from tokenizers import normalizers

from seqpair.data.sources.documents import Document
from seqpair.data.tokenizer.audit import audit_texts
from seqpair.data.tokenizer.facts import AnyTokenizer
from seqpair.data.tokenizer.tokenizer import Tokenizer


def documents(texts: list[str]) -> list[Document]:
    return [Document(f"d{row}", text, len(text.encode()), "f", row) for row, text in enumerate(texts)]


def saved(folder, normalizer=None) -> AnyTokenizer:
    tokenizer: Tokenizer = small_tokenizer()
    tokenizer.backend.normalizer = normalizer
    tokenizer.save(folder)
    return AnyTokenizer(folder)


def test_counts_by_source_are_plain_counts(tmp_path):
    samples = [("code", documents(real_texts()[:2])), ("signs", documents(["\u4e2d\u6587 \U0001f642", "a"]))]
    audits, use = audit_texts(saved(tmp_path), samples, "ours")
    tokenizer = small_tokenizer()
    seen = set()
    for audit, (name, sample) in zip(audits, samples, strict=True):
        ids = tokenizer.encode([document.text for document in sample])
        tokens = sum(map(len, ids))
        words = sum(len(document.text.split()) for document in sample)
        size = sum(len(document.text.encode()) for document in sample)
        assert (audit.source, audit.tokens, audit.words, audit.text_bytes) == (name, tokens, words, size)
        assert audit.tokens_per_word == pytest.approx(tokens / words)
        assert audit.bytes_per_token == pytest.approx(size / tokens)
        assert (audit.unknown, audit.not_kept) == (0, 0)
        seen.update(*(part.tolist() for part in ids))
    assert audits[1].split_letters == 10
    assert use.entries == len(tokenizer.regular_ids)
    assert use.seen == len(seen & set(tokenizer.regular_ids.tolist()))
    assert 0 < use.unused_frac < 1


def test_what_does_not_come_back_is_shown_where_it_parts(tmp_path):
    texts = ["fine", "one cafe\u0301 here", "two\u0301", "cafe\u0301", "x\u0301y\u0301 o\u0301"]
    (audit,), _ = audit_texts(saved(tmp_path, normalizers.NFC()), [("s", documents(texts))], "nfc")
    assert audit.not_kept == 4
    assert [failure.document for failure in audit.failures] == ["d1", "d2", "d3"]
    first = audit.failures[0]
    assert (first.place, first.wanted, first.got) == (7, " cafe\u0301 here", " caf\u00e9 here")


def test_no_text_gives_no_ratios(tmp_path):
    (audit,), use = audit_texts(saved(tmp_path), [("empty", [])], "ours")
    assert (audit.tokens, audit.tokens_per_word, audit.bytes_per_token) == (0, 0.0, 0.0)
    assert use.seen == 0
