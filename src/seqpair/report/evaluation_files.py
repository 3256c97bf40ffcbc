"""Reads a member's evaluation folder into plain values: results of every suite with their items, and samples.

`seqpair run` and `seqpair eval` write into one folder; what was made with a limit or another way of scoring
lies in a folder of its own inside, and stands beside the full result under its own name, never in its place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpair.errors import SeqpairError
from seqpair.evaluate.results import SAMPLES_NAME, TaskResult, read_items, read_results


@dataclass(frozen=True)
class Outcome:
    """One task's result for one member, with its items in a fixed order.

    Attributes:
        result: The task's result as it was written.
        ids: The items' names, ascending, (n,); members are paired by them.
        values, weights: The items' outcomes and how much they count, (n,) each.
        details: What else is known of an item, (n,).
        choices: The name of the folder of the choices it was made with; empty for the default ones.
    """

    result: TaskResult
    ids: tuple[str, ...]
    values: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    details: tuple[Mapping[str, Any], ...] = ()
    choices: str = ""

    @property
    def key(self) -> str:
        """Return the name under which members' outcomes are paired: task, and choices where not the default."""
        return f"{self.result.task}@{self.choices}" if self.choices else self.result.task

    @property
    def title(self) -> str:
        """Return the task in words, with the choices where they are not the default."""
        return f"{self.result.title} ({self.choices.replace('_', ', ')})" if self.choices else self.result.title


@dataclass(frozen=True)
class FilledMask:
    """A text with `[MASK]`, what the member put there as (token, probability), and what stood there."""

    text: str
    predictions: tuple[tuple[str, float], ...]
    answer: str | None


@dataclass(frozen=True)
class Generated:
    """A prompt, how the member went on, and how its tokens were chosen."""

    prompt: str
    text: str
    mode: str


@dataclass
class Samples:
    """What a member wrote: filled masks and continued prompts."""

    filled: list[FilledMask] = field(default_factory=list)
    generated: list[Generated] = field(default_factory=list)


def read_outcomes(folder: Path, missing: list[str]) -> dict[str, Outcome]:
    """Return an evaluation folder's results by key; what cannot be read is named in `missing`."""
    outcomes: dict[str, Outcome] = {}
    inside = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    for place in [folder, *sorted(path for path in inside if not path.name.startswith("."))]:
        choices = "" if place == folder else place.name
        try:
            for result in read_results(place):
                outcome = _outcome(place, result, choices)
                outcomes[outcome.key] = outcome
        except SeqpairError as error:
            missing.append(f"a result cannot be read ({error.what})")
    if not outcomes:
        missing.append(f"{folder.name}/ holds no result")
    return outcomes


def _outcome(folder: Path, result: TaskResult, choices: str) -> Outcome:
    items = sorted(read_items(folder, result), key=lambda item: item.id)
    return Outcome(
        result=result,
        ids=tuple(item.id for item in items),
        values=np.array([item.value for item in items]),
        weights=np.array([item.weight for item in items]),
        details=tuple(item.detail for item in items),
        choices=choices,
    )


def read_samples(folder: Path, missing: list[str]) -> Samples:
    """Return what a member wrote; what cannot be read is named in `missing`."""
    rows = read_json_object(folder / SAMPLES_NAME, missing)
    samples = Samples()
    try:
        for row in (rows or {}).get("fill_mask", []):
            predictions = tuple((str(one["token"]), float(one["probability"])) for one in row["predictions"])
            samples.filled.append(FilledMask(str(row["text"]), predictions, row.get("answer")))
        for row in (rows or {}).get("generation", []):
            samples.generated.append(Generated(str(row["prompt"]), str(row["text"]), str(row.get("mode", ""))))
    except (KeyError, TypeError, ValueError) as error:
        missing.append(f"{SAMPLES_NAME} is not of the expected form ({first_line(error)})")
    return samples


def read_json_object(path: Path, missing: list[str]) -> dict[str, Any] | None:
    """Return a JSON object; if it is absent or damaged, say so in `missing` and return None."""
    shown = "/".join(path.parts[-2:])
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        missing.append(f"{shown} is not there")
        return None
    except (ValueError, OSError) as error:
        missing.append(f"{shown} cannot be read ({first_line(error)})")
        return None
    if not isinstance(value, dict):
        missing.append(f"{shown} is not a JSON object")
        return None
    return value


def first_line(error: Exception) -> str:
    """Return an error's kind and first line, cut short."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]
