"""An audit of tokenizers on text: how many tokens a word costs, what is unknown, what does not come back.

A word is what stands between white space. Fertility is the mean number of tokens of a word over a whole text, white
space and punctuation included; Source: Rust et al. 2021, How Good is Your Tokenizer?, arXiv 2012.15613, who count
words by treebank rules instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqpair.data.sources.documents import Document, batches_of
from seqpair.data.tokenizer.facts import AnyTokenizer
from seqpair.data.tokenizer.tokenizer import byte_of_letter
from seqpair.text import Progress

_SHOWN_FAILURES = 3
_SHOWN_LETTERS = 24


@dataclass(frozen=True)
class Failure:
    """A document that does not come back: the first place where the texts part, and what stands there."""

    document: str
    place: int
    wanted: str
    got: str


@dataclass(frozen=True)
class SourceAudit:
    """What one tokenizer makes of the sample of one source.

    Attributes:
        source: The source's name.
        documents, words, text_bytes, tokens: Counts.
        tokens_per_word, bytes_per_token: Their ratios.
        unknown: Unknown tokens.
        split_letters: Tokens that are a part of a letter: bytes that are no text by themselves.
        not_kept: Documents that do not come back byte for byte.
        failures: The first of them.
    """

    source: str
    documents: int
    words: int
    text_bytes: int
    tokens: int
    tokens_per_word: float
    bytes_per_token: float
    unknown: int
    split_letters: int
    not_kept: int
    failures: tuple[Failure, ...]


@dataclass(frozen=True)
class UseOfVocabulary:
    """How much of a vocabulary the sample uses: entries that stand for text, those seen, those seen once."""

    entries: int
    seen: int
    seen_once: int

    @property
    def unused_frac(self) -> float:
        """The share of the entries that the sample does not use."""
        return 1 - self.seen / self.entries if self.entries else 0.0


def audit_texts(
    tokenizer: AnyTokenizer, sources: Sequence[tuple[str, Sequence[Document]]], label: str
) -> tuple[list[SourceAudit], UseOfVocabulary]:
    """Encode every document and decode it again.

    Args:
        tokenizer: What is audited.
        sources: Each source's name and the documents of its sample.
        label: The tokenizer's name, for the progress line.

    Returns:
        The audit of each source, and of the vocabulary over all of them.
    """
    total_bytes = sum(document.text_bytes for _, documents in sources for document in documents)
    progress = Progress(f"encoding with {label}", total_bytes / 1e6, "MB")
    seen = np.zeros(tokenizer.entries, dtype=np.int64)
    split = _split_letters(tokenizer)
    done_bytes, found = 0, []
    for name, documents in sources:
        counted = np.zeros(tokenizer.entries, dtype=np.int64)
        failures: list[Failure] = []
        not_kept = 0
        for batch in batches_of(documents, 4096):
            texts = [document.text for document in batch]
            encodings = tokenizer.backend.encode_batch_fast(texts, add_special_tokens=False)
            cuts = [encoding.ids for encoding in encodings]
            for ids in cuts:
                counted += np.bincount(np.array(ids, dtype=np.int64), minlength=tokenizer.entries)
            backs = tokenizer.backend.decode_batch(cuts, skip_special_tokens=False)
            for document, back in zip(batch, backs, strict=True):
                if back != document.text:
                    not_kept += 1
                    if len(failures) < _SHOWN_FAILURES:
                        failures.append(_failure(document, back))
            done_bytes += sum(document.text_bytes for document in batch)
            progress.update(done_bytes / 1e6)
        found.append(_summed(name, documents, counted, split, tokenizer.unknown, (not_kept, tuple(failures))))
        seen += counted
    progress.finish()
    return found, _use(tokenizer, seen)


def _summed(
    name: str,
    documents: Sequence[Document],
    counted: np.ndarray,
    split: np.ndarray,
    unknown: int | None,
    failed: tuple[int, tuple[Failure, ...]],
) -> SourceAudit:
    words = sum(len(document.text.split()) for document in documents)
    text_bytes = sum(document.text_bytes for document in documents)
    tokens = int(counted.sum())
    return SourceAudit(
        source=name,
        documents=len(documents),
        words=words,
        text_bytes=text_bytes,
        tokens=tokens,
        tokens_per_word=tokens / words if words else 0.0,
        bytes_per_token=text_bytes / tokens if tokens else 0.0,
        unknown=0 if unknown is None else int(counted[unknown]),
        split_letters=int(counted[split].sum()),
        not_kept=failed[0],
        failures=failed[1],
    )


def _split_letters(tokenizer: AnyTokenizer) -> np.ndarray:
    """Return which ids stand for bytes that are no UTF-8 text by themselves, bool (entries,)."""
    broken = np.zeros(tokenizer.entries, dtype=bool)
    byte_of = byte_of_letter()
    for token, index in tokenizer.backend.get_vocab(with_added_tokens=False).items():
        if not tokenizer.is_byte_level:
            broken[index] = re.fullmatch(r"<0x[89A-F][0-9A-F]>", token) is not None
        elif set(token) <= byte_of.keys():
            broken[index] = not _is_text(bytes(byte_of[letter] for letter in token))
    return broken


def _is_text(piece: bytes) -> bool:
    try:
        piece.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _use(tokenizer: AnyTokenizer, seen: np.ndarray) -> UseOfVocabulary:
    """Count over entries that stand for text; specials and added tokens are left out."""
    vocabulary = tokenizer.backend.get_vocab(with_added_tokens=False)
    added = {entry["content"] for entry in tokenizer.content["added_tokens"]}
    ids = np.array([index for token, index in vocabulary.items() if token not in added], dtype=np.int64)
    return UseOfVocabulary(int(ids.size), int((seen[ids] > 0).sum()), int((seen[ids] == 1).sum()))


def _failure(document: Document, back: str) -> Failure:
    text = document.text
    same = next((i for i, (a, b) in enumerate(zip(text, back, strict=False)) if a != b), min(len(text), len(back)))
    begin = max(0, same - 4)
    return Failure(document.id, same, text[begin : begin + _SHOWN_LETTERS], back[begin : begin + _SHOWN_LETTERS])
