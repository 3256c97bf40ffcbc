"""Batches: the sequences of one step, or a rank's share of them, their digests, and the rows that a model is given."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seqpair.data import Numbers
from seqpair.data.order.order import PhaseOrder
from seqpair.data.store.pieces import Pieces
from seqpair.errors import StoreError

if TYPE_CHECKING:
    from seqpair.data.tokenizer.tokenizer import SpecialIds

Tokens = NDArray[np.uint32]
_SHORT_TOKENS = 64
CHUNK_TOKENS = 1 << 16
"""Tokens that are worked on together: their indices and words stay in a core's cache."""


@dataclass(frozen=True)
class Addresses:
    """Where the sequences at some positions come from.

    Attributes:
        positions: (S,) int64.
        source: (S,) int32, index into the order's `sources`.
        epoch: (S,) int64, how often the source has been used up before.
        pieces: Document rows, pieces and token offsets in the source's store.
    """

    positions: Numbers
    source: NDArray[np.int32]
    epoch: Numbers
    pieces: Pieces

    @property
    def lengths(self) -> Numbers:
        """Return (S,) int64 content tokens of each sequence."""
        return self.pieces.stop - self.pieces.start

    @property
    def is_last_piece(self) -> NDArray[np.bool_]:
        """Return (S,) bool, whether each is its document's last piece."""
        is_last: NDArray[np.bool_] = self.pieces.piece == self.pieces.pieces_of_row - 1
        return is_last

    def take(self, indices: Numbers) -> Addresses:
        """Return the addresses of some of the sequences."""
        pieces = Pieces(*(getattr(self.pieces, column.name)[indices] for column in fields(Pieces)))
        return Addresses(self.positions[indices], self.source[indices], self.epoch[indices], pieces)


@dataclass(frozen=True)
class Batch:
    """Sequences of one step, all of them or a rank's share, in position order; content tokens only, no specials.

    Attributes:
        phase: The phase's name.
        step: The step within the phase, from 0.
        positions: (S,) int64 training positions.
        source: (S,) int32 index into the order's `sources`.
        rows: (S,) int64 document rows in the source's store.
        pieces: (S,) int32 which piece of its document each sequence is.
        is_last_piece: (S,) bool whether it is its document's last.
        content: (T,) uint32 token ids.
        offsets: (S + 1,) int64: sequence i is `content[offsets[i]:offsets[i + 1]]`.
    """

    phase: str
    step: int
    positions: Numbers
    source: NDArray[np.int32]
    rows: Numbers
    pieces: NDArray[np.int32]
    is_last_piece: NDArray[np.bool_]
    content: Tokens
    offsets: Numbers

    @property
    def lengths(self) -> Numbers:
        """Return (S,) int64 content tokens of each sequence."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class PackedRows:
    """Some sequences of a batch with their special tokens, end to end.

    Attributes:
        ids: (N,) int64 token ids.
        lengths: (S,) int64 tokens of each sequence, specials included.
        positions: (S,) int64 their training positions.
        indices: (S,) int64 their places in the batch.
    """

    ids: Numbers
    lengths: Numbers
    positions: Numbers
    indices: Numbers


def read_addresses(order: PhaseOrder, positions: Numbers) -> Addresses:
    """Return where the sequences at some positions come from, without reading them."""
    positions = np.asarray(positions, dtype=np.int64)
    refs = order.refs(positions)
    columns = np.empty((5, positions.size), dtype=np.int64)
    for index, pieces in enumerate(order.pieces):
        mine = np.flatnonzero(refs.source == index) if len(order.pieces) > 1 else slice(None)
        found = pieces.locate(refs.sequence[mine])
        columns[:, mine] = (found.rows, found.piece, found.pieces_of_row, found.start, found.stop)
    return Addresses(positions=positions, source=refs.source, epoch=refs.epoch, pieces=Pieces(*columns))


def read_batch(order: PhaseOrder, step: int) -> Batch:
    """Read the sequences of one step, those of all ranks.

    Raises:
        IndexError: The phase has no such step.
        StoreError: A store's offsets reach past its tokens.
    """
    return read_sequences(order, step, step_addresses(order, step))


def step_addresses(order: PhaseOrder, step: int) -> Addresses:
    """Return where the sequences of one step come from, those of all ranks.

    Raises:
        IndexError: The phase has no such step.
    """
    span = order.phase.positions_of(step)
    return read_addresses(order, np.arange(span.start, span.stop, dtype=np.int64))


def read_sequences(order: PhaseOrder, step: int, at: Addresses) -> Batch:
    """Read some sequences of a step.

    Args:
        order: The phase's order.
        step: The step.
        at: Where they come from, in position order.

    Raises:
        StoreError: A store's offsets reach past its tokens.
    """
    offsets = borders_of(at.lengths)
    return Batch(
        phase=order.phase.name,
        step=step,
        positions=at.positions,
        source=at.source,
        rows=at.pieces.rows,
        pieces=at.pieces.piece.astype(np.int32),
        is_last_piece=at.is_last_piece,
        content=_read_content(order, at, offsets),
        offsets=offsets,
    )


def sequence_lengths(some: Batch | Addresses, ends_every_piece: bool) -> Numbers:
    """Return each sequence's tokens with `[CLS]` and, where the objective puts one, `[SEP]`.

    Args:
        some: The sequences, read or not.
        ends_every_piece: Whether `[SEP]` ends every piece, or only a document's last one.

    Returns:
        (S,) int64.
    """
    return some.lengths + 1 + _ends(some, ends_every_piece)


def assemble(batch: Batch, indices: Numbers, specials: SpecialIds, ends_every_piece: bool) -> PackedRows:
    """Lay some sequences of a batch end to end, with their special tokens.

    Args:
        batch: The batch.
        indices: (S,) int64 places in the batch; the rows keep this order.
        specials: The tokenizer's special ids.
        ends_every_piece: Whether `[SEP]` ends every piece, or only a document's last one.
    """
    indices = np.asarray(indices, dtype=np.int64)
    begin = batch.offsets[indices]
    ended = _ends(batch, ends_every_piece)[indices]
    lengths = batch.offsets[indices + 1] - begin + 1 + ended
    borders = borders_of(lengths)
    # One token before the content and, where a row is ended, one after it are taken along and written over.
    ids = batch.content.take(span_numbers(begin - 1, lengths), mode="clip").astype(np.int64)
    ids[borders[:-1]] = specials.cls
    ids[borders[1:][ended] - 1] = specials.sep
    return PackedRows(ids=ids, lengths=lengths, positions=batch.positions[indices], indices=indices)


def _ends(some: Batch | Addresses, ends_every_piece: bool) -> NDArray[np.bool_]:
    return some.is_last_piece | ends_every_piece


def _read_content(order: PhaseOrder, at: Addresses, offsets: Numbers) -> Tokens:
    """Read the sequences' tokens, end to end in position order.

    Long sequences are copied one by one. Short ones are taken by index, whose cost is by token: 3 ns and, with
    several sources, 7, against 350 ns a copy.
    """
    for index, store in enumerate(order.stores):
        stops = at.pieces.stop[at.source == index]
        if stops.size and stops.max() > store.tokens.size:
            seen = f"a document that ends at token {stops.max()}"
            raise StoreError("a store's offsets reach past its tokens", seen=seen, allowed=f"<= {store.tokens.size}")
    tokens = [np.asarray(store.tokens) for store in order.stores]  # plain views: slicing a memory map costs more
    content = np.empty(int(offsets[-1]), dtype=np.uint32)
    if content.size < _SHORT_TOKENS * at.positions.size:
        for index, of_source in enumerate(tokens):
            mine = np.flatnonzero(at.source == index)
            lengths = at.pieces.stop[mine] - at.pieces.start[mine]
            for some in chunks(borders_of(lengths)):
                taken = of_source.take(span_numbers(at.pieces.start[mine[some]], lengths[some]), mode="clip")
                if mine.size == at.source.size:  # one source alone: its sequences are neighbours in the batch too
                    content[offsets[some.start] : offsets[some.stop]] = taken
                else:
                    content[span_numbers(offsets[mine[some]], lengths[some])] = taken
        return content
    columns = (at.source, at.pieces.start, at.pieces.stop, offsets[:-1], offsets[1:])
    for index, start, stop, first, last in zip(*(column.tolist() for column in columns), strict=True):
        content[first:last] = tokens[index][start:stop]
    return content


def sequence_digests(batch: Batch) -> Numbers:
    """Return the SHA-256 of each sequence's tokens as uint32, (S, 4): 32 bytes as four int64, all little-endian."""
    content = np.ascontiguousarray(batch.content.astype("<u4", copy=False)).view(np.uint8).data
    borders = (4 * batch.offsets).tolist()
    digests = [hashlib.sha256(content[first:last]).digest() for first, last in itertools.pairwise(borders)]
    return np.frombuffer(b"".join(digests), dtype="<i8").reshape(-1, 4)


def step_digest(positions: Numbers, digests: Numbers) -> str:
    """Return the SHA-256 of a whole step: its positions as int64, then the digests of its sequences.

    Args:
        positions: (S,) int64, ascending.
        digests: (S, 4) of `sequence_digests`, in the same order; ranks put theirs together.
    """
    state = hashlib.sha256()
    for array in (positions, digests):
        state.update(np.ascontiguousarray(array.astype("<i8", copy=False)).data)
    return state.hexdigest()


def borders_of(lengths: Numbers) -> Numbers:
    """Return the (S + 1,) borders of S sequences laid end to end, int64, from 0."""
    borders = np.zeros(lengths.size + 1, dtype=np.int64)
    np.cumsum(lengths, out=borders[1:])
    return borders


def span_numbers(starts: Numbers, lengths: Numbers) -> Numbers:
    """Return the numbers of all spans [start, start + length), one span after another, int64."""
    borders = borders_of(lengths)
    # Number i of span s is start_s + (i - border_s): the offset of each span repeated, plus a counter over all.
    spans = np.repeat(starts - borders[:-1], lengths)
    spans += np.arange(spans.size, dtype=np.int64)
    return spans


def chunks(borders: Numbers, most_tokens: int = CHUNK_TOKENS) -> Iterator[slice]:
    """Yield runs of whole sequences of at most `most_tokens`; a longer sequence is a run by itself.

    Args:
        borders: (S + 1,) from `borders_of`.
        most_tokens: At least 1.

    Yields:
        Slices of [0, S), one after another; together they are all of it.
    """
    first, count = 0, borders.size - 1
    while first < count:
        stop = int(np.searchsorted(borders, borders[first] + most_tokens, side="right")) - 1
        stop = max(stop, first + 1)
        yield slice(first, stop)
        first = stop
