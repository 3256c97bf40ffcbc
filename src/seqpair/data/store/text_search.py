"""Finding a string in stores: tokens are turned back into bytes, chunk by chunk, and searched.

The tokens of a text depend on what stands around it, so a string cannot be searched as tokens. Of a byte-level
tokenizer the bytes of the tokens, end to end, are the text; a chunk of them is made in one go by Arrow.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from seqpair.data import Numbers
from seqpair.data.store.store import Store
from seqpair.data.tokenizer.tokenizer import Tokenizer
from seqpair.errors import DataError

CHUNK_TOKENS = 1 << 20
"""Tokens that are turned into text together: about 5 MB of text."""

_AROUND_BYTES = 60


@dataclass(frozen=True)
class TextHit:
    """The first place of the string in a document.

    Attributes:
        row: The document's row in its store.
        before, match, after: The text around it (up to 60 bytes on each side) and the text found.
    """

    row: int
    before: str
    match: str
    after: str


class TextSearch:
    """A string to be found in stores of one tokenizer.

    Args:
        tokenizer: The tokenizer that the stores were made with.
        text: What to find; it is put through the tokenizer's normaliser, as the stores' text was.
        ignore_case: Let each letter also stand for its upper and lower case.

    Attributes:
        scanned_bytes: Bytes of text looked at so far, in all stores.

    Raises:
        DataError: The text is empty.
    """

    def __init__(self, tokenizer: Tokenizer, text: str, *, ignore_case: bool = False) -> None:
        text = tokenizer.normalized(text)
        if not text:
            raise DataError("there is nothing to look for", seen="an empty text", fix='for example --text "some words"')
        letters = [_variants(letter) if ignore_case else [letter.encode("utf-8")] for letter in text]
        self._pattern = re.compile(b"".join(_alternatives(letter) for letter in letters))
        self._plain = None if ignore_case else text.encode("utf-8")
        self._longest_bytes = sum(max(map(len, letter)) for letter in letters)
        self._pieces = pa.array(tokenizer.pieces, type=pa.binary())
        self.scanned_bytes = 0

    def find(self, store: Store, chunk_tokens: int = CHUNK_TOKENS) -> Iterator[TextHit | None]:
        """Yield the documents of a store that hold the text, in their order, and None after each chunk.

        Args:
            store: The store.
            chunk_tokens: Tokens looked at together; memory grows with it.
        """
        total, last_row = int(store.offsets[-1]), -1
        for start in range(0, total, chunk_tokens):
            own = min(start + chunk_tokens, total)
            stop = min(own + self._longest_bytes, total)  # a token is a byte or more: no match reaches further
            data, borders = self._decode(store, start, stop)
            self.scanned_bytes += int(borders[own - start])
            place = 0
            while (span := self._next(data, place)) is not None:
                first, end = span
                token = start + int(np.searchsorted(borders, first, side="right")) - 1
                if token >= own:  # it begins in the overlap, so the next chunk finds it
                    break
                row = int(np.searchsorted(store.offsets, token, side="right")) - 1
                row_stop = int(borders[min(int(store.offsets[row + 1]), stop) - start])
                if end > row_stop:  # it reaches into the next document
                    place = first + 1
                    continue
                # One hit a document is enough; a document of several chunks must not be given again.
                place = row_stop
                if row != last_row:
                    last_row = row
                    row_start = int(borders[max(int(store.offsets[row]) - start, 0)])
                    yield _hit(data, row, (row_start, first, end, row_stop))
            yield None

    def spans_in(self, store: Store, row: int, chunk_tokens: int = CHUNK_TOKENS) -> list[range]:
        """Return the tokens that hold the text, for each time that it stands in a document, from 0 in the document."""
        row_start, row_stop = int(store.offsets[row]), int(store.offsets[row + 1])
        found: list[range] = []
        for start in range(row_start, row_stop, chunk_tokens):
            own = min(start + chunk_tokens, row_stop)
            data, borders = self._decode(store, start, min(own + self._longest_bytes, row_stop))
            place = 0
            while (span := self._next(data, place)) is not None and span[0] < borders[own - start]:
                place = span[1]
                first, last = (int(np.searchsorted(borders, at, side="right")) - 1 for at in (span[0], span[1] - 1))
                found.append(range(start - row_start + first, start - row_start + last + 1))
        return found

    def _next(self, data: bytes, place: int) -> tuple[int, int] | None:
        if self._plain is not None:
            first = data.find(self._plain, place)
            return None if first < 0 else (first, first + len(self._plain))
        match = self._pattern.search(data, place)
        return None if match is None else match.span()

    def _decode(self, store: Store, start: int, stop: int) -> tuple[bytes, Numbers]:
        """Return the bytes of tokens [start, stop), and where each token begins and the last ends among them."""
        # Arrow lays the chosen pieces end to end in one buffer, with their borders in another: nothing is joined here.
        taken = self._pieces.take(pa.array(np.asarray(store.tokens[start:stop])))
        _, borders, data = taken.buffers()
        places = np.frombuffer(borders, dtype=np.int32)[: stop - start + 1].astype(np.int64)
        return data.to_pybytes()[: int(places[-1])], places


def document_text(tokenizer: Tokenizer, store: Store, row: int) -> str:
    """Return a document's text from its tokens; a document of broken characters gets U+FFFD for them.

    It is the text as it was encoded: after the tokenizer's normaliser, special tokens as they are written.
    """
    pieces = tokenizer.pieces
    return b"".join(pieces[index] for index in store.document_tokens(row).tolist()).decode("utf-8", errors="replace")


def _hit(data: bytes, row: int, borders: tuple[int, int, int, int]) -> TextHit:
    """Cut out the text around a match; `borders` are the document's start, the match, the document's end."""
    row_start, first, end, row_stop = borders
    before = data[max(row_start, first - _AROUND_BYTES) : first]
    after = data[end : min(row_stop, end + _AROUND_BYTES)]
    texts = (part.decode("utf-8", errors="ignore") for part in (before, data[first:end], after))
    return TextHit(row, *texts)


def _variants(letter: str) -> list[bytes]:
    """Return a letter in lower, upper and title case, as UTF-8; the longest first."""
    forms = {letter, letter.lower(), letter.upper(), letter.title(), letter.casefold()}
    return sorted((form.encode("utf-8") for form in forms), key=lambda form: (-len(form), form))


def _alternatives(forms: list[bytes]) -> bytes:
    if all(len(form) == 1 for form in forms) and len(forms) > 1:
        return b"[" + b"".join(re.escape(form) for form in forms) + b"]"
    return b"(?:" + b"|".join(re.escape(form) for form in forms) + b")" if len(forms) > 1 else re.escape(forms[0])
