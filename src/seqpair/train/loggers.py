"""A run's rows of metrics in TensorBoard, trackio or Weights & Biases, if its recipe asks for that.

`metrics.jsonl` stays the record; these follow it and may fail. A resumed run makes the rows after its checkpoint again,
and a place that cannot forget them must not get them twice: `loggers.json` says which rows each place has.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from seqpair.errors import CheckpointError, RecipeError, SeqpairError, TrainingError, install_extra
from seqpair.files import write_text
from seqpair.recipe.plan import LOGGER_NAMES, Plan
from seqpair.text import note

_NOT_VALUES = ("kind", "phase", "step", "total_step", "source")


class MetricLogger(Protocol):
    """A place for metrics; any of its calls may fail with any error, which ends nothing."""

    rewinds: bool
    """Whether it forgets, when opened, what it got after the checkpoint; else that is not sent again."""

    def log(self, values: Mapping[str, float], total_step: int) -> None:
        """Take named values of a step, counted over all phases; steps never go back."""

    def flush(self) -> None:
        """Hand on what was taken: a checkpoint is being saved."""

    def close(self) -> None:
        """Hand on what was taken; nothing comes after it."""


@dataclass(frozen=True)
class RunIdentity:
    """A run, the same over all its interruptions.

    Attributes:
        run_id: Drawn when the run began; letters and digits.
        study, member: Names for people.
        folder: The run's folder.
        first_step: Steps up to this one are kept: the checkpoint's, or -1 where the run begins.
        config: The plan, as JSON values.
    """

    run_id: str
    study: str
    member: str
    folder: Path
    first_step: int
    config: Mapping[str, Any]


def row_name(row: Mapping[str, Any]) -> str:
    """Return the name of a row's kind: `train`, or `held_out/<source>`."""
    return f"{row['kind']}/{row['source']}" if "source" in row else str(row["kind"])


def values_of(row: Mapping[str, Any]) -> dict[str, float]:
    """Return a row of `metrics.jsonl` as named values, such as `train/loss` or `held_out/prose/accuracy`."""
    name = row_name(row)
    return {f"{name}/{key}": float(value) for key, value in row.items() if key not in _NOT_VALUES}


LOGGERS_FILE = "loggers.json"


@dataclass(frozen=True)
class LastRows:
    """The newest rows that a place got: all up to `total_step`, and of that step those in `names`."""

    total_step: int = -1
    names: tuple[str, ...] = ()

    def include(self, row: Mapping[str, Any]) -> bool:
        """Return whether a row is one of them or older."""
        step = int(row["total_step"])
        return step < self.total_step or (step == self.total_step and row_name(row) in self.names)


def last_rows(rows: Iterable[Mapping[str, Any]]) -> LastRows:
    """Return the newest rows of a file of metrics."""
    step, names = -1, []
    for row in rows:
        if int(row["total_step"]) != step:
            step, names = int(row["total_step"]), []
        names.append(row_name(row))
    return LastRows(step, tuple(names))


class SentRecord(BaseModel):
    """The content of `loggers.json`: what was sent elsewhere before an interruption.

    What the newest process sent is told by `metrics.jsonl` as it lies there before it is cut back, so nothing is
    written at each step.

    Attributes:
        run_id: The run's id, drawn once.
        active: The loggers of the newest process.
        sent: For each logger that ever was active, the step and names of the newest rows that it got.
    """

    model_config = ConfigDict(extra="forbid")

    run_id: str
    active: tuple[str, ...] = ()
    sent: dict[str, tuple[int, tuple[str, ...]]] = {}

    @classmethod
    def read(cls, folder: Path) -> SentRecord:
        """Return a run's record; a new one, with an id of its own, if there is none.

        Raises:
            CheckpointError: The file is damaged.
        """
        path = folder / LOGGERS_FILE
        if not path.exists():
            return cls(run_id=uuid.uuid4().hex[:12])
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (ValidationError, UnicodeDecodeError) as error:
            raise CheckpointError(
                f"{path} is damaged, so it is not known what the loggers got before",
                seen=str(error).splitlines()[0],
                fix="remove the file: the run goes on under a new id in trackio and W&B",
            ) from error

    def began(self, names: Sequence[str], written: LastRows) -> SentRecord:
        """Return the record of a process that begins now.

        Args:
            names: Its loggers.
            written: The newest rows in `metrics.jsonl`, before it is cut back: what the loggers of the process
                before got.
        """
        sent = dict(self.sent)
        for name in self.active:
            earlier = self.rows_sent(name)
            newest = written if written.total_step > earlier.total_step else earlier
            if written.total_step == earlier.total_step:
                newest = LastRows(written.total_step, tuple(dict.fromkeys([*earlier.names, *written.names])))
            sent[name] = (newest.total_step, newest.names)
        for name in names:
            sent.setdefault(name, (-1, ()))
        return SentRecord(run_id=self.run_id, active=tuple(names), sent=sent)

    def rows_sent(self, name: str) -> LastRows:
        """Return the newest rows that a logger got."""
        return LastRows(*self.sent.get(name, (-1, ())))

    def write(self, folder: Path) -> None:
        """Write the file."""
        write_text(folder / LOGGERS_FILE, json.dumps(self.model_dump(mode="json"), indent=1) + "\n")


TENSORBOARD_FOLDER = "tensorboard"


class TensorBoardLogger:
    """Event files; `tensorboard --logdir runs/<study>` shows a study's members together."""

    rewinds = True

    def __init__(self, run: RunIdentity) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / TENSORBOARD_FOLDER
        _wait_for_a_later_name(folder)
        self._writer = SummaryWriter(str(folder), purge_step=run.first_step + 1)

    def log(self, values: Mapping[str, float], total_step: int) -> None:
        """Write one event a value."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, total_step)

    def flush(self) -> None:
        """Write what is queued."""
        self._writer.flush()

    def close(self) -> None:
        """Write what is queued and close the file."""
        self._writer.close()


def _wait_for_a_later_name(folder: Path) -> None:
    """Wait, a second at most, until a new file's name sorts after the last one's.

    Readers take the files in the order of their names, `events.out.tfevents.<second>.<host>.<process>...`. Of two
    processes that began within one second the later may sort first, and its steps would be voided by the earlier one.
    """
    seconds = [path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*")]
    if f"{int(time.time()):010d}" in seconds:
        time.sleep(1.0 - time.time() % 1.0)


class TrackioLogger:
    """One run of a project named after the study; trackio knows runs by their names, so the id is in it.

    Its own settings (`TRACKIO_DIR`, `TRACKIO_SPACE_ID`, `TRACKIO_SERVER_URL`) apply.
    """

    rewinds = False

    def __init__(self, run: RunIdentity) -> None:
        import trackio

        with _prints_to_stderr():
            self._run = trackio.init(
                project=re.sub(r"[^A-Za-z0-9_-]", "-", run.study),
                name=f"{run.member}-{run.run_id}",
                group=run.study,
                resume="allow",
                config=dict(run.config),
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, values: Mapping[str, float], total_step: int) -> None:
        """Hand values to the library, which writes or sends them by itself."""
        with _prints_to_stderr():
            self._run.log(dict(values), step=total_step)

    def flush(self) -> None:
        """Do nothing: the library's own thread writes twice a second."""

    def close(self) -> None:
        """Wait until all is written or sent."""
        with _prints_to_stderr():
            self._run.finish()


def _prints_to_stderr() -> contextlib.AbstractContextManager[object]:
    """Return a block whose prints go to standard error: results alone go to standard output."""
    return contextlib.redirect_stdout(sys.stderr)


class WandbLogger:
    """One run of a project named after the study; a resumed run has the same id.

    Its own settings (login, `WANDB_MODE=offline`, `WANDB_PROJECT`) apply.
    """

    rewinds = False

    def __init__(self, run: RunIdentity) -> None:
        import wandb

        run.folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=None if os.environ.get("WANDB_PROJECT") else run.study,
            group=run.study,
            name=f"{run.study}/{run.member}",
            id=run.run_id,
            resume="allow",
            dir=str(run.folder),
            config=dict(run.config),
            settings=wandb.Settings(console="off"),
        )

    def log(self, values: Mapping[str, float], total_step: int) -> None:
        """Hand values to the library, which sends them by itself."""
        self._run.log(dict(values), step=total_step)

    def flush(self) -> None:
        """Do nothing: the library's own process has what it was given."""

    def close(self) -> None:
        """Wait until all is sent, or, offline, written."""
        self._run.finish()


_CLASSES: dict[str, Callable[[RunIdentity], MetricLogger]] = {
    "tensorboard": TensorBoardLogger,
    "trackio": TrackioLogger,
    "wandb": WandbLogger,
}
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
            "the package of a logger in runtime.loggers is not installed",
            seen=f"runtime.loggers: {', '.join(missing)}",
            allowed=", ".join(LOGGER_NAMES),
            fix=f"{install_extra(*missing)}, or leave out of runtime.loggers; metrics.jsonl is always written",
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
    try:
        logger = _CLASSES[name](identity)
    except SeqpairError:
        raise
    except Exception as error:
        raise TrainingError(
            f"{name} cannot be opened, so nothing is trained",
            seen=f"{type(error).__name__}: {error}".splitlines()[0],
            fix=f"correct it (a login, a network, a folder), or leave {name} out of runtime.loggers",
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
