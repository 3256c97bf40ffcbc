"""Batches: the content of one step over all ranks, and the rows that a model is given.

Owns reading a step's tokens and adding special tokens. Must not know objectives beyond one question
(does `[SEP]` end every piece?), ranks or devices. Entry points: `read_batch`, `sequence_lengths`, `assemble`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seqpair.data.order import PhaseOrder
from seqpair.data.pieces import Pieces

if TYPE_CHECKING:
    from seqpair.data.tokenizer import SpecialIds

Numbers = NDArray[np.int64]


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


@dataclass(frozen=True)
class Batch:
    """One step over all ranks, in position order; content tokens only, no specials.

    Attributes:
        phase: The phase's name.
        step: The step within the phase, from 0.
        positions: (S,) int64 training positions.
        source: (S,) int32 index into the order's `sources`.
        rows: (S,) int64 document rows in the source's store.
        pieces: (S,) int32 which piece of its document each sequence is.
        is_last_piece: (S,) bool whether it is its document's last.
        content: (T,) int64 token ids.
        offsets: (S + 1,) int64: sequence i is `content[offsets[i]:offsets[i + 1]]`.
        digest: SHA-256 over positions, borders and content, in position order.
    """

    phase: str
    step: int
    positions: Numbers
    source: NDArray[np.int32]
    rows: Numbers
    pieces: NDArray[np.int32]
    is_last_piece: NDArray[np.bool_]
    content: Numbers
    offsets: Numbers
    digest: str


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
        mine = np.flatnonzero(refs.source == index)
        found = pieces.locate(refs.sequence[mine])
        columns[:, mine] = (found.rows, found.piece, found.pieces_of_row, found.start, found.stop)
    return Addresses(positions=positions, source=refs.source, epoch=refs.epoch, pieces=Pieces(*columns))


def read_batch(order: PhaseOrder, step: int) -> Batch:
    """Read the sequences of one step, those of all ranks.

    Raises:
        IndexError: The phase has no such step.
    """
    span = order.phase.positions_of(step)
    at = read_addresses(order, np.arange(span.start, span.stop, dtype=np.int64))
    lengths = at.pieces.stop - at.pieces.start
    offsets = _borders(lengths)
    content = np.empty(int(offsets[-1]), dtype=np.int64)
    for index, store in enumerate(order.stores):
        mine = np.flatnonzero(at.source == index)
        taken = store.tokens[_spans(at.pieces.start[mine], lengths[mine])]
        if mine.size == at.source.size:
            content[:] = taken
        else:
            content[_spans(offsets[mine], lengths[mine])] = taken
    return Batch(
        phase=order.phase.name,
        step=step,
        positions=at.positions,
        source=at.source,
        rows=at.pieces.rows,
        pieces=at.pieces.piece.astype(np.int32),
        is_last_piece=at.pieces.piece == at.pieces.pieces_of_row - 1,
        content=content,
        offsets=offsets,
        digest=_digest(at.positions, offsets, content),
    )


def sequence_lengths(batch: Batch, ends_every_piece: bool) -> Numbers:
    """Return each sequence's tokens with `[CLS]` and, where the objective puts one, `[SEP]`.

    Args:
        batch: The batch.
        ends_every_piece: Whether `[SEP]` ends every piece, or only a document's last one.

    Returns:
        (S,) int64.
    """
    return np.diff(batch.offsets) + 1 + _ends(batch, ends_every_piece)


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
    content_lengths = batch.offsets[indices + 1] - begin
    ended = _ends(batch, ends_every_piece)[indices]
    lengths = content_lengths + 1 + ended
    borders = _borders(lengths)
    ids = np.empty(int(borders[-1]), dtype=np.int64)
    ids[borders[:-1]] = specials.cls
    ids[borders[1:][ended] - 1] = specials.sep
    ids[_spans(borders[:-1] + 1, content_lengths)] = batch.content[_spans(begin, content_lengths)]
    return PackedRows(ids=ids, lengths=lengths, positions=batch.positions[indices], indices=indices)


def _ends(batch: Batch, ends_every_piece: bool) -> NDArray[np.bool_]:
    return batch.is_last_piece | ends_every_piece


def _borders(lengths: Numbers) -> Numbers:
    """Return the (S + 1,) borders of sequences laid end to end."""
    borders = np.zeros(lengths.size + 1, dtype=np.int64)
    np.cumsum(lengths, out=borders[1:])
    return borders


def _spans(starts: Numbers, lengths: Numbers) -> Numbers:
    """Return the numbers of all spans [start, start + length), one span after another."""
    borders = _borders(lengths)
    spans = np.repeat(starts - borders[:-1], lengths)
    spans += np.arange(spans.size, dtype=np.int64)
    return spans


def _digest(positions: Numbers, offsets: Numbers, content: Numbers) -> str:
    """Return the SHA-256 of a batch: two int64 arrays and the tokens as uint32, little-endian."""
    state = hashlib.sha256()
    for array, kind in ((positions, "<i8"), (offsets, "<i8"), (content, "<u4")):
        state.update(np.ascontiguousarray(array.astype(kind, copy=False)).data)
    return state.hexdigest()
