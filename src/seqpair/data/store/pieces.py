"""Pieces: which part of which document a sequence is, for one sequence length.

A document of n content tokens gives k = ceil(n / (L - 2)) sequences, piece i = tokens
[i * n // k, (i + 1) * n // k): near-equal, nothing dropped, no tiny tails. An empty document gives none.

The file `pieces-<L>.i64` is native little-endian int64: a header of four words (format, L, documents,
tokens), then documents + 1 cumulative piece counts that begin with 0. It is only a cache: whatever does
not fit the offsets is made again.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqpair.data import Numbers
from seqpair.errors import StoreError
from seqpair.files import remembered, replacing_file

ADDED_TOKENS = 2
"""Places of a full sequence that are kept for `[CLS]` and `[SEP]`."""

_FORMAT = 1
_HEADER_WORDS = 4
_CHUNK_DOCUMENTS = 1 << 20


@dataclass(frozen=True)
class Pieces:
    """Where sequences lie in their store; all int64, (S,).

    Attributes:
        rows: The document's row in the store.
        piece: Which piece of it, from 0.
        pieces_of_row: How many pieces the document has.
        start, stop: The first token and the one after the last, as offsets into the store's tokens.
    """

    rows: Numbers
    piece: Numbers
    pieces_of_row: Numbers
    start: Numbers
    stop: Numbers


class PieceIndex:
    """The sequences of one store at one sequence length.

    Attributes:
        seq_len: Tokens of a full sequence L, specials included.
        count: How many sequences there are.
    """

    def __init__(self, offsets: Numbers, cumulative: Numbers, seq_len: int) -> None:
        self._offsets, self._cumulative = offsets, cumulative
        self.seq_len = seq_len
        self.count = int(cumulative[-1])

    @classmethod
    def open(cls, folder: Path, offsets: Numbers, seq_len: int) -> PieceIndex:
        """Open a store's index, making it first if it is not there or does not fit.

        Args:
            folder: The store's folder.
            offsets: (documents + 1,) int64 token offsets of the documents, from 0, never falling.
            seq_len: Tokens of a full sequence L, specials included; at least 3.

        Raises:
            StoreError: The offsets fall, or the sequence length leaves no room for a token.
            DiskFullError: The disk cannot hold the index.
        """
        if seq_len <= ADDED_TOKENS:
            raise StoreError("a sequence must have room for a token", seen=seq_len, allowed=f">= {ADDED_TOKENS + 1}")
        offsets = np.asarray(offsets)
        path = folder / f"pieces-{seq_len}.i64"
        header = np.array([_FORMAT, seq_len, offsets.size - 1, offsets[-1]], dtype=np.int64)
        cumulative = _read(path, header)
        if cumulative is None or not counts_fit(path, offsets):
            cumulative = _make(path, header, offsets)
        return cls(offsets, cumulative, seq_len)

    def locate(self, sequences: Numbers) -> Pieces:
        """Return where sequences lie.

        Args:
            sequences: (S,) int64, each in [0, count).

        Raises:
            IndexError: A sequence is outside [0, count).
        """
        sequences = np.asarray(sequences, dtype=np.int64)
        if sequences.size and (sequences.min() < 0 or sequences.max() >= self.count):
            raise IndexError(f"sequences [{sequences.min()}, {sequences.max()}] are not all in [0, {self.count})")
        ascending = np.argsort(sequences)  # so that the search goes through the index once, from one end to the other
        rows = np.empty_like(sequences)
        rows[ascending] = np.searchsorted(self._cumulative, sequences[ascending], side="right") - 1
        first = self._cumulative[rows]
        piece, pieces_of_row = sequences - first, self._cumulative[rows + 1] - first
        start, stop = self._offsets[rows], self._offsets[rows + 1]
        # Most documents are one piece, whose bounds are the document's: only the others are worth a division.
        cut = np.flatnonzero(pieces_of_row > 1)
        begin, tokens, number, count = start[cut], stop[cut] - start[cut], piece[cut], pieces_of_row[cut]
        start[cut] = begin + number * tokens // count
        stop[cut] = begin + (number + 1) * tokens // count
        return Pieces(rows=rows, piece=piece, pieces_of_row=pieces_of_row, start=start, stop=stop)

    def sequences_of(self, row: int) -> range:
        """Return the sequences of a document, in piece order; empty if it has no tokens.

        Raises:
            IndexError: There is no such row.
        """
        if not 0 <= row < self._cumulative.size - 1:
            raise IndexError(f"row {row} is not in [0, {self._cumulative.size - 1})")
        return range(int(self._cumulative[row]), int(self._cumulative[row + 1]))


def _read(path: Path, header: Numbers) -> Numbers | None:
    """Return the memory-mapped cumulative counts, or None if the file does not fit."""
    wanted_words = _HEADER_WORDS + int(header[2]) + 1
    if not path.is_file() or path.stat().st_size != wanted_words * 8:
        return None
    words = np.asarray(np.memmap(path, dtype=np.int64, mode="r"))
    cumulative = words[_HEADER_WORDS:]
    fits = np.array_equal(words[:_HEADER_WORDS], header) and cumulative[0] == 0
    return cumulative if fits else None


def counts_fit(path: Path, offsets: Numbers) -> bool:
    """Return whether a piece file is what the offsets give; what was found of a large file is remembered."""

    def compared() -> str:
        words = np.memmap(path, dtype=np.int64, mode="r")
        room, cumulative = int(words[1]) - ADDED_TOKENS, words[_HEADER_WORDS:]
        fits = words.size == _HEADER_WORDS + offsets.size and room > 0
        for first in range(0, offsets.size - 1, _CHUNK_DOCUMENTS) if fits else ():
            counts = _counts(offsets, first, room)
            fits = fits and np.array_equal(np.diff(cumulative[first : first + counts.size + 1]), counts)
        return str(fits)

    return remembered(path, f" for {offsets.size - 1} documents", compared) == str(True)


def _counts(offsets: Numbers, first: int, room: int) -> Numbers:
    """Return the piece counts of a chunk of documents, from row `first` on."""
    tokens = np.diff(offsets[first : first + _CHUNK_DOCUMENTS + 1])
    if tokens.size and tokens.min() < 0:
        row = first + int(np.argmin(tokens))
        raise StoreError(
            "the store's document offsets fall",
            seen=f"row {row} has {tokens.min()} tokens",
            fix="prepare the store again: remove its folder, then `seqpair prepare`",
        )
    return -(-tokens // room)  # the ceiling, in whole numbers


def _make(path: Path, header: Numbers, offsets: Numbers) -> Numbers:
    """Write the index whole or not at all and return it; in memory where the folder is read-only."""
    room, documents = int(header[1]) - ADDED_TOKENS, int(header[2])
    try:
        with replacing_file(path) as temporary, temporary.open("wb") as handle:
            handle.write(header.tobytes())
            handle.write(np.zeros(1, dtype=np.int64).tobytes())
            total = 0
            for first in range(0, documents, _CHUNK_DOCUMENTS):
                cumulative = total + np.cumsum(_counts(offsets, first, room))
                total = int(cumulative[-1])
                handle.write(cumulative.astype(np.int64).tobytes())
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        # A store on a read-only disk works too, only that the index is made anew by each process.
        chunks = [_counts(offsets, first, room) for first in range(0, documents, _CHUNK_DOCUMENTS)]
        return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.concatenate([*chunks, offsets[:0]]))])
    made = _read(path, header)
    assert made is not None, f"{path} does not fit right after it was written"
    return made
