"""Results on disk: one JSON file per task, and one line per item so that members can be paired.

A result's value is the weighted mean of its items' values, sum(weight * value) / sum(weight): with
weights of one an ordinary mean, with bytes as weights a rate over all bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from seqpair.errors import EvaluationError
from seqpair.files import write_text

SAMPLES_NAME = "samples.json"
SUMMARY_NAME = "summary.json"
_NOT_RESULTS = (SAMPLES_NAME, SUMMARY_NAME)
_NORMAL_95 = 1.959963984540054
_Model = TypeVar("_Model", bound=BaseModel)


class ItemOutcome(BaseModel):
    """One item's outcome.

    Attributes:
        id: The item's name, the same for all members.
        value: Its outcome: 0 or 1, a rank's reciprocal, bits per byte, ...
        weight: How much it counts in the task's value.
        detail: What else a reader may want to know.
        cluster: What it shares with other items, so that they are not independent: a paradigm, an article; or empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    value: float = Field(allow_inf_nan=False)
    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    detail: dict[str, Any] = Field(default_factory=dict)
    cluster: str = ""

    @model_serializer(mode="wrap")
    def _as_written(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = written(self)
        if not self.cluster:
            del found["cluster"]  # files of tasks without clusters stay as they always were
        return found


class TaskResult(BaseModel):
    """One member's result on one task.

    Attributes:
        task: The task's name.
        version: Its version; results of different versions are not comparable.
        title: The task in a few words.
        study, member: Whose result it is.
        metric, unit: What `value` is.
        higher_is_better: The direction of the metric.
        is_lean: Whether neither end of the metric is better, as of a bias; then the direction says nothing.
        chance: What guessing gives, or null where there is no such thing.
        n: How many items.
        value: The weighted mean of the items' values.
        interval: A 95 % interval of `value` over the choice of items, low and high.
        interval_method: How the interval was made.
        baselines: The same metric of simple models on the same items, such as `unigram`.
        figures: Other numbers, by name.
        settings: Everything that fixes the task.
        model_digest: The digest of the exported weights.
        items: The file of the items' outcomes, beside this one.
        note: What a reader must know, or empty.
        suite: The suite the task belongs to; empty for the tasks on a study's own text.
        model: The name the model was opened by, where it need not be a member.
        standard_error: Of `value`, over the choice of items; null where unknown.
        seeds: The seeds of what was trained or drawn for it.
        versions: The versions of the libraries it was computed with.
        key: The digest of model, task, settings and data: an equal one means an equal result.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    version: int
    title: str
    study: str
    member: str
    metric: str
    unit: str
    higher_is_better: bool
    chance: float | None
    n: int
    value: float = Field(allow_inf_nan=False)
    interval: tuple[float, float]
    interval_method: str
    baselines: dict[str, float] = Field(default_factory=dict)
    figures: dict[str, float] = Field(default_factory=dict)
    settings: dict[str, Any]
    model_digest: str
    items: str
    note: str = ""
    suite: str = ""
    is_lean: bool = False
    model: str = ""
    standard_error: float | None = None
    seeds: list[int] = Field(default_factory=list)
    versions: dict[str, str] = Field(default_factory=dict)
    key: str = ""


def weighted_mean(items: Sequence[ItemOutcome]) -> float:
    """Return sum(weight * value) / sum(weight).

    Raises:
        EvaluationError: There are no items, or they weigh nothing.
    """
    total = math.fsum(item.weight for item in items)
    if total <= 0:
        raise EvaluationError(
            "a task needs at least one item that counts",
            seen=f"{len(items)} items",
            fix="give the task items that count",
        )
    return math.fsum(item.weight * item.value for item in items) / total


def is_mean_of_items(value: float, values: Iterable[float], weights: Iterable[float]) -> bool:
    """Return whether a task's value is sum(weight * value) / sum(weight) of its items, up to how such sums round."""
    pairs = [(float(own), float(weight)) for own, weight in zip(values, weights, strict=True)]
    total = math.fsum(weight for _, weight in pairs)
    above = math.fsum(own * weight for own, weight in pairs)
    return total > 0 and math.isclose(above / total, value, rel_tol=1e-9, abs_tol=1e-9)


def standard_interval(items: Sequence[ItemOutcome]) -> tuple[tuple[float, float], str]:
    """Return a 95 % interval of the weighted mean and the method's name.

    Wilson's interval where every item is right or wrong with weight one; else the normal interval with
    `standard_error`. Where items name clusters, Wilson's is of the effective number of items: as many independent
    ones as would have the same standard error.

    Source: E. B. Wilson, 1927; E. L. Korn and B. I. Graubard, Survey Methodology 24, 1998 (effective number).
    """
    mean, n, error = weighted_mean(items), float(len(items)), standard_error(items)
    clusters = len({item.cluster or number for number, item in enumerate(items)})
    over = ", over clusters" if clusters < len(items) else ""
    if all(item.weight == 1.0 and item.value in (0.0, 1.0) for item in items):
        square = _NORMAL_95**2
        if over:  # none or all right: the clusters agree, and that many are what was seen
            n = min(n, mean * (1 - mean) / error**2) if error else float(clusters)
        centre = (mean + square / (2 * n)) / (1 + square / n)
        half = _NORMAL_95 / (1 + square / n) * math.sqrt(mean * (1 - mean) / n + square / (4 * n * n))
        # None or all right: an end is 0 or 1 exactly, which the rounding of centre and half would miss.
        return (0.0 if mean == 0.0 else centre - half, 1.0 if mean == 1.0 else centre + half), "wilson" + over
    if error is None:
        return (mean, mean), "none: one cluster" if over else "none: one item"
    return normal_interval(mean, error), "normal" + over


def normal_interval(value: float, error: float) -> tuple[float, float]:
    """Return the 95 % interval of a value with this standard error."""
    return value - _NORMAL_95 * error, value + _NORMAL_95 * error


def standard_error(items: Sequence[ItemOutcome]) -> float | None:
    """Return the standard error of the weighted mean over the choice of clusters; `None` for one cluster.

    sqrt(G / (G - 1) * sum over clusters of (sum of w (v - mean))^2) / sum w. An item that names no cluster is its own,
    so without names this is the ratio estimator's standard error over items.

    Source: W. G. Cochran, Sampling Techniques, 3rd edition, equation 6.13; E. Miller, arXiv 2411.00640 (clusters).
    """
    mean = weighted_mean(items)
    groups: dict[str | int, list[float]] = {}
    for number, item in enumerate(items):
        groups.setdefault(item.cluster or number, []).append(item.weight * (item.value - mean))
    if len(groups) == 1:
        return None
    squares = math.fsum(math.fsum(own) ** 2 for own in groups.values())
    return math.sqrt(len(groups) / (len(groups) - 1) * squares) / math.fsum(item.weight for item in items)


def items_name(task: str) -> str:
    """Return the name of a task's items file."""
    return f"{task}.items.jsonl"


def write_result(folder: Path, result: TaskResult, items: Sequence[ItemOutcome]) -> None:
    """Write a result; the items first, so that a result never stands without them.

    Raises:
        EvaluationError: Two items have one id.
        DiskFullError: The disk is full; an earlier result is untouched.
    """
    if len({item.id for item in items}) != len(items):
        raise EvaluationError(
            f"two items of the task {result.task} have one id",
            seen=f"{len(items)} items",
            fix="give each item an id of its own",
        )
    lines = [json.dumps(item.model_dump(mode="json"), ensure_ascii=False, allow_nan=False) for item in items]
    write_text(folder / result.items, "".join(line + "\n" for line in lines))
    write_text(folder / f"{result.task}.json", result.model_dump_json(indent=1) + "\n")


def read_results(folder: Path) -> list[TaskResult]:
    """Return the results in an evaluation folder by task name; none if the folder does not exist.

    Raises:
        EvaluationError: A file cannot be read.
    """
    return [read_result(path) for path in result_files(folder)]


def result_files(folder: Path) -> list[Path]:
    """Return the files of an evaluation folder that should be results, by task name; none of a missing folder."""
    return sorted(path for path in folder.glob("*.json") if path.name not in _NOT_RESULTS)


def read_result(path: Path) -> TaskResult:
    """Return the result in one file.

    Raises:
        EvaluationError: It cannot be read, or is another task's.
    """
    if not path.is_file():
        raise EvaluationError(f"{path} is not a file", fix="remove it and run `seqpair eval` again")
    result = _read(path, path.read_bytes(), TaskResult)
    if result.task != path.stem:
        raise EvaluationError(f"{path} is the result of another task", seen=result.task, fix="remove this file")
    return result


def read_items(folder: Path, result: TaskResult) -> list[ItemOutcome]:
    """Return a result's items, in the order they were written.

    Raises:
        EvaluationError: The file is missing, cannot be read, or does not contain `n` items.
    """
    path = folder / result.items
    if not path.is_file():
        raise EvaluationError(
            "the items of a result are missing", seen=f"no file {path}", fix="run `seqpair eval` for this model again"
        )
    items = [_read(path, line, ItemOutcome) for line in path.read_bytes().split(b"\n") if line]
    if len(items) != result.n:
        raise EvaluationError(f"{path} does not contain the items of its result", seen=len(items), allowed=result.n)
    return items


def _read(path: Path, text: bytes, model: type[_Model]) -> _Model:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise EvaluationError(
            f"{path} is not an evaluation result of this version",
            seen=error.errors()[0]["msg"],
            fix="delete it and run `seqpair eval` again",
        ) from error
