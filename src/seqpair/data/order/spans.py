"""What lies between two checkpoints: spans of the order, and the documents that they hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seqpair.data import Numbers
from seqpair.data.order.batches import read_addresses
from seqpair.data.order.order import PhaseOrder
from seqpair.errors import RecipeError
from seqpair.recipe.plan import PhasePlan, Plan

if TYPE_CHECKING:
    from seqpair.data.store.store import Store

CHUNK_POSITIONS = 1 << 18
"""Positions that are looked at together; the memory a span takes does not grow with its length."""

_NAME = re.compile(r"^([a-z]+)([0-9]+)$")


@dataclass(frozen=True)
class Span:
    """The steps [first_step, stop_step) of one phase."""

    phase: PhasePlan
    first_step: int
    stop_step: int

    @property
    def positions(self) -> range:
        """Return the training positions of these steps."""
        return range(positions_done(self.phase, self.first_step), positions_done(self.phase, self.stop_step))


@dataclass
class SpanReading:
    """What a span reads of one source.

    Attributes:
        source: Its name.
        sequences: Training positions.
        documents: Different documents; a document read twice counts once.
        tokens: Content tokens.
    """

    source: str
    sequences: int = 0
    documents: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class FirstReadings:
    """Documents that a span had not read before, in the order of their first reading.

    Attributes:
        phase: The phase.
        source: (D,) index into `SpanReader.sources`.
        rows: (D,) int64, the document's row in its store.
        positions: (D,) int64, where it is first read.
        steps: (D,) int64, the step that reads it, from 0 in the phase.
    """

    phase: PhasePlan
    source: Numbers
    rows: Numbers
    positions: Numbers
    steps: Numbers


def positions_done(phase: PhasePlan, steps_done: int) -> int:
    """Return how many positions of a phase the first `steps_done` steps read."""
    return phase.positions_of(steps_done - 1).stop if steps_done else 0


def steps_of(phase: PhasePlan, positions: Numbers) -> Numbers:
    """Return the step that holds each position, int64; as `PhasePlan.step_of`, for many at once."""
    table = [(stage.first_position, stage.first_step, stage.sequences) for stage in phase.batch_stages]
    first_position, first_step, sequences = np.array(table, dtype=np.int64).T
    stage = np.searchsorted(first_position, positions, side="right") - 1
    steps: Numbers = first_step[stage] + (positions - first_position[stage]) // sequences[stage]
    return steps


def spans_between(plan: Plan, first: str, second: str) -> list[Span]:
    """Return what was trained after checkpoint `first` up to checkpoint `second`.

    Args:
        plan: The member's plan.
        first: A name such as `step1200` or `ext3`; `step0` is the start.
        second: A later one, of this phase or another.

    Raises:
        RecipeError: A name that the plan cannot have, or the second is not after the first.
    """
    (first_phase, first_steps), (second_phase, second_steps) = _place(plan, first), _place(plan, second)
    if (second_phase, second_steps) < (first_phase, first_steps):
        raise RecipeError(
            "the second checkpoint comes before the first",
            seen=f"{first}, then {second}",
            allowed="the earlier one first",
            fix=f"--between {second} {first}",
        )
    spans = []
    for index in range(first_phase, second_phase + 1):
        phase = plan.phases[index]
        begin = first_steps if index == first_phase else 0
        end = second_steps if index == second_phase else phase.steps
        if begin < end:
            spans.append(Span(phase, begin, end))
    return spans


def _place(plan: Plan, name: str) -> tuple[int, int]:
    """Return a checkpoint's phase, as an index, and its steps done in it."""
    match = _NAME.match(name)
    indices = [index for index, phase in enumerate(plan.phases) if match and phase.tag == match[1]]
    fitting = [index for index in indices if match and int(match[2]) <= plan.phases[index].steps]
    if match and len(fitting) == 1 and len(indices) == 1:
        return fitting[0], int(match[2])
    allowed = ", ".join(f"{phase.tag}0 to {phase.tag}{phase.steps} in {phase.name}" for phase in plan.phases)
    raise RecipeError(
        f"the plan of {plan.study}/{plan.member} has no one checkpoint of this name",
        seen=name + (" (several phases have this tag)" if len(indices) > 1 else ""),
        allowed=allowed,
        fix="`seqpair plan` and `seqpair checkpoints` show names",
    )


class SpanReader:
    """Reads spans of one plan, in chunks of positions.

    Memory: one chunk, and one bit for every document of the sources.

    Args:
        seed: The study's seed.
        spans: What to read, in training order.
        stores: The training store of every source.

    Attributes:
        sources: The names of the sources that the spans read, sorted.
        counts: What was read of each so far, in the order of `sources`.
    """

    def __init__(self, seed: int, spans: Sequence[Span], stores: Mapping[str, Store]) -> None:
        self.seed, self.spans, self.stores = seed, tuple(spans), stores
        self.sources = tuple(sorted({part.source for span in spans for part in span.phase.mixture}))
        self.counts = [SpanReading(source) for source in self.sources]
        self._seen = [np.zeros(-(-stores[name].manifest.documents // 8), dtype=np.uint8) for name in self.sources]

    def read(self) -> Iterator[FirstReadings]:
        """Read the spans once, and yield chunk after chunk the documents not met before; it fills `counts`."""
        for span in self.spans:
            order = PhaseOrder(self.seed, span.phase, self.stores)
            for first in range(span.positions.start, span.positions.stop, CHUNK_POSITIONS):
                stop = min(first + CHUNK_POSITIONS, span.positions.stop)
                yield self._read_chunk(order, np.arange(first, stop, dtype=np.int64))

    def _read_chunk(self, order: PhaseOrder, positions: Numbers) -> FirstReadings:
        at = read_addresses(order, positions)
        lengths = at.pieces.stop - at.pieces.start
        found: list[tuple[Numbers, Numbers, Numbers]] = []
        for index, source in enumerate(order.sources):
            number = self.sources.index(source)
            mine = np.flatnonzero(at.source == index)
            # Positions ascend, so the first place of a row among them is its first reading in this chunk.
            rows, places = np.unique(at.pieces.rows[mine], return_index=True)
            is_first = self._mark(number, rows)
            count = self.counts[number]
            count.sequences += int(mine.size)
            count.tokens += int(lengths[mine].sum())
            count.documents += int(is_first.sum())
            rows, places = rows[is_first], mine[places[is_first]]
            found.append((np.full_like(rows, number), rows, positions[places]))
        numbers, rows, firsts = (np.concatenate(column) for column in zip(*found, strict=True))
        ascending = np.argsort(firsts)
        firsts = firsts[ascending]
        return FirstReadings(order.phase, numbers[ascending], rows[ascending], firsts, steps_of(order.phase, firsts))

    def _mark(self, number: int, rows: Numbers) -> NDArray[np.bool_]:
        """Mark different rows of a source as read; return which of them were not marked before."""
        # One bit a document: 100 million documents take 12 MB where a set of their numbers would take gigabytes.
        seen, places = self._seen[number], rows >> 3
        bits = np.left_shift(1, rows & 7).astype(np.uint8)
        is_first: NDArray[np.bool_] = seen[places] & bits == 0
        np.bitwise_or.at(seen, places, bits)  # `at`: eight rows share a byte
        return is_first
