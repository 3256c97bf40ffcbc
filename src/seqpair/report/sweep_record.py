"""What a sweep left on disk: its record, and what each of its runs reached at the end of training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from seqpair.errors import EvaluationError
from seqpair.paths import PLAN_FILE
from seqpair.report.collect import HeldOutPoint, MemberRun, collect_member

RECORD_NAME = "sweep.json"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AxisRecord(_Frozen):
    """One axis: its name and keys, its values as text and as numbers (null: none), and which members it touches."""

    name: str
    keys: tuple[str, ...]
    values: tuple[str, ...]
    numbers: tuple[float | None, ...]
    touches: tuple[str, ...]
    is_seed: bool


class PointRecord(_Frozen):
    """One point: its folder, its value on each axis, each member's run folder, and whether it is the recipe's own."""

    slug: str
    values: tuple[str, ...]
    runs: dict[str, str]
    own: bool


class SweepRecord(_Frozen):
    """A sweep as it was run.

    Attributes:
        format_version: 1.
        study: The recipe's name.
        sweep: The sweep's name.
        command: The command that makes it again.
        members: The members, in training order.
        axes: What was varied.
        points: All combinations; runs are folders beside the record, `<slug>/<member>`.
        eval_seed: The seed at which settings are compared, where seeds are varied.
        failed: Runs that could not be trained to their end, as `slug/member`, with the reason.
        order: What the ledgers prove, in sentences.
        versions: Of the packages, of this machine's Python.
        created: When, UTC.
    """

    format_version: int = 1
    study: str
    sweep: str
    command: str
    members: tuple[str, ...]
    axes: tuple[AxisRecord, ...]
    points: tuple[PointRecord, ...]
    eval_seed: str | None
    failed: dict[str, str]
    order: tuple[str, ...]
    versions: dict[str, str]
    created: str


@dataclass(frozen=True)
class Ending:
    """A run's held-out result at the end of training, each the plain mean over the sources.

    Attributes:
        loss: Nats per predicted token.
        bits_per_byte: Of the predicted tokens.
        accuracy: Share of predicted tokens that are found.
        tokens: Content tokens read.
        sources: The same by source: loss, bits per byte, accuracy.
    """

    loss: float
    bits_per_byte: float
    accuracy: float
    tokens: int
    sources: dict[str, tuple[float, float, float]]


@dataclass
class SweepRuns:
    """A sweep with what its runs reached.

    Attributes:
        folder: Its folder.
        record: Its record.
        runs: Every run that can be read, by (folder, member).
        endings: Their ends of training; a run that is not finished has none.
        sources: The sources in every ending, over which the means are taken.
        left_out: Sources that some run has and another has not.
    """

    folder: Path
    record: SweepRecord
    runs: dict[tuple[str, str], MemberRun] = field(default_factory=dict)
    endings: dict[tuple[str, str], Ending] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def run_of(self, point: PointRecord, member: str) -> tuple[str, str]:
        """Return the name of a member's run at a point."""
        return point.runs[member], member


def read_record(folder: Path) -> SweepRecord:
    """Return the record of a sweep's folder.

    Raises:
        EvaluationError: There is none, or it is not of this version.
    """
    path = folder / RECORD_NAME
    try:
        return SweepRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise EvaluationError(
            "the sweep's record cannot be read",
            seen=f"{path}: {str(error).splitlines()[0]}",
            fix="repeat the `seqpair sweep` command; finished runs are not trained again",
        ) from error


def collect_sweep(folder: Path) -> SweepRuns:
    """Read a sweep's record and runs.

    Raises:
        EvaluationError: The record cannot be read.
    """
    found = SweepRuns(folder, read_record(folder))
    last: dict[tuple[str, str], list[HeldOutPoint]] = {}
    for point in found.record.points:
        for member in found.record.members:
            key = found.run_of(point, member)
            if key in found.runs or not (folder / key[0] / member / PLAN_FILE).is_file():
                continue
            found.runs[key] = collect_member(folder / key[0] / member)
            rows = _last_rows(found.runs[key])
            if rows and "/".join(key) not in found.record.failed:
                last[key] = rows
    everywhere = [{row.source for row in rows} for rows in last.values()]
    common = set.intersection(*everywhere) if everywhere else set()
    found.sources = tuple(sorted(common))
    found.left_out = tuple(sorted(set().union(*everywhere) - common))
    found.endings = {key: _ending(rows, found.sources) for key, rows in last.items()}
    return found


def _last_rows(run: MemberRun) -> list[HeldOutPoint]:
    """Return the held-out rows after a run's last step; none if its plan is not trained to the end."""
    if run.plan is None or not run.held_out or len(run.train) < sum(phase.steps for phase in run.plan.phases):
        return []
    return [row for row in run.held_out if row.tokens == run.train[-1].tokens]


def _ending(rows: Sequence[HeldOutPoint], sources: Sequence[str]) -> Ending:
    by_source = {row.source: (row.loss, row.bits_per_byte, row.accuracy) for row in rows}
    means = [
        math.fsum(by_source[source][column] for source in sources) / len(sources) if sources else math.nan
        for column in range(3)
    ]
    return Ending(means[0], means[1], means[2], rows[0].tokens, by_source)
