"""Run tasks on models: take the results that are already there, compute the others and write them.

The key of a result covers the weights, the task, its choices and its data, so an equal key means an equal result.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from seqpair.errors import DataError, EvaluationError, SeqpairError
from seqpair.evaluate.generative import average_of
from seqpair.evaluate.own import TASKS as OWN_TASKS
from seqpair.evaluate.results import (
    SUMMARY_NAME,
    TaskResult,
    read_results,
    write_result,
)
from seqpair.evaluate.task import OWN_SUITE, WHOLE, Shard, SuiteTask, TaskContext, TaskSkippedError, result_of
from seqpair.files import sha256_file, sha256_json, write_json
from seqpair.models.open import open_model
from seqpair.models.place import ModelPlace
from seqpair.models.score import DEFAULT_SCORING
from seqpair.models.text_model import TextModel
from seqpair.paths import EVALUATION_FOLDER
from seqpair.text import Progress, format_seconds, note

_USUAL = {"grid": "small", "pooling": "default", "tuned_pooling": "default", "embed_pooling": "folder"}
"""The values of these settings where the user chose nothing; they are left out of the folder's name."""
OUTSIDE_FOLDER = Path("evaluations")
WORK_FOLDER, KEPT_FOLDER = ".work", "kept"


@dataclass(frozen=True)
class TaskPlan:
    """What will happen with a task: `cached` is what is there already, `skipped` a reason, else it is computed."""

    task: SuiteTask
    key: str = ""
    cached: TaskResult | dict[str, Any] | None = None
    skipped: str = ""


@dataclass(frozen=True)
class SuiteReport:
    """What the run of one model returned.

    Attributes:
        model: The model's name.
        folder: Where the results are.
        results: One result per task.
        cached: Names of the tasks whose results were there already.
        skipped: Tasks that were not done, with the reason.
        failed: Those of the skipped ones that could have been done but ended with an error.
        seconds: How long it took.
    """

    model: str
    folder: Path
    results: list[TaskResult]
    cached: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the values as JSON."""
        return {
            "model": self.model,
            "folder": str(self.folder),
            "results": [result.model_dump(mode="json") for result in self.results],
            "cached": self.cached,
            "average": average_of(self.results),
            "skipped": self.skipped,
            "failed": self.failed,
            "seconds": round(self.seconds, 1),
        }


def results_folder(place: ModelPlace, context: TaskContext, out: Path | None = None) -> Path:
    """Return where a model's results go: beside a member's export, else below `evaluations/`.

    Choices other than the defaults (a limit, shots, another way of scoring) have a folder of their own inside, so that
    a quick look never replaces a full result.

    Args:
        place: The model.
        context: The choices.
        out: The folder that the user named for all models; each has one inside.
    """
    if out is not None:
        folder = out / place.short_name
    elif place.is_ours and place.folder.name.startswith("export"):
        folder = place.folder.parent / place.folder.name.replace("export", EVALUATION_FOLDER, 1)
    else:
        folder = OUTSIDE_FOLDER / place.short_name
    parts = [] if context.limit is None else [f"limit-{context.limit}"]
    parts += [f"shots-{context.shots}"] if context.shots else []
    default = asdict(DEFAULT_SCORING)
    changed = [f"{name}-{value}" for name, value in asdict(context.scoring).items() if value != default[name]]
    parts += [part.lower() for part in changed]
    chosen = {name: value for name, value in context.settings.items() if _USUAL.get(name) != value}
    parts += [f"{name}-{Path(str(value)).name}" for name, value in chosen.items()]
    return folder / "_".join(parts) if parts else folder


def require_own_folders(folders: Sequence[Path]) -> None:
    """Check that no two models would write into one folder.

    Raises:
        EvaluationError: Two would.
    """
    twice = sorted({str(folder) for folder in folders if list(folders).count(folder) > 1})
    if twice:
        raise EvaluationError(
            "two models would write their results into one folder",
            seen=", ".join(twice),
            fix="evaluate them one at a time, each with an --out of its own",
        )


class _Digests:
    """Digests of input files and folders, each computed once."""

    def __init__(self) -> None:
        self._known: dict[Path, str] = {}

    def of(self, path: Path) -> str:
        if path not in self._known:
            if path.is_dir():
                files = sorted(file for file in path.rglob("*") if file.is_file())
                self._known[path] = sha256_json({str(file.relative_to(path)): sha256_file(file) for file in files})
            else:
                self._known[path] = sha256_file(path)
        return self._known[path]


def plan_tasks(
    place: ModelPlace,
    tasks: Sequence[SuiteTask],
    context: TaskContext,
    folder: Path,
    digests: _Digests | None = None,
) -> list[TaskPlan]:
    """Return for each task whether it is skipped, there already, or to be computed; nothing is loaded or written."""
    digests = digests or _Digests()
    there = {result.task: result for result in read_results(folder)} if folder.is_dir() else {}
    plans = []
    for task in tasks:
        reason = _reason(place, task, context)
        if reason:
            plans.append(TaskPlan(task, skipped=reason))
            continue
        key = sha256_json(
            {
                "model": place.model_digest,
                "task": [task.name, task.version],
                "choices": _choices(place, task, context),
                "data": _data_digests(place, task, context, digests),
                **({} if task.declared is None else {"declared": task.declared}),
            }
        )
        found = there.get(task.name) or _read_shown(folder / f"{task.name}.json")
        if isinstance(found, TaskResult):
            is_whole = found.key == key and (folder / found.items).is_file()
        else:
            is_whole = found.get("key") == key
        plans.append(TaskPlan(task, key, found if is_whole else None))
    return plans


def _read_shown(path: Path) -> dict[str, Any]:
    """Return the document of a task that is shown and not scored; empty where it is absent or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _reason(place: ModelPlace, task: SuiteTask, context: TaskContext) -> str:
    if place.direction not in task.directions:
        return f"a {place.direction} model cannot do it"
    if task.needs_head and not place.has_head:
        return "the model has no language-model head"
    if task.study_lacks is not None:
        try:
            return task.study_lacks(context.study(place))
        except SeqpairError as fault:
            return _one_line(fault)
    paths = task.paths(context).items()
    absent = [
        str(path.relative_to(context.data)) if path.is_relative_to(context.data) else str(path)
        for _, path in paths
        if not path.exists()
    ]
    if absent:
        reason = f"the data folder {context.data} has no {', '.join(absent)}"
        return f"{reason}; {task.without_inputs}" if task.without_inputs else reason
    return ""


def _one_line(fault: SeqpairError) -> str:
    return str(fault).replace("\n  ", "; ")


def _data_digests(place: ModelPlace, task: SuiteTask, context: TaskContext, digests: _Digests) -> dict[str, str]:
    """Return the digest of everything that a task reads, by name."""
    if task.study_lacks is not None:
        return {"study": context.study(place).digest}
    shown = {name: context.input(name) for name in task.shot_inputs if context.shots}
    files = task.paths(context) | {name: path for name, path in shown.items() if path.exists()}
    return {name: digests.of(path) for name, path in files.items()}


def _choices(place: ModelPlace, task: SuiteTask, context: TaskContext) -> dict[str, Any]:
    """Return what the user chose, as far as this model's result on this task depends on it."""
    chosen: dict[str, Any] = {"limit": context.limit, "predicts": place.predicts}
    if "scoring" in task.uses and place.direction == "bidirectional":
        chosen["scoring"] = context.scoring.as_json()
    draws = context.shots > 0 and "shots" in task.uses
    if draws:
        chosen["shots"] = context.shots
    if "seeds" in task.uses or draws:
        chosen["seeds"] = list(context.seeds)
    files = [name for name, _ in task.files]  # their content counts, not their names
    chosen |= {name: value for name, value in context.settings.items() if name in task.uses and name not in files}
    return chosen


def run_models(
    places: Sequence[ModelPlace],
    tasks: Sequence[SuiteTask],
    context: TaskContext,
    folders: Sequence[Path],
    *,
    device: str = "auto",
    batch_tokens: int | None = None,
    shard: Shard = WHOLE,
) -> Iterator[SuiteReport]:
    """Run tasks on models one after the other, and yield each model's report; a model is loaded only if needed.

    A task that a model or the data does not allow is skipped with the reason, and one that ends with an error is
    reported as failed. The other tasks and models still run, also where a model cannot be loaded.

    Args:
        places: The models.
        tasks: The tasks.
        context: What the tasks are given; its work folder, `kept` and `watch` are set here.
        folders: Where each model's results go.
        device: Where the models run.
        batch_tokens: Most places of a padded batch; by default as `open_model` has it.
        shard: Which part is done here: whole models if there are enough for all jobs, else single tasks of models.
    """
    digests = _Digests()
    shares = [_share(shard, model, len(places), tasks) for model in range(len(places))]
    work = [(place, folder, own) for place, folder, own in zip(places, folders, shares, strict=True) if own]
    plans = [plan_tasks(place, own, context, folder, digests) for place, folder, own in work]
    open_plans = [
        Pending(plan.task.name, place.direction)
        for (place, _, _), own in zip(work, plans, strict=True)
        for plan in own
        if not plan.skipped and plan.cached is None
    ]
    left = TimeLeft(open_plans)
    if len(open_plans) > 1:
        note(f"{len(open_plans)} results to compute, over {len(work)} models")
    for (place, folder, _), own in zip(work, plans, strict=True):
        yield _run_model(place, own, context, folder, left, device, batch_tokens)


def _share(shard: Shard, model: int, models: int, tasks: Sequence[SuiteTask]) -> list[SuiteTask]:
    """Return the tasks of one model that a job does; no two jobs do one, and all together do all."""
    if models >= shard.count:  # then each model is loaded by one job only
        return list(tasks) if shard.holds(model) else []
    return [task for number, task in enumerate(tasks) if shard.holds(model * len(tasks) + number)]


def _run_model(
    place: ModelPlace,
    plans: Sequence[TaskPlan],
    context: TaskContext,
    folder: Path,
    left: TimeLeft,
    device: str,
    batch_tokens: int | None,
) -> SuiteReport:
    started, model = time.monotonic(), None
    report, seconds = SuiteReport(place.name, folder, []), {}
    if place.remark:
        note(f"{place.short_name}: {place.remark}")
    for number, plan in enumerate(plans, 1):
        task = plan.task
        if plan.skipped:
            report.skipped[task.name] = plan.skipped
            continue
        if plan.cached is not None:
            report.cached.append(task.name)
            report.results.extend([plan.cached] if isinstance(plan.cached, TaskResult) else [])
            continue
        began = time.monotonic()
        try:
            model = model or open_model(place, device=device, batch_tokens=batch_tokens)
            label = f"{place.short_name} {task.name} [{number}/{len(plans)}]"
            report.results.extend(_compute(model, place, plan, context, folder, label, left))
        except (EvaluationError, DataError) as fault:
            left.gave_up()
            reason = report.skipped[task.name] = _one_line(fault)
            skips = isinstance(fault, TaskSkippedError)
            note(f"{'skipped' if skips else 'failed'} {place.short_name} {task.name}: {reason}")
            report.failed.extend([] if skips else [task.name])
            continue
        seconds[task.name] = time.monotonic() - began
        left.finished(seconds[task.name])
    report = replace(report, seconds=time.monotonic() - started)
    _write_summary(place, plans, report, seconds)
    return report


def _write_summary(
    place: ModelPlace, plans: Sequence[TaskPlan], report: SuiteReport, seconds: dict[str, float]
) -> None:
    """Write what a whole pass of the study's own tasks took and skipped, for the report; no part of a pass."""
    own = [plan.task.name for plan in plans if plan.task.suite == OWN_SUITE]
    computed = [name for name in own if name in seconds]
    measured = [result.task for result in report.results if result.task in own]
    if not measured or set(own) != {task.name for task in OWN_TASKS} or set(own) & set(report.failed):
        return
    path = report.folder / SUMMARY_NAME
    # A pass that computed nothing has nothing to say, unless the one that computed it was killed before it said it.
    if not computed and _read_shown(path).get("model_digest") == place.model_digest:
        return
    write_json(
        path,
        {
            "model_digest": place.model_digest,
            "tasks": measured,
            "skipped": {name: reason for name, reason in report.skipped.items() if name in own},
            "seconds": round(math.fsum(seconds[name] for name in computed), 1) if computed else None,
        },
    )


def _compute(
    model: TextModel,
    place: ModelPlace,
    plan: TaskPlan,
    context: TaskContext,
    folder: Path,
    label: str,
    left: TimeLeft,
) -> list[TaskResult]:
    """Run a task and write what it gives: one result, or a document that is no result."""
    task = plan.task
    work = folder / WORK_FOLDER / f"{task.name}-{plan.key[:16]}"
    bar: list[Progress] = []

    def watch(done: float, total: float) -> None:
        if not bar:
            bar.append(Progress(label, total, "items", done=done))
        bar[0].total, bar[0].done = total, done
        rate = bar[0].rate()
        bar[0].update(done, left.words(total / rate, (total - done) / rate) if rate > 0 else "")

    outcome = task.run(model, replace(context, work=work, watch=watch, kept=folder / KEPT_FOLDER))
    if bar:
        bar[0].finish()
    if isinstance(outcome, dict):
        write_json(folder / f"{task.name}.json", outcome | {"key": plan.key})
        return []
    if task.suite != OWN_SUITE:  # pieces of held-out text fit by construction
        outcome.figures["truncated_rows"] = float(outcome.truncated)
    result = result_of(task, place, outcome, key=plan.key, choices=_choices(place, task, context))
    write_result(folder, result, outcome.items)
    if work.is_dir():
        shutil.rmtree(work)
        with contextlib.suppress(OSError):  # another task's work, or that of another job on this folder, is in there
            work.parent.rmdir()
    return [result]


@dataclass(frozen=True)
class Pending:
    """A task to be computed: its name, and the direction of the model it is for."""

    task: str
    direction: str


class TimeLeft:
    """The tasks to come, in order, and what those before them took.

    Args:
        pending: All tasks to be computed, in order.
    """

    def __init__(self, pending: Sequence[Pending]) -> None:
        self._pending = list(pending)
        self._took: list[tuple[Pending, float]] = []
        self._next = 0

    def finished(self, seconds: float) -> None:
        """Take note that the current task ended, after so many seconds."""
        self._took.append((self._pending[self._next], seconds))
        self._next += 1

    def gave_up(self) -> None:
        """Take note that the current task ended without a result, so that its time says nothing."""
        self._next += 1

    def seconds(self, current_seconds: float, current_left_seconds: float) -> float:
        """Return the seconds until all is done.

        Args:
            current_seconds: How long the current task takes in all, as far as it can be told.
            current_left_seconds: How much of that is left.
        """
        took = [*self._took, (self._pending[self._next], current_seconds)]
        return current_left_seconds + math.fsum(_expected(task, took) for task in self._pending[self._next + 1 :])

    def words(self, current_seconds: float, current_left_seconds: float) -> str:
        """Return the place among all tasks and the time until all is done."""
        left = format_seconds(self.seconds(current_seconds, current_left_seconds))
        return f"all: task {self._next + 1} of {len(self._pending)}, about {left} left"


def _expected(task: Pending, took: Sequence[tuple[Pending, float]]) -> float:
    same = [seconds for other, seconds in took if other == task]
    alike = same or [seconds for other, seconds in took if other.task == task.task]
    known = alike or [seconds for _, seconds in took]
    return math.fsum(known) / len(known)
