"""Evaluation of one member: its exported model through every task it can do."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seqpair.data.prepared import Prepared
from seqpair.data.sources.python import HeldOutFunction, held_out_functions
from seqpair.errors import EvaluationError
from seqpair.evaluate.loaded import BATCH_TOKENS, open_model
from seqpair.evaluate.results import (
    SAMPLES_NAME,
    SUMMARY_NAME,
    TaskResult,
    items_name,
    standard_interval,
    weighted_mean,
    write_result,
)
from seqpair.evaluate.samples import make_samples
from seqpair.evaluate.tasks import bits_per_byte, continuation, docstring_retrieval, masked_accuracy
from seqpair.evaluate.tasks.task import TaskInputs, TaskOutcome, TaskSkippedError, TaskSpec
from seqpair.files import write_json
from seqpair.hub.export import read_export_record
from seqpair.paths import EVALUATION_FOLDER
from seqpair.recipe.plan import Plan
from seqpair.text import Progress, note

TASKS: dict[str, TaskSpec] = {
    module.SPEC.name: module.SPEC for module in (bits_per_byte, masked_accuracy, continuation, docstring_retrieval)
}
"""All tasks by name, in the order they are run."""


@dataclass(frozen=True)
class EvaluationReport:
    """What was evaluated.

    Attributes:
        folder: Where the results are.
        results: One result a task.
        skipped: Tasks that this member or this study's data cannot do, with the reason.
        seconds: How long it took.
    """

    folder: Path
    results: list[TaskResult]
    skipped: dict[str, str]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return the values as JSON."""
        return {
            "folder": str(self.folder),
            "results": [result.model_dump(mode="json") for result in self.results],
            "skipped": self.skipped,
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True)
class ExportPlace:
    """Where one export of a member lies, and where its results go.

    Attributes:
        name: The member's name, with the objective where it is its second export: `hybrid as clm`.
        as_class: The objective to export for, or `None` for the member's own.
        export: The export's folder.
        evaluation: The results' folder.
    """

    name: str
    as_class: str | None
    export: Path
    evaluation: Path


def export_places(plan: Plan, run: Path) -> list[ExportPlace]:
    """Return where a member's exports lie in its run: one, or for `hybrid` a second one as the decoder class."""
    places = [ExportPlace(plan.member, None, run / "export", run / EVALUATION_FOLDER)]
    second = plan.derived.also_exports
    if second is not None:
        name = f"{plan.member} as {second}"
        places.append(ExportPlace(name, second, run / f"export-{second}", run / f"{EVALUATION_FOLDER}-{second}"))
    return places


def evaluate_export(
    export_folder: Path,
    plan: Plan,
    prepared: Prepared,
    out_folder: Path,
    tasks: Iterable[str] | None = None,
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> EvaluationReport:
    """Run the tasks that an exported member can do and write their results.

    Args:
        export_folder: The export of the member.
        plan: The member's plan.
        prepared: The study's tokenizer and stores.
        out_folder: `<run>/evaluation`; a result of the same task is replaced.
        tasks: Names of tasks; `None` runs all, makes the samples and writes the summary, which says
            that this member is done. A task of the other direction is skipped.
        batch_tokens: Most places of a padded batch.

    Raises:
        EvaluationError: An unknown task, an export of another study, member or tokenizer, or
            transformers is missing.
        ExportError: The folder is no export of ours.
    """
    started = time.monotonic()
    names = list(TASKS) if tasks is None else list(tasks)
    _require_known(names)
    record = _require_own_export(export_folder, plan, prepared)
    model = open_model(export_folder, batch_tokens=batch_tokens)
    reasons: dict[str, str] = {}
    functions, missing = _functions(plan, prepared)
    inputs = TaskInputs(prepared, seq_len=int(record["seq_len"]), functions=functions)
    results: list[TaskResult] = []
    progress = Progress(f"evaluate {plan.member}", len(names) + 1, "tasks")
    for done, name in enumerate(names):
        progress.update(done, name)
        spec = TASKS[name]
        if model.direction not in spec.directions:
            reasons[name] = f"a {model.direction} model cannot do it"
            continue
        if spec is docstring_retrieval.SPEC and missing:
            reasons[name] = missing
            continue
        try:
            outcome = spec.run(model, inputs)
        except TaskSkippedError as fault:
            reasons[name] = str(fault).replace("\n  ", "; ")
            note(f"skipped {name}: {reasons[name]}")
            continue
        results.append(_write(out_folder, spec, outcome, plan, model.model_digest))
    report = EvaluationReport(out_folder, results, reasons, time.monotonic() - started)
    if tasks is None:
        progress.update(len(names), "samples")
        write_json(out_folder / SAMPLES_NAME, make_samples(model, inputs))
        report = replace(report, seconds=time.monotonic() - started)
        write_json(out_folder / SUMMARY_NAME, _summary(report, model.model_digest))
    progress.update(len(names) + 1)
    progress.finish()
    return report


def _summary(report: EvaluationReport, model_digest: str) -> dict[str, Any]:
    return {
        "model_digest": model_digest,
        "tasks": [result.task for result in report.results],
        "skipped": report.skipped,
        "seconds": round(report.seconds, 1),
    }


def _require_known(names: list[str]) -> None:
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        raise EvaluationError("there is no task of this name", seen=", ".join(unknown), allowed=", ".join(TASKS))


def _require_own_export(export_folder: Path, plan: Plan, prepared: Prepared) -> dict[str, Any]:
    record = read_export_record(export_folder)
    wanted = {"study": plan.study, "member": plan.member, "tokenizer_digest": prepared.tokenizer.digest}
    wrong = {key: record[key] for key, value in wanted.items() if record[key] != value}
    if wrong:
        raise EvaluationError(
            f"the export {export_folder} does not belong to this member and data",
            seen=", ".join(f"{key} {value}" for key, value in wrong.items()),
            allowed=", ".join(f"{key} {wanted[key]}" for key in wrong),
            fix="export the member again, or evaluate with the recipe it was trained with",
        )
    return record


def _functions(plan: Plan, prepared: Prepared) -> tuple[list[HeldOutFunction], str]:
    """Return the held-out functions of the study's python sources, or the reason why there are none."""
    sources = [source for source in plan.sources if source.kind == "python"]
    if not sources:
        return [], "the recipe has no source of kind python"
    trained = prepared.train[sources[0].name].manifest.python_version
    if trained != platform.python_version():
        return [], f"the stores hold Python {trained}, and this is Python {platform.python_version()}"
    # What the smallest share holds out, every source holds out: no item was trained on.
    return held_out_functions(min(source.held_out_frac for source in sources)), ""


def _write(folder: Path, spec: TaskSpec, outcome: TaskOutcome, plan: Plan, model_digest: str) -> TaskResult:
    interval, method = standard_interval(outcome.items)
    result = TaskResult(
        task=spec.name,
        version=spec.version,
        title=spec.title,
        study=plan.study,
        member=plan.member,
        metric=spec.metric,
        unit=spec.unit,
        higher_is_better=spec.higher_is_better,
        chance=outcome.chance,
        n=len(outcome.items),
        value=weighted_mean(outcome.items),
        interval=interval,
        interval_method=method,
        baselines=outcome.baselines,
        figures=outcome.figures,
        settings=outcome.settings,
        model_digest=model_digest,
        items=items_name(spec.name),
        note=outcome.note,
    )
    write_result(folder, result, outcome.items)
    return result
