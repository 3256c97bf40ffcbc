"""A run's metrics as JSON Lines: one row a step, one row a source and held-out measurement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seqpair.data.order.ledger import LedgerRecord
from seqpair.files import JsonLines
from seqpair.optim.stable_adamw import StepNumbers
from seqpair.paths import METRICS_FILE
from seqpair.train.held_out import HeldOutLoss
from seqpair.train.loggers import Loggers
from seqpair.train.position import Place
from seqpair.train.step import StepLoss


class Metrics:
    """The file `metrics.jsonl` of a run.

    Args:
        folder: The run's folder.
        writes: Whether this process writes; the other ranks keep silent.
    """

    def __init__(self, folder: Path, *, writes: bool) -> None:
        self._lines = JsonLines(folder / METRICS_FILE, ("kind", "total_step")) if writes else None
        self._loggers = Loggers([])

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows that are there."""
        return self._lines.rows() if self._lines else iter(())

    def follow(self, loggers: Loggers) -> None:
        """Send every row from here on to these as well."""
        self._loggers = loggers

    def cut_back(self, total_step: int) -> None:
        """Drop the rows of steps after `total_step`, and a torn last line."""
        if self._lines:
            self._lines.keep(lambda row: int(row["total_step"]) <= total_step)

    def train(
        self, place: Place, step: LedgerRecord, loss: StepLoss, numbers: StepNumbers, *, lr: float, seconds: float
    ) -> None:
        """Write the row of one update, at the place after it."""
        self._write(
            "train",
            step.phase,
            place,
            {
                "loss": loss.loss,
                "predicted": loss.predicted,
                "lr": lr,
                "grad_norm": numbers.grad_norm,
                "clipped_frac": numbers.clipped_frac,
                "update_rms": numbers.update_rms,
                "waste_frac": loss.waste_frac,
                "tokens_per_second": step.content_tokens / seconds,
                "seconds": seconds,
            },
        )

    def held_out(self, place: Place, phase: str, result: HeldOutLoss) -> None:
        """Write the row of one source's held-out loss."""
        self._write("held_out", phase, place, asdict(result))

    def sync(self) -> None:
        """Make what was written durable."""
        if self._lines:
            self._lines.sync()
            self._loggers.flush()

    def close(self) -> None:
        """Close the file and the loggers."""
        if self._lines:
            self._lines.close()
            self._loggers.close()

    def _write(self, kind: str, phase: str, place: Place, values: dict[str, Any]) -> None:
        """Write a row; `step` counts from 1 within the phase, `tokens` are content tokens of the run so far."""
        if self._lines:
            where = {"step": place.step, "total_step": place.total_step, "tokens": place.content_tokens}
            row = {"kind": kind, "phase": phase, **where, **values}
            self._lines.append(row)
            self._loggers.send(row)
