"""Metrics as TensorBoard's event files, in `<run>/tensorboard/`.

Owns how a resumed run continues there: the files begin with a mark that makes readers forget later steps.
Must not know rows. Entry point: `TensorBoardLogger`.
"""

from __future__ import annotations

from collections.abc import Mapping

from seqpair.train.loggers.protocol import RunIdentity

FOLDER = "tensorboard"


class TensorBoardLogger:
    """Event files; `tensorboard --logdir runs/<study>` shows a study's members together."""

    rewinds = True

    def __init__(self, run: RunIdentity) -> None:
        """Begin a file; what earlier files say of steps after the checkpoint is void."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.folder / FOLDER), purge_step=run.first_step + 1)

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
