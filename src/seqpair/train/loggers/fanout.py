"""A run's rows of metrics to every place that its recipe asks for."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqpair.errors import RecipeError, SeqpairError, TrainingError
from seqpair.recipe.plan import LOGGER_NAMES, Plan
from seqpair.text import note
from seqpair.train.loggers.protocol import MetricLogger, RunIdentity, values_of
from seqpair.train.loggers.record import LastRows, SentRecord, last_rows

_CLASSES = {"tensorboard": "TensorBoardLogger", "trackio": "TrackioLogger", "wandb": "WandbLogger"}
_FAILURES_IN_A_ROW = 20
"""After this many a logger is left alone for the rest of the process."""


def require_loggers(names: Iterable[str]) -> None:
    """Check that the loggers' packages are installed; called before anything is prepared or trained.

    Raises:
        RecipeError: One is not.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise RecipeError(
            "metrics are to go where no package is installed for",
            seen=f"runtime.loggers: {', '.join(missing)}",
            allowed=", ".join(LOGGER_NAMES),
            fix=f'`pip install "seqpair[{",".join(missing)}]"`, or leave out of runtime.loggers; metrics.jsonl is '
            "always written",
        )


def open_loggers(plan: Plan, folder: Path, first_step: int, rows: Iterable[Mapping[str, Any]]) -> Loggers:
    """Open all loggers of a plan.

    Args:
        plan: The plan.
        folder: The run's folder.
        first_step: The step of the checkpoint that the run goes on from; -1 where it begins.
        rows: `metrics.jsonl` before it is cut back to that step.

    Raises:
        RecipeError: A package is not installed.
        TrainingError: A logger cannot be opened; nothing is trained yet.
        CheckpointError: The record of an earlier process is damaged.
    """
    names = plan.runtime.loggers
    require_loggers(names)
    earlier = SentRecord.read(folder)
    if not names and not earlier.active:
        return Loggers([])
    record = earlier.began(names, last_rows(rows))
    record.write(folder)
    opened: list[_Followed] = []
    for name in names:
        identity = RunIdentity(
            run_id=record.run_id,
            study=plan.study,
            member=plan.member,
            folder=folder,
            first_step=first_step,
            config=plan.model_dump(mode="json", exclude={"origins"}),
        )
        opened.append(_opened(name, identity, record.rows_sent(name)))
    return Loggers(opened)


def _opened(name: str, identity: RunIdentity, sent: LastRows) -> _Followed:
    module = importlib.import_module(f"seqpair.train.loggers.{name}")
    try:
        logger: MetricLogger = getattr(module, _CLASSES[name])(identity)
    except SeqpairError:
        raise
    except Exception as error:
        raise TrainingError(
            f"{name} cannot be opened, so nothing is trained",
            seen=f"{type(error).__name__}: {error}".splitlines()[0],
            fix=f"mend it (a login, a network, a folder), or leave {name} out of runtime.loggers",
        ) from error
    return _Followed(name, logger, LastRows() if logger.rewinds else sent)


@dataclass
class _Followed:
    """One open logger.

    Attributes:
        name: Its name.
        logger: It.
        sent: The rows that it got before and keeps.
        rows: Rows that it was to get from this process.
        failed: Those at which it failed.
        in_a_row: Failures since it last worked.
        given_up: Whether it is left alone.
        last_error: What it said last.
    """

    name: str
    logger: MetricLogger
    sent: LastRows
    rows: int = 0
    failed: int = 0
    in_a_row: int = 0
    given_up: bool = False
    last_error: str = ""

    def guarded(self, call: Callable[[], None]) -> bool:
        """Make a call; return whether it worked. The first failure, and giving up, are said."""
        try:
            call()
        except Exception as error:
            self.in_a_row += 1
            self.last_error = f"{type(error).__name__}: {error}".splitlines()[0]
            if not self.failed and self.in_a_row == 1:
                note(f"warning: {self.name} failed ({self.last_error}); training goes on, failures are counted")
            if self.in_a_row == _FAILURES_IN_A_ROW:
                self.given_up = True
                note(f"warning: {self.name} failed {_FAILURES_IN_A_ROW} times in a row and is left alone from here on")
            return False
        self.in_a_row = 0
        return True


class Loggers:
    """The open loggers of a run; nothing that they do is seen by training."""

    def __init__(self, opened: Sequence[_Followed]) -> None:
        self._opened = list(opened)

    def send(self, row: Mapping[str, Any]) -> None:
        """Send a row of `metrics.jsonl` to every logger that has not got it before."""
        values = values_of(row) if self._opened else {}
        for one in self._opened:
            if one.sent.include(row):
                continue
            one.rows += 1
            if one.given_up or not one.guarded(lambda one=one: one.logger.log(values, int(row["total_step"]))):
                one.failed += 1

    def flush(self) -> None:
        """Let every logger hand on what it has."""
        for one in self._opened:
            if not one.given_up:
                one.guarded(one.logger.flush)

    def close(self) -> None:
        """Close every logger, and say what was not logged."""
        for one in self._opened:
            closed = one.guarded(one.logger.close)
            if one.failed or not closed:
                note(
                    f"warning: {one.name} missed {one.failed} of {one.rows} rows"
                    + ("" if closed else " and could not be closed")
                    + f" (last: {one.last_error}); metrics.jsonl has them all"
                )
        self._opened = []
