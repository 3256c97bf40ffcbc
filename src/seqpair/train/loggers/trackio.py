"""Metrics to trackio; its own settings (`TRACKIO_DIR`, `TRACKIO_SPACE_ID`, `TRACKIO_SERVER_URL`) hold."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Mapping

from seqpair.train.loggers.protocol import RunIdentity


class TrackioLogger:
    """One run of a project named after the study; trackio knows runs by their names, so the id is in it."""

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
