"""What a run's ledger proves: that the run read what its plan says, and no sequence more often than its epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seqpair.data.order.batches import read_batch
from seqpair.data.order.ledger import Ledger, LedgerRecord
from seqpair.data.order.order import PhaseOrder
from seqpair.data.order.spans import CHUNK_POSITIONS
from seqpair.errors import TrainingError
from seqpair.recipe.plan import PhasePlan, Plan

if TYPE_CHECKING:
    from seqpair.data.store.store import Store


@dataclass(frozen=True)
class LedgerProof:
    """A ledger that agrees with its plan at every step it records.

    Attributes:
        steps: Steps recorded and read again.
        planned_steps: Steps of the plan, all phases; more than `steps` if the run has not ended.
        content_tokens: Content tokens of the recorded steps.
    """

    steps: int
    planned_steps: int
    content_tokens: int


@dataclass(frozen=True)
class SequenceReadings:
    """How often a phase reads a source's sequences.

    Attributes:
        phase, source: Their names.
        sequences: Sequences that the source has at the phase's length.
        readings: Training positions that read one of them.
        most: Readings of the sequence that is read most often.
        fewest: Readings of the one that is read least often.
    """

    phase: str
    source: str
    sequences: int
    readings: int
    most: int
    fewest: int

    @property
    def epochs(self) -> float:
        """Return how many times the source is read."""
        return self.readings / self.sequences

    @property
    def allowed(self) -> int:
        """Return the epochs begun: no sequence may be read more often."""
        return -(-self.readings // self.sequences)


def prove_ledger(
    plan: Plan, ledger: Ledger, stores: Mapping[str, Store], progress: Callable[[int], None] = lambda tokens: None
) -> LedgerProof:
    """Read every recorded step once more, from the plan and the stores, and hold it against its record.

    Args:
        plan: The run's plan.
        ledger: The run's ledger.
        stores: The training stores that the plan was made for.
        progress: Called after each step with the content tokens read so far.

    Raises:
        TrainingError: A step's positions, tokens or digest are others, a step is missing or not in the plan.
    """
    orders = {phase.name: PhaseOrder(plan.seed, phase, stores) for phase in plan.phases}
    expected = ((phase.name, step) for phase in plan.phases for step in range(phase.steps))
    steps = tokens = 0
    for record in ledger.records():
        wanted = next(expected, None)
        if (record.phase, record.step) != wanted:
            raise _differs(ledger, f"phase {record.phase!r} step {record.step}", f"phase and step {wanted}")
        made = LedgerRecord.of(read_batch(orders[record.phase], record.step), record.format)
        if made != record:
            raise _differs(ledger, str(record), str(made))
        steps += 1
        tokens += record.content_tokens
        progress(tokens)
    return LedgerProof(steps, sum(phase.steps for phase in plan.phases), tokens)


def sequence_readings(seed: int, phase: PhasePlan, stores: Mapping[str, Store]) -> list[SequenceReadings]:
    """Count how often each sequence of a phase's sources is read over all of its steps.

    Memory: two bytes for every sequence of the sources, and one chunk of positions.
    """
    order = PhaseOrder(seed, phase, stores)
    counts = [np.zeros(index.count, dtype=np.uint16) for index in order.pieces]
    for first in range(0, phase.positions, CHUNK_POSITIONS):
        refs = order.refs(np.arange(first, min(first + CHUNK_POSITIONS, phase.positions), dtype=np.int64))
        for index, count in enumerate(counts):
            sequences, times = np.unique(refs.sequence[refs.source == index], return_counts=True)
            count[sequences] += times.astype(np.uint16)
    return [
        SequenceReadings(
            phase=phase.name,
            source=source,
            sequences=count.size,
            readings=int(count.sum(dtype=np.int64)),
            most=int(count.max()),
            fewest=int(count.min()),
        )
        for source, count in zip(order.sources, counts, strict=True)
    ]


def _differs(ledger: Ledger, seen: str, allowed: str) -> TrainingError:
    return TrainingError(
        f"the ledger {ledger.path} does not hold what its plan and stores give",
        seen=seen,
        allowed=allowed,
        fix="the run's plan.json, its ledger or a store was changed; trust nothing that rests on this run",
    )
