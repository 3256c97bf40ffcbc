"""A run's metrics as JSON Lines: one row a step, one row a source and held-out measurement."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqpair.files import JsonLines
from seqpair.optim.stable_adamw import StepNumbers
from seqpair.paths import METRICS_FILE
from seqpair.recipe.plan import PhasePlan
from seqpair.train.held_out import HeldOutLoss
from seqpair.train.loggers import Loggers
from seqpair.train.step import StepLoss


class Metrics:
    """The file `metrics.jsonl` of a run.

    Args:
        folder: The run's folder.
        writes: Whether this process writes; the other ranks keep silent.
    """

    def __init__(self, folder: Path, *, writes: bool) -> None:
        self._lines = JsonLines(folder / METRICS_FILE) if writes else None
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
        self,
        phase: PhasePlan,
        step: int,
        total_step: int,
        tokens: int,
        loss: StepLoss,
        numbers: StepNumbers,
        lr: float,
        seconds: float,
        step_tokens: int,
    ) -> None:
        """Write the row of one update; `step` counts from 1 within the phase, `tokens` are content tokens."""
        if self._lines:
            self._write(
                {
                    "kind": "train",
                    "phase": phase.name,
                    "step": step,
                    "total_step": total_step,
                    "tokens": tokens,
                    "loss": loss.loss,
                    "predicted": loss.predicted,
                    "lr": lr,
                    "grad_norm": numbers.grad_norm,
                    "clipped_frac": numbers.clipped_frac,
                    "update_rms": numbers.update_rms,
                    "waste_frac": loss.waste_frac,
                    "tokens_per_second": step_tokens / seconds,
                    "seconds": seconds,
                }
            )

    def held_out(self, phase: PhasePlan, step: int, total_step: int, tokens: int, result: HeldOutLoss) -> None:
        """Write the row of one source's held-out loss."""
        if self._lines:
            self._write(
                {
                    "kind": "held_out",
                    "phase": phase.name,
                    "step": step,
                    "total_step": total_step,
                    "tokens": tokens,
                    "source": result.source,
                    "loss": result.loss,
                    "bits_per_byte": result.bits_per_byte,
                    "accuracy": result.accuracy,
                    "predicted": result.predicted,
                }
            )

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

    def _write(self, row: dict[str, Any]) -> None:
        assert self._lines is not None, "only the process that writes makes rows"
        self._lines.append(row)
        self._loggers.send(row)
