"""Metrics as TensorBoard's event files, in `<run>/tensorboard/`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from seqpair.train.loggers.protocol import RunIdentity

FOLDER = "tensorboard"


class TensorBoardLogger:
    """Event files; `tensorboard --logdir runs/<study>` shows a study's members together."""

    rewinds = True

    def __init__(self, run: RunIdentity) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run.folder / FOLDER
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
