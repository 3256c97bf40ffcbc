"""Token ids that were published: what must hold before they are taken for the study's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from seqpair.data.prepare.parts import TokenArray
from seqpair.data.sources.documents import Document
from seqpair.data.tokenizer.tokenizer import IdArray, Tokenizer
from seqpair.errors import DataError

_TRIED_DOCUMENTS = 16
_LEAST_DOCUMENTS = 4
_TRIED_TOKENS = 256
_LEAST_TOKENS = 16
_LEAST_EQUAL_FRAC = 0.25
"""Ids of the same tokenizer nearly always come back from their text; those of another nearly never do."""


class DocumentEncoder:
    """Turns documents into content ids: encodes text, and checks ids that were published.

    Ids of another tokenizer may all lie inside the vocabulary. So the first documents are decoded and
    encoded again: with the tokenizer that made them they come back, but for rare texts.

    Args:
        tokenizer: The study's tokenizer.
        source: The source's name, for messages.
    """

    def __init__(self, tokenizer: Tokenizer, source: str) -> None:
        self._tokenizer, self._source = tokenizer, source
        self._tried = self._equal = 0

    def texts_encoded(self, documents: Sequence[Document], dtype: str) -> list[TokenArray]:
        """Return the content ids of the documents that have text; needs no state, so threads may call it.

        Args:
            documents: Documents with text, or with published ids.
            dtype: `uint16` or `uint32`.
        """
        texts = [document.text for document in documents if document.ids is None]
        return self._tokenizer.encode_narrow(texts, dtype) if texts else []

    def joined(
        self, documents: Sequence[Document], encoded: Sequence[TokenArray]
    ) -> Iterator[tuple[Document, TokenArray]]:
        """Yield each document with its content ids, (n,); n may be 0. Batches have to come in reading order.

        Documents that came with ids get the bytes of the text that these stand for.

        Args:
            documents: A batch.
            encoded: What `texts_encoded` gave for it.

        Raises:
            DataError: Published ids are outside the vocabulary, or another tokenizer made them.
        """
        made = iter(encoded)
        for document in documents:
            yield (document, next(made)) if document.ids is None else self._published(document, document.ids)

    def finish(self) -> None:
        """Say what the documents tried so far show, at the end of a unit that has few.

        Raises:
            DataError: Another tokenizer made the published ids.
        """
        if self._tried >= _LEAST_DOCUMENTS and self._equal < _LEAST_EQUAL_FRAC * self._tried:
            raise self._other_tokenizer(
                f"{self._equal} of the first {self._tried} documents come back when their text is tokenized again",
                "ids that this study's tokenizer gives",
            )

    def _published(self, document: Document, given: IdArray) -> tuple[Document, IdArray]:
        tokenizer, specials = self._tokenizer, self._tokenizer.specials
        low, high = (int(given.min()), int(given.max())) if len(given) else (0, 0)
        if low < 0 or high >= tokenizer.entries:
            raise self._other_tokenizer(
                f"id {low if low < 0 else high} at {document.place}", f"ids from 0 to {tokenizer.entries - 1}"
            )
        first = 1 if len(given) and given[0] == specials.cls else 0
        last = len(given) - 1 if len(given) > first and given[-1] == specials.sep else len(given)
        ids = given[first:last]
        self._try(ids)
        return replace(document, text_bytes=int(tokenizer.token_bytes[ids].sum())), ids

    def _try(self, ids: IdArray) -> None:
        """Encode the first documents' text again, and count how many come back."""
        if self._tried == _TRIED_DOCUMENTS or len(ids) < _LEAST_TOKENS:
            return
        # Both ends may be cut inside a word or a character, as published chunks are: only the middle is compared.
        part = ids[:_TRIED_TOKENS]
        [again] = self._tokenizer.encode([self._tokenizer.decode(part)])
        middle = part[len(part) // 4 : -(len(part) // 4)]
        windows = np.lib.stride_tricks.sliding_window_view(again, len(middle)) if len(again) >= len(middle) else again
        self._tried += 1
        self._equal += bool(len(again) >= len(middle) and (windows == middle).all(axis=1).any())
        if self._tried == _TRIED_DOCUMENTS:
            self.finish()

    def _other_tokenizer(self, seen: str, allowed: str) -> DataError:
        return DataError(
            f"source {self._source!r}: its token ids were made with another tokenizer",
            seen=seen,
            allowed=allowed,
            fix="set `data.tokenizer.path` to the tokenizer that the ids were published with, or use the text",
        )
