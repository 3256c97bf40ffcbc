"""What every evaluation task is made of: what it measures, what it is given, and the outcome it returns."""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from seqpair.errors import EvaluationError
from seqpair.evaluate.results import (
    ItemOutcome,
    TaskResult,
    items_name,
    normal_interval,
    standard_error,
    standard_interval,
    weighted_mean,
)
from seqpair.evaluate.study_text import StudyText, StudyTexts
from seqpair.files import JsonLines
from seqpair.hub.export import read_export_record
from seqpair.models.place import ModelPlace
from seqpair.models.score import DEFAULT_SCORING, ScoringOptions
from seqpair.models.text_model import TextModel
from seqpair.recipe.objectives import Direction

OWN_SUITE = "own"
BOTH: tuple[Direction, ...] = ("bidirectional", "causal")
_LIBRARIES = ("seqpair", "torch", "transformers", "tokenizers", "numpy", "sentence-transformers", "mteb")
_Row = TypeVar("_Row")


class TaskSkippedError(EvaluationError):
    """A task that has no items in this data; reported with its reason, never as a number."""


@dataclass(frozen=True)
class TaskOutcome:
    """What a task returns for one model: the items, and what the result says beside them.

    Attributes:
        items: One outcome per item.
        settings: Everything that fixes the task.
        chance: What guessing gives, or `None`.
        baselines: The metric of simple models on the same items.
        figures: Other numbers.
        note: What a reader must know.
        value: The metric where it is not the mean of the items' values, such as a correlation.
        standard_error: The standard error of such a value, or `None`.
        truncated: How many rows were longer than the model reads, and cut.
    """

    items: list[ItemOutcome]
    settings: dict[str, Any]
    chance: float | None = None
    baselines: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    note: str = ""
    value: float | None = None
    standard_error: float | None = None
    truncated: int = 0


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
        data: The folder that contains the tasks' inputs.
        limit: Most items of a task, the first ones; `None` takes all.
        seeds: The seeds of what a task trains or samples.
        scoring: How an encoder reads a continuation.
        shots: Solved examples before each question; the published columns have none.
        settings: Other choices of the user; part of the cache key.
        study: Returns the text of the study that a model was trained in.
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
    study: Callable[[ModelPlace], StudyText] = field(default_factory=lambda: StudyTexts().of)
    work: Path = Path()
    watch: Callable[[float, float], None] = _silent
    kept: Path = Path()

    def input(self, name: str) -> Path:
        """Return the path of an input of the task."""
        return self.data / name

    def study_of(self, model: TextModel) -> StudyText:
        """Return the text of the study that a model was trained in.

        Raises:
            SeqpairError: It has none, or its data is not prepared here.
        """
        assert model.place is not None, "the runner opens models by their place"
        return self.study(model.place)

    def limited(self, rows: Sequence[_Row]) -> list[_Row]:
        """Return the rows that count under the limit."""
        return list(rows if self.limit is None else rows[: self.limit])

    def by_chunks(
        self, rows: Sequence[_Row], compute: Callable[[Sequence[_Row]], Outcomes], chunk_rows: int
    ) -> Outcomes:
        """Return the outcomes of all rows, one per row in order, computed some rows at a time.

        Each finished chunk is kept in the work folder: the same call after an interruption resumes there.

        Args:
            rows: The task's rows, always the same for the same key.
            compute: Rows to outcomes, one each, and how many rows were cut.
            chunk_rows: Rows of a chunk.

        Raises:
            EvaluationError: `compute` does not return one outcome per row.
        """
        # A line is a whole chunk: its rows are computed together, and a batch of other rows may round differently.
        kept = JsonLines(self.work / "chunks.jsonl")
        kept.keep(lambda line: "items" in line)  # drops a line that an interruption cut off, too
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
                        "a task must return one outcome per row", seen=len(found.items), allowed=len(chunk)
                    )
                items = [item.model_dump(mode="json") for item in found.items]
                kept.append({"items": items, "truncated": found.truncated})
                done = done.and_more(*found)
        self.watch(len(rows), len(rows))
        return done


class Shard(NamedTuple):
    """One of several jobs that share the work of one command: the job `index`, from 0, of `count`."""

    index: int = 0
    count: int = 1

    @classmethod
    def of(cls, text: str | None, environment: Mapping[str, str]) -> Shard:
        """Return the shard that a text `i/n` names, i from 1; without a text, this rank's among torchrun's.

        Raises:
            EvaluationError: The text names no shard.
        """
        if text is None:
            return cls(int(environment.get("RANK", "0")), int(environment.get("WORLD_SIZE", "1")))
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise EvaluationError("--shard names no part of the work", seen=text, allowed="1/4 to 4/4 for four jobs")
        return cls(int(index) - 1, int(count))

    def holds(self, number: int) -> bool:
        """Return whether the piece of work of this number, from 0, is this job's."""
        return number % self.count == self.index


WHOLE = Shard()


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a number is, whoever computes it.

    Attributes:
        name, version, title: What is measured; a change of items or scoring raises the version.
        suite: The suite it belongs to.
        metric, unit, higher_is_better: What the value is.
        is_lean: Whether neither end of the metric is better, as of a bias.
    """

    name: str
    version: int
    title: str
    suite: str
    metric: str
    unit: str
    higher_is_better: bool
    is_lean: bool = False


@dataclass(frozen=True, kw_only=True)
class SuiteTask(Measurement):
    """A measurement that the runner makes of any model.

    Attributes:
        directions: The attention directions whose models can do it.
        inputs: Files or folders below the data folder; where one is absent, the task is skipped with the reason.
        run: Returns the outcome, or a document that is shown and not scored. It raises `TaskSkippedError` where the
            data has no items for it.
        needs_head: Whether it needs a language-model head, or only the hidden states.
        study_lacks: For a task on the data of the study that the model was trained in: returns the reason why that
            study cannot give it, or empty.
        without_inputs: Why there may be no data for it, and where to get some; shown when it is skipped.
        uses: The parts of the context that its result depends on: `scoring`, `seeds`, `shots`, names in `settings`.
        shot_inputs: Files that examples are taken from, where they exist and examples are asked for.
        files: Settings that name a file, each with the input that is used where the user names none.
        only_named: Whether it runs only when it is asked for by its name, such as a large task of the hub.
        declared: For a task that a file declares, what it says there; part of the key.
    """

    directions: tuple[Direction, ...]
    inputs: tuple[str, ...]
    run: Callable[[TextModel, TaskContext], TaskOutcome | dict[str, Any]]
    needs_head: bool = True
    study_lacks: Callable[[StudyText], str] | None = None
    without_inputs: str = ""
    uses: tuple[str, ...] = ("scoring",)
    shot_inputs: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    only_named: bool = False
    declared: dict[str, Any] | None = None

    def paths(self, context: TaskContext) -> dict[str, Path]:
        """Return every input by its name, and the files of settings by the setting's."""
        files = {name: context.input(str(context.settings.get(name, usual))) for name, usual in self.files}
        return {name: context.input(name) for name in self.inputs} | files


def result_of(
    measured: Measurement, place: ModelPlace, outcome: TaskOutcome, *, key: str, choices: dict[str, Any]
) -> TaskResult:
    """Return what is written of an outcome, whether the runner measured it or something else did.

    Args:
        measured: What the number is.
        place: The model.
        outcome: What was measured.
        key: The digest of everything that the result depends on.
        choices: What the user chose, as far as the result depends on it; `seeds` becomes the result's own.
    """
    record = read_export_record(place.folder) if place.is_ours else {}
    if outcome.value is None:
        value, error = weighted_mean(outcome.items), standard_error(outcome.items)
        interval, method = standard_interval(outcome.items)
    else:
        value, error = outcome.value, outcome.standard_error
        interval = (value, value) if error is None else normal_interval(value, error)
        method = "none: not known for this metric" if error is None else "normal, of the task's own standard error"
    return TaskResult(
        task=measured.name,
        version=measured.version,
        title=measured.title,
        study=record.get("study", ""),
        member=record.get("member", ""),
        metric=measured.metric,
        unit=measured.unit,
        higher_is_better=measured.higher_is_better,
        is_lean=measured.is_lean,
        chance=outcome.chance,
        n=len(outcome.items),
        value=value,
        interval=interval,
        interval_method=method,
        baselines=outcome.baselines,
        figures=outcome.figures,
        settings=choices | outcome.settings,
        model_digest=place.model_digest,
        items=items_name(measured.name),
        note=outcome.note,
        suite="" if measured.suite == OWN_SUITE else measured.suite,  # as in all files since the first
        model=place.name,
        standard_error=error,
        seeds=list(choices.get("seeds", [])),
        versions=_versions(),
        key=key,
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found
