"""What a place for metrics is asked to do, and what it is told of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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
