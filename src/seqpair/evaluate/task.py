"""What every evaluation task is made of, what it is given, and the outcome it returns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from seqpair.data.prepare import Prepared
from seqpair.data.python_source import HeldOutFunction
from seqpair.errors import EvaluationError
from seqpair.evaluate.loaded import LoadedModel
from seqpair.evaluate.results import ItemOutcome
from seqpair.evaluate.scorers import DEFAULT_SCORING, ScoringOptions
from seqpair.evaluate.unigram import UnigramModel
from seqpair.files import JsonLines
from seqpair.recipe.objectives import Direction


class TaskSkippedError(EvaluationError):
    """A task that this study's data cannot give; reported with its reason, never as a number."""


@dataclass
class TaskInputs:
    """What a task may use; the same for all members.

    Attributes:
        prepared: The study's tokenizer and stores.
        seq_len: Tokens of a full sequence in the member's last phase, specials included.
        functions: The held-out functions of the study's `python` source; empty without one.
    """

    prepared: Prepared
    seq_len: int
    functions: Sequence[HeldOutFunction] = ()

    @cached_property
    def unigram(self) -> UnigramModel:
        """The unigram model of the training stores."""
        return UnigramModel.of(self.prepared.train, self.prepared.tokenizer)


@dataclass(frozen=True)
class TaskOutcome:
    """A member's outcome: the items, and what the result says beside them.

    Attributes:
        items: One outcome an item.
        settings: Everything that fixes the task.
        chance: What guessing gives, or `None`.
        baselines: The metric of simple models on the same items.
        figures: Other numbers.
        note: What a reader must know.
        value: The metric where it is not the mean of the items' values, such as a correlation.
        standard_error: Of such a value, or `None`.
    """

    items: list[ItemOutcome]
    settings: dict[str, Any]
    chance: float | None = None
    baselines: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    note: str = ""
    value: float | None = None
    standard_error: float | None = None


@dataclass(frozen=True)
class TaskSpec:
    """A task: its name, its metric, who can do it, and the function that does it.

    Attributes:
        name, version, title: What it is; a change of items or scoring raises the version.
        metric, unit, higher_is_better: What the value is.
        directions: The attention directions whose models can do it.
        run: Model and inputs to outcome; raises `TaskSkippedError` where the data has no items.
    """

    name: str
    version: int
    title: str
    metric: str
    unit: str
    higher_is_better: bool
    directions: tuple[Direction, ...]
    run: Callable[[LoadedModel, TaskInputs], TaskOutcome]


BOTH: tuple[Direction, ...] = ("bidirectional", "causal")


_Row = TypeVar("_Row")


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
        self, rows: Sequence[_Row], compute: Callable[[Sequence[_Row]], list[ItemOutcome]], chunk_rows: int
    ) -> list[ItemOutcome]:
        """Return the outcomes of all rows, one a row in order, computed some rows at a time.

        Each chunk is kept in the work folder when it is done: the same call after an interruption goes on there.

        Args:
            rows: The task's rows, always the same for the same key.
            compute: Rows to outcomes, one each.
            chunk_rows: Rows of a chunk.

        Raises:
            EvaluationError: `compute` does not give one outcome a row.
        """
        kept = JsonLines(self.work / "chunks.jsonl")
        kept.keep(lambda _: True)  # a line torn by an interruption goes
        outcomes = [ItemOutcome.model_validate(row) for row in kept.rows()]
        done = min(len(outcomes) // chunk_rows * chunk_rows, len(rows)) if len(outcomes) < len(rows) else len(rows)
        if done < len(outcomes):
            number = iter(range(len(outcomes)))
            kept.keep(lambda _: next(number) < done)
            del outcomes[done:]
        with contextlib.closing(kept):
            for start in range(done, len(rows), chunk_rows):
                self.watch(start, len(rows))
                chunk = rows[start : start + chunk_rows]
                found = compute(chunk)
                if len(found) != len(chunk):
                    raise EvaluationError("a task must give one outcome a row", seen=len(found), allowed=len(chunk))
                for item in found:
                    kept.append(item.model_dump(mode="json"))
                outcomes.extend(found)
        self.watch(len(rows), len(rows))
        return outcomes


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
    run: Callable[[LoadedModel, TaskContext], TaskOutcome]
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
