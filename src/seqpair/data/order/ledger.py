"""The ledger: per step, which positions were trained on and a digest of their content.

Records of format 1 have one digest over a whole batch. Those of format 2, which say so, have a digest over the digests
of its sequences, which ranks compute each for its own; a ledger that was begun in format 1 goes on in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from seqpair.data.order.batches import Batch, sequence_digests, step_digest
from seqpair.errors import TrainingError
from seqpair.files import JsonLines
from seqpair.text import note

FORMAT = 2
_FIRST_FORMAT = 1
"""Its records do not say it."""


@dataclass(frozen=True)
class LedgerRecord:
    """One step.

    Attributes:
        phase: The phase's name.
        step: The step within the phase, from 0.
        first_position: The step's first training position.
        stop_position: The position after its last.
        content_tokens: Its content tokens over all ranks.
        digest: The batch's digest, over positions and content in position order.
        format: How the digest is made.
    """

    phase: str
    step: int
    first_position: int
    stop_position: int
    content_tokens: int
    digest: str
    format: int = FORMAT

    @classmethod
    def of(cls, batch: Batch, format: int = FORMAT) -> LedgerRecord:
        """Return the record of a whole batch."""
        digest = (
            _first_digest(batch) if format == _FIRST_FORMAT else step_digest(batch.positions, sequence_digests(batch))
        )
        return cls(
            phase=batch.phase,
            step=batch.step,
            first_position=int(batch.positions[0]),
            stop_position=int(batch.positions[-1]) + 1,
            content_tokens=int(batch.content.size),
            digest=digest,
            format=format,
        )

    def agrees(self, other: LedgerRecord) -> bool:
        """Return whether two records are of the same sequences; digests of two formats are not compared."""
        if self.format != other.format:
            other = replace(other, digest=self.digest, format=self.format)
        return self == other


def _first_digest(batch: Batch) -> str:
    """Return the SHA-256 of a batch in format 1: positions and borders as int64, tokens as uint32, little-endian."""
    state = hashlib.sha256()
    for array, kind in ((batch.positions, "<i8"), (batch.offsets, "<i8"), (batch.content, "<u4")):
        state.update(np.ascontiguousarray(array.astype(kind, copy=False)).data)
    return state.hexdigest()


class Ledger:
    """A run's ledger: a JSON Lines file, one record a step, over all phases in turn.

    Args:
        path: The file, `ledger.jsonl`; it is created by the first record.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines = JsonLines(path)
        self._last: LedgerRecord | None = None
        self._last_is_known = False

    @property
    def format(self) -> int:
        """Return the format that the next record has to be of: that of the last one."""
        self._know_last()
        return FORMAT if self._last is None else self._last.format

    def append(self, record: LedgerRecord) -> None:
        """Add a step's record and flush it.

        Raises:
            TrainingError: The record does not follow the last one.
            DiskFullError: The disk is full.
        """
        self._know_last()
        last = self._last
        if last is not None and last.phase == record.phase:
            follows = record.step == last.step + 1 and record.first_position == last.stop_position
        else:
            follows = record.step == 0 and record.first_position == 0
        if not follows:
            raise TrainingError(
                f"a step's record does not follow the last one in {self.path}",
                seen=_address(record),
                allowed=f"what follows {_address(last)}" if last else "the first step of a phase",
                fix="resume from the newest checkpoint; do not edit the ledger",
            )
        assert last is None or record.format == last.format, "a ledger has one format"
        row = asdict(record)
        if record.format == _FIRST_FORMAT:
            del row["format"]
        self._lines.append(row)
        self._last = record

    def _know_last(self) -> None:
        if not self._last_is_known:
            self.cut_back(sum(1 for _ in self.records()))

    def records(self) -> Iterator[LedgerRecord]:
        """Yield all whole records; a torn last line, left by a killed process, is left out.

        Raises:
            TrainingError: A line is not a record.
        """
        rows = self._lines.rows()
        names = {field.name for field in fields(LedgerRecord)}
        number = 0
        while True:
            number += 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except ValueError as error:
                raise self._damaged(number, str(error)) from error
            given = {"format": _FIRST_FORMAT, **row} if isinstance(row, dict) else {}
            if set(given) != names or given["format"] not in (_FIRST_FORMAT, FORMAT):
                raise self._damaged(number, repr(row)[:120])
            yield LedgerRecord(**given)

    def cut_back(self, steps_done: int) -> None:
        """Keep the first `steps_done` records, counted over all phases, and drop what comes after, a torn line too.

        Raises:
            TrainingError: The ledger holds fewer records, or a line is not a record.
        """
        kept = [record for number, record in enumerate(self.records()) if number < steps_done]
        if len(kept) < steps_done:
            raise TrainingError(
                f"the ledger {self.path} is shorter than the checkpoint",
                seen=f"{len(kept)} records",
                allowed=f"at least {steps_done}, one for every step done",
                fix="bring the run's own ledger.jsonl back, or start the run over in a new folder",
            )
        numbers = iter(range(1 << 62))
        self._lines.keep(lambda _: next(numbers) < steps_done)
        self._last, self._last_is_known = kept[-1] if kept else None, True

    def sync(self) -> None:
        """Make all records durable against a crash of the machine."""
        self._lines.sync()

    def close(self) -> None:
        """Close the file."""
        self._lines.close()

    def _damaged(self, number: int, seen: str) -> TrainingError:
        return TrainingError(
            f"line {number} of {self.path} is not a ledger record",
            seen=seen,
            fix="bring the run's own ledger.jsonl back, or start the run over in a new folder",
        )


@dataclass(frozen=True)
class LedgerComparison:
    """Two ledgers held against each other over the steps that both have.

    Attributes:
        common_steps: Steps (of any phase) that both ledgers record.
        only_first, only_second: Steps that only one of them records: a longer run, or another phase.
        parts_at: The two records of the first common step at which they differ, or None.
        without_digest: Common steps recorded in two formats, so that only positions and tokens were compared.
    """

    common_steps: int
    only_first: int
    only_second: int
    parts_at: tuple[LedgerRecord, LedgerRecord] | None
    without_digest: int = 0

    @property
    def same(self) -> bool:
        """Return whether there are common steps, none differs, and all were compared by their digests."""
        return self.common_steps > 0 and self.parts_at is None and not self.without_digest


def compare_ledgers(first: Ledger, second: Ledger) -> LedgerComparison:
    """Hold two ledgers against each other, step by step, in the first one's order.

    Raises:
        TrainingError: A line of either is not a record.
    """
    others = {(record.phase, record.step): record for record in second.records()}
    common = only_first = without_digest = 0
    parts_at = None
    for record in first.records():
        other = others.get((record.phase, record.step))
        if other is None:
            only_first += 1
            continue
        common += 1
        without_digest += record.format != other.format
        if parts_at is None and not record.agrees(other):
            parts_at = (record, other)
    return LedgerComparison(common, only_first, len(others) - common, parts_at, without_digest)


def require_same_sequences(first: Ledger, second: Ledger) -> LedgerComparison:
    """Prove that two members saw the same sequences at every step that both made.

    Raises:
        TrainingError: They part at some step, have no step in common, or a line is not a record.
    """
    comparison = compare_ledgers(first, second)
    if comparison.parts_at is not None:
        here, there = comparison.parts_at
        raise TrainingError(
            f"two members did not see the same sequences: they part in phase {here.phase!r} at step {here.step}",
            seen=f"{_address(here)} in {first.path}; {_address(there)} in {second.path}",
            allowed="equal positions and digests at every step",
            fix="train both members from one recipe with one seed, on the same stores",
        )
    if comparison.common_steps == 0:
        raise TrainingError(
            "two ledgers have no step in common, so nothing can be said of them",
            seen=f"{comparison.only_first} steps in {first.path}; {comparison.only_second} in {second.path}",
            fix="train both members first",
        )
    if comparison.without_digest:
        note(
            f"{first.path} and {second.path} are of two formats: at {comparison.without_digest} steps positions and "
            "tokens are equal, and the digests were not compared; `seqpair verify` reads each ledger from the stores"
        )
    return comparison


def _address(record: LedgerRecord) -> str:
    span = f"positions {record.first_position}..{record.stop_position - 1}"
    return f"phase {record.phase!r} step {record.step}, {span}, digest {record.digest[:12]}"
