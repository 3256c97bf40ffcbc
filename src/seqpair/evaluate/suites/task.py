"""What a suite's task is made of, and what it is given."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from seqpair.errors import EvaluationError
from seqpair.evaluate.results import ItemOutcome
from seqpair.evaluate.tasks.task import TaskOutcome
from seqpair.files import JsonLines
from seqpair.models.score import DEFAULT_SCORING, ScoringOptions
from seqpair.models.text_model import TextModel
from seqpair.recipe.objectives import Direction

_Row = TypeVar("_Row")


class Outcomes(NamedTuple):
    """The outcomes of some rows, one each, and how many of the rows were longer than the model reads, and cut."""

    items: list[ItemOutcome]
    truncated: int

    def and_more(self, items: list[ItemOutcome], truncated: int) -> Outcomes:
        """Return these outcomes and those of the rows that follow."""
        return Outcomes([*self.items, *items], self.truncated + truncated)


def _silent(_done: float, _total: float) -> None:
    """Show nothing."""


@dataclass(frozen=True)
class TaskContext:
    """What a task may use; the same for all models.

    Attributes:
        data: The folder that the tasks' inputs lie in.
        limit: Most items of a task, the first ones; `None` takes all.
        seeds: The seeds of what a task trains or draws.
        scoring: How an encoder reads a continuation.
        shots: Solved examples before each question; the published columns have none.
        settings: Other choices of the user; part of the cache key.
        work: A folder for what must survive an interruption of this task; removed when its result is written.
        watch: Called with how many units are done and how many there are.
        kept: A folder for what tasks share and keep, such as a fine-tuned model; beside the results.
    """

    data: Path
    limit: int | None = None
    seeds: tuple[int, ...] = (0,)
    scoring: ScoringOptions = DEFAULT_SCORING
    shots: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    work: Path = Path()
    watch: Callable[[float, float], None] = _silent
    kept: Path = Path()

    def input(self, name: str) -> Path:
        """Return the path of an input of the task."""
        return self.data / name

    def limited(self, rows: Sequence[_Row]) -> list[_Row]:
        """Return the rows that count under the limit."""
        return list(rows if self.limit is None else rows[: self.limit])

    def by_chunks(
        self, rows: Sequence[_Row], compute: Callable[[Sequence[_Row]], Outcomes], chunk_rows: int
    ) -> Outcomes:
        """Return the outcomes of all rows, one a row in order, computed some rows at a time.

        Each chunk is kept in the work folder when it is done: the same call after an interruption goes on there.

        Args:
            rows: The task's rows, always the same for the same key.
            compute: Rows to outcomes, one each, and how many rows were cut.
            chunk_rows: Rows of a chunk.

        Raises:
            EvaluationError: `compute` does not give one outcome a row.
        """
        # One line a chunk, so that a line torn by an interruption is a chunk to compute again.
        kept = JsonLines(self.work / "chunks.jsonl")
        kept.keep(lambda line: "items" in line)
        done = Outcomes([], 0)
        for line in kept.rows():
            done = done.and_more([ItemOutcome.model_validate(item) for item in line["items"]], line["truncated"])
        with contextlib.closing(kept):
            for start in range(len(done.items), len(rows), chunk_rows):
                self.watch(start, len(rows))
                chunk = rows[start : start + chunk_rows]
                found = compute(chunk)
                if len(found.items) != len(chunk):
                    raise EvaluationError(
                        "a task must give one outcome a row", seen=len(found.items), allowed=len(chunk)
                    )
                items = [item.model_dump(mode="json") for item in found.items]
                kept.append({"items": items, "truncated": found.truncated})
                done = done.and_more(*found)
        self.watch(len(rows), len(rows))
        return done


@dataclass(frozen=True)
class SuiteTask:
    """A task of a suite.

    Attributes:
        name, version, title: What it is; a change of items or scoring raises the version.
        suite: The suite it belongs to.
        metric, unit, higher_is_better: What the value is.
        directions: The attention directions whose models can do it.
        inputs: Files or folders below the data folder; one absent, and the task is skipped with the reason.
        run: Does it; raises `TaskSkippedError` where the data has no items for it.
        needs_head: Whether it needs a language-model head, or only the hidden states.
        without_inputs: Why there may be no data for it, and where to get some; shown when it is skipped.
        uses: The parts of the context that its result depends on: `scoring`, `seeds`, `shots`, names in `settings`.
        shot_inputs: Files that examples are drawn from, where they are there and examples are asked for.
        files: Settings that name a file, each with the input that stands where the user names none.
        only_named: Whether it is done only when it is asked for by its name, such as a large task of the hub.
        is_lean: Whether neither end of the metric is better, as of a bias.
    """

    name: str
    version: int
    title: str
    suite: str
    metric: str
    unit: str
    higher_is_better: bool
    directions: tuple[Direction, ...]
    inputs: tuple[str, ...]
    run: Callable[[TextModel, TaskContext], TaskOutcome]
    needs_head: bool = True
    without_inputs: str = ""
    uses: tuple[str, ...] = ("scoring",)
    shot_inputs: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    only_named: bool = False
    is_lean: bool = False

    def paths(self, context: TaskContext) -> dict[str, Path]:
        """Return every input by its name, and the files of settings by the setting's."""
        files = {name: context.input(str(context.settings.get(name, usual))) for name, usual in self.files}
        return {name: context.input(name) for name in self.inputs} | files
