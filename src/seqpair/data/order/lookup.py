"""Questions to the order: what a step holds, and when a document is read and by which checkpoints seen."""

from __future__ import annotations

import contextlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seqpair.data.order.batches import read_addresses, read_batch
from seqpair.data.order.ledger import LedgerRecord
from seqpair.data.order.order import PhaseOrder
from seqpair.errors import RecipeError, StoreError
from seqpair.recipe.plan import PhasePlan, Plan
from seqpair.text import nearest

if TYPE_CHECKING:
    from seqpair.data.prepared import Prepared
    from seqpair.data.store.store import Store


@dataclass(frozen=True)
class SequenceEntry:
    """One sequence of a step: piece `piece` (from 0) of `pieces` of a document, `tokens` content tokens."""

    position: int
    source: str
    document: str
    piece: int
    pieces: int
    tokens: int
    epoch: int


@dataclass(frozen=True)
class StepContent:
    """A step's sequences in position order, its digests, and each source's share of a round's content tokens."""

    study: str
    phase: str
    step: int
    steps: int
    content_tokens: int
    mixture: dict[str, float]
    order_digest: str
    batch_digest: str
    sequences: list[SequenceEntry]


@dataclass(frozen=True)
class Reading:
    """One time that a piece of a document is read."""

    phase: str
    step: int
    position: int
    piece: int
    epoch: int


@dataclass(frozen=True)
class SeenBy:
    """A checkpoint, and how many sequences of the document were read before it, earlier phases included."""

    checkpoint: str
    phase: str
    sequences_read: int


@dataclass(frozen=True)
class DocumentTrace:
    """All readings of one document in the plan, and the checkpoints planned after the first of them."""

    source: str
    document: str
    tokens: int
    pieces: dict[str, int]
    readings: list[Reading]
    seen_by: list[SeenBy]


def step_content(plan: Plan, phase: PhasePlan, step: int, prepared: Prepared) -> StepContent:
    """Return what one step holds.

    Raises:
        RecipeError: The phase has no such step.
    """
    if not 0 <= step < phase.steps:
        raise RecipeError(
            f"phase {phase.name!r} has no such step", seen=step, allowed=f"0 to {phase.steps - 1}, counted from 0"
        )
    made = PhaseOrder(plan.seed, phase, prepared.train)
    batch = read_batch(made, step)
    at = read_addresses(made, batch.positions)
    names: dict[tuple[int, int], str] = {}
    for key in sorted(set(zip(batch.source.tolist(), batch.rows.tolist(), strict=True))):
        names[key] = made.stores[key[0]].document_id(key[1])
    columns = (batch.positions, batch.source, batch.rows, batch.pieces, at.pieces.pieces_of_row)
    rows = zip(*(column.tolist() for column in (*columns, batch.lengths, at.epoch)), strict=True)
    return StepContent(
        study=plan.study,
        phase=phase.name,
        step=step,
        steps=phase.steps,
        content_tokens=int(batch.content.size),
        mixture=made.mixture.token_fracs(),
        order_digest=made.digest,
        batch_digest=LedgerRecord.of(batch).digest,
        sequences=[
            SequenceEntry(position, made.sources[index], names[index, row], piece, pieces, tokens, epoch)
            for position, index, row, piece, pieces, tokens, epoch in rows
        ],
    )


def trace_document(
    plan: Plan, phases: Sequence[PhasePlan], document: str, source: str, prepared: Prepared
) -> list[DocumentTrace]:
    """Return when a document is read, once for each source that has a document of this id.

    Args:
        plan: The plan of any member that trains from scratch, or of the member meant.
        phases: The phases to report on; what was read before them still counts for their checkpoints.
        document: The document's id.
        source: Look in this source only; in all of them if empty.
        prepared: The recipe's data.

    Raises:
        RecipeError: The plan has no such source.
        StoreError: No training store has the document; the message says so if it is held out.
    """
    searched = searched_sources(source, prepared)
    found = find_document(document, searched, prepared.train)
    if not found:
        held_out = find_document(document, searched, prepared.held_out)
        where = f"held out for evaluation in {', '.join(held_out)}: no step reads it" if held_out else "in no store"
        raise StoreError(
            "no training store has a document of this id",
            seen=f"{document!r}, {where}",
            allowed="; ".join(_example(name, prepared.train[name]) for name in searched),
            fix="`seqpair order RECIPE --step 0` shows ids; documents.parquet in a store lists all of them",
        )
    tracer = Tracer(plan, phases, prepared)
    return [tracer.trace(name, row) for name, row in found.items()]


class Tracer:
    """Says when documents are read; the orders of the phases are made once for all of them.

    Args:
        plan: The plan whose order is asked.
        phases: The phases to report on; what was read before them still counts for their checkpoints.
        prepared: The recipe's data.
    """

    def __init__(self, plan: Plan, phases: Sequence[PhasePlan], prepared: Prepared) -> None:
        self.plan, self.prepared = plan, prepared
        self._chosen = {phase.name for phase in phases}
        self._orders: dict[str, PhaseOrder] = {}

    def trace(self, source: str, row: int, spans: Sequence[range] | None = None) -> DocumentTrace:
        """Return the readings of the document in a row of a source's training store.

        Args:
            source: The source.
            row: The document's row.
            spans: Tokens of the document, from 0 in it: only the pieces that hold one of these count. By default
                all pieces do.
        """
        store = self.prepared.train[source]
        pieces: dict[str, int] = {}
        readings: list[Reading] = []
        seen_by: list[SeenBy] = []
        for phase in self.plan.phases:
            before = len(readings)
            steps: list[int] = []
            if source in {part.source for part in phase.mixture}:
                sequences = store.pieces(phase.seq_len).sequences_of(row)
                pieces[phase.name] = len(sequences)
                made = self._order_of(phase)
                # Backwards through the permutations: what is read of one document costs nothing of the phase's length.
                chosen = np.array(_pieces_of(spans, store, row, len(sequences)), dtype=np.int64)
                positions, which = made.occurrences(source, sequences.start + chosen)
                epochs = made.refs(positions).epoch.tolist()
                steps = [phase.step_of(position) for position in positions.tolist()]
                found = zip(steps, positions.tolist(), chosen[which].tolist(), epochs, strict=True)
                readings += [Reading(phase.name, *columns) for columns in found]
            for steps_done in phase.checkpoint_steps:
                # `steps` ascends; a checkpoint after n steps has seen those numbered below n.
                count = before + bisect_left(steps, steps_done)
                if count:
                    seen_by.append(SeenBy(f"{phase.tag}{steps_done}", phase.name, count))
        return DocumentTrace(
            source=source,
            document=store.document_id(row),
            tokens=int(store.offsets[row + 1] - store.offsets[row]),
            pieces={name: count for name, count in pieces.items() if name in self._chosen},
            readings=[reading for reading in readings if reading.phase in self._chosen],
            seen_by=[seen for seen in seen_by if seen.phase in self._chosen],
        )

    def _order_of(self, phase: PhasePlan) -> PhaseOrder:
        if phase.name not in self._orders:
            self._orders[phase.name] = PhaseOrder(self.plan.seed, phase, self.prepared.train)
        return self._orders[phase.name]


def _pieces_of(spans: Sequence[range] | None, store: Store, row: int, count: int) -> list[int]:
    """Return which of a document's `count` pieces hold a token of any of the spans; all if there are no spans."""
    if spans is None:
        return list(range(count))
    length = int(store.offsets[row + 1] - store.offsets[row])
    # The same floor as in `PieceIndex.locate`: the pieces are those that training reads.
    borders = [piece * length // count for piece in range(count + 1)]
    return [
        piece
        for piece in range(count)
        if any(span.start < borders[piece + 1] and span.stop > borders[piece] for span in spans)
    ]


def searched_sources(source: str, prepared: Prepared) -> list[str]:
    """Return the one source asked for, or all of them if none was.

    Raises:
        RecipeError: The recipe has no such source.
    """
    if source and source not in prepared.train:
        raise RecipeError(
            f"the recipe has no such source{nearest(source, list(prepared.train))}",
            seen=source,
            allowed=", ".join(prepared.train),
            fix="correct --source",
        )
    return [source] if source else list(prepared.train)


def find_document(document: str, searched: Sequence[str], stores: Mapping[str, Store]) -> dict[str, int]:
    """Return the document's row in each of the stores that have it."""
    found = {}
    for name in searched:
        if name in stores:
            with contextlib.suppress(StoreError):
                found[name] = stores[name].row_of(document)
    return found


def _example(name: str, store: Store) -> str:
    return f"in {name}: {store.document_id(0)!r}, ..." if store.manifest.documents else f"in {name}: nothing"
