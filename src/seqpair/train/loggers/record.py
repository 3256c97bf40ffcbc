"""What was sent elsewhere before an interruption: `<run>/loggers.json`.

A resumed run makes the rows after its checkpoint again. A place that cannot forget them must not get them twice;
what it got is told by `metrics.jsonl` as it lies there before it is cut back, so nothing is written at each step.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from seqpair.errors import CheckpointError
from seqpair.files import write_text
from seqpair.train.loggers.protocol import row_name

RECORD_NAME = "loggers.json"


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
    """The file's content.

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
        path = folder / RECORD_NAME
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
        write_text(folder / RECORD_NAME, json.dumps(self.model_dump(mode="json"), indent=1) + "\n")
