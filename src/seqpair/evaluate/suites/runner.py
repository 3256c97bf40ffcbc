"""Running tasks on a model: what was computed before is taken, the rest is computed and written."""

from __future__ import annotations

import importlib.metadata
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from seqpair.errors import EvaluationError
from seqpair.evaluate.generative.tasks import average_of
from seqpair.evaluate.results import (
    TaskResult,
    items_name,
    normal_interval,
    read_results,
    standard_error,
    standard_interval,
    weighted_mean,
    write_result,
)
from seqpair.evaluate.suites.task import SuiteTask, TaskContext
from seqpair.evaluate.suites.time_left import Pending, TimeLeft
from seqpair.evaluate.tasks.task import TaskOutcome, TaskSkippedError
from seqpair.files import sha256_file, sha256_json
from seqpair.hub.export import read_export_record
from seqpair.models.open import open_model
from seqpair.models.place import ModelPlace
from seqpair.models.score import DEFAULT_SCORING
from seqpair.models.text_model import TextModel
from seqpair.paths import EVALUATION_FOLDER
from seqpair.text import Progress, note

_USUAL = {"grid": "small", "pooling": "default", "tuned_pooling": "default", "embed_pooling": "folder"}
"""What these settings are where the user chose nothing: the folder's name does not tell them."""
OUTSIDE_FOLDER = Path("evaluations")
WORK_FOLDER, KEPT_FOLDER = ".work", "kept"
_LIBRARIES = ("seqpair", "torch", "transformers", "tokenizers", "numpy", "sentence-transformers", "mteb")


@dataclass(frozen=True)
class TaskPlan:
    """What will happen with a task: `cached` holds its result, `skipped` a reason, else it is computed."""

    task: SuiteTask
    key: str = ""
    cached: TaskResult | None = None
    skipped: str = ""


@dataclass(frozen=True)
class SuiteReport:
    """What one model's run gave.

    Attributes:
        model: The model's name.
        folder: Where the results are.
        results: One result a task.
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

    What is not the default (a limit, shots, another way of scoring) has a folder of its own inside, so that a quick
    look never replaces a full result.

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
    """Say for each task whether it is skipped, there already, or to be computed; nothing is loaded or written."""
    digests = digests or _Digests()
    there = {result.task: result for result in read_results(folder)} if folder.is_dir() else {}
    plans = []
    for task in tasks:
        reason = _reason(place, task, context)
        if reason:
            plans.append(TaskPlan(task, skipped=reason))
            continue
        shown = {name: context.input(name) for name in task.shot_inputs if context.shots}
        files = task.paths(context) | {name: path for name, path in shown.items() if path.exists()}
        key = sha256_json(
            {
                "model": place.model_digest,
                "task": [task.name, task.version],
                "choices": _choices(place, task, context),
                "data": {name: digests.of(path) for name, path in files.items()},
            }
        )
        found = there.get(task.name)
        is_whole = found is not None and found.key == key and (folder / found.items).is_file()
        plans.append(TaskPlan(task, key, found if is_whole else None))
    return plans


def _reason(place: ModelPlace, task: SuiteTask, context: TaskContext) -> str:
    if place.direction not in task.directions:
        return f"a {place.direction} model cannot do it"
    if task.needs_head and not place.has_head:
        return "the model has no language-model head"
    paths = task.paths(context).items()
    absent = [name if name in task.inputs else str(path) for name, path in paths if not path.exists()]
    if absent:
        reason = f"the data folder {context.data} has no {', '.join(absent)}"
        return f"{reason}; {task.without_inputs}" if task.without_inputs else reason
    return ""


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
) -> Iterator[SuiteReport]:
    """Run tasks on models one after the other, and yield each model's report; a model is loaded only if needed.

    A task that cannot be done with a model and this data is skipped, with the reason, and one that ends with an error
    is named; the others go on. So do the other models where one cannot be loaded.

    Args:
        places: The models.
        tasks: The tasks.
        context: What they are given; its work folder and `watch` are set here.
        folders: Where each model's results go.
        device: Where the models run.
        batch_tokens: Most places of a padded batch; by default as `open_model` has it.
    """
    digests = _Digests()
    plans = [plan_tasks(place, tasks, context, folder, digests) for place, folder in zip(places, folders, strict=True)]
    open_plans = [
        Pending(plan.task.name, place.direction)
        for place, own in zip(places, plans, strict=True)
        for plan in own
        if not plan.skipped and plan.cached is None
    ]
    left = TimeLeft(open_plans)
    if len(open_plans) > 1:
        note(f"{len(tasks)} tasks, {len(places)} models: {len(open_plans)} results to compute")
    for place, folder, own in zip(places, folders, plans, strict=True):
        yield _run_model(place, own, context, folder, left, device, batch_tokens)


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
    report = SuiteReport(place.name, folder, [])
    for number, plan in enumerate(plans, 1):
        task = plan.task
        if plan.skipped:
            report.skipped[task.name] = plan.skipped
            continue
        if plan.cached is not None:
            report.cached.append(task.name)
            report.results.append(plan.cached)
            continue
        began = time.monotonic()
        try:
            model = model or open_model(place, device=device, batch_tokens=batch_tokens)
            label = f"{place.short_name} {task.name} [{number}/{len(plans)}]"
            result = _compute(model, plan, context, folder, label, left)
        except EvaluationError as fault:
            left.gave_up()
            reason = str(fault).replace("\n  ", "; ")
            report.skipped[task.name] = reason
            skips = isinstance(fault, TaskSkippedError)
            note(f"{'skipped' if skips else 'failed'} {place.short_name} {task.name}: {reason}")
            report.failed.extend([] if skips else [task.name])
            continue
        left.finished(time.monotonic() - began)
        report.results.append(result)
    return replace(report, seconds=time.monotonic() - started)


def _compute(
    model: TextModel, plan: TaskPlan, context: TaskContext, folder: Path, label: str, left: TimeLeft
) -> TaskResult:
    work = folder / WORK_FOLDER / f"{plan.task.name}-{plan.key[:16]}"
    bar: list[Progress] = []

    def watch(done: float, total: float) -> None:
        if not bar:
            bar.append(Progress(label, total, "items", done=done))
        bar[0].total, bar[0].done = total, done
        rate = bar[0].rate()
        bar[0].update(done, left.words(total / rate, (total - done) / rate) if rate > 0 else "")

    outcome = plan.task.run(model, replace(context, work=work, watch=watch, kept=folder / KEPT_FOLDER))
    if bar:
        bar[0].finish()
    result = result_of(model, plan, context, outcome)
    write_result(folder, result, outcome.items)
    if work.is_dir():
        shutil.rmtree(work)
        if not any(work.parent.iterdir()):
            work.parent.rmdir()
    return result


def result_of(model: TextModel, plan: TaskPlan, context: TaskContext, outcome: TaskOutcome) -> TaskResult:
    """Return what is written of an outcome."""
    task, place = plan.task, model.place
    if place is None:
        raise EvaluationError("a suite needs a model that was opened by its name")
    record = read_export_record(place.folder) if place.is_ours else {}
    choices = _choices(place, task, context)
    if outcome.value is None:
        value, error = weighted_mean(outcome.items), standard_error(outcome.items)
        interval, method = standard_interval(outcome.items)
    else:
        value, error = outcome.value, outcome.standard_error
        interval = (value, value) if error is None else normal_interval(value, error)
        method = "none: not known for this metric" if error is None else "normal, of the task's own standard error"
    return TaskResult(
        task=task.name,
        version=task.version,
        title=task.title,
        study=record.get("study", ""),
        member=record.get("member", ""),
        metric=task.metric,
        unit=task.unit,
        higher_is_better=task.higher_is_better,
        is_lean=task.is_lean,
        chance=outcome.chance,
        n=len(outcome.items),
        value=value,
        interval=interval,
        interval_method=method,
        baselines=outcome.baselines,
        figures=outcome.figures | {"truncated_rows": float(outcome.truncated)},
        settings=choices | outcome.settings,
        model_digest=place.model_digest,
        items=items_name(task.name),
        note=outcome.note,
        suite=task.suite,
        model=place.name,
        standard_error=error,
        seeds=list(choices.get("seeds", [])),
        versions=_versions(),
        key=plan.key,
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed as a package"
    return found
