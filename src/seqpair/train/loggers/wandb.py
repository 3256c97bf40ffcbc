"""Metrics to Weights & Biases; its own settings (login, `WANDB_MODE=offline`, `WANDB_PROJECT`) hold."""

from __future__ import annotations

import os
from collections.abc import Mapping

from seqpair.train.loggers.protocol import RunIdentity


class WandbLogger:
    """One run of a project named after the study; a resumed run has the same id."""

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
