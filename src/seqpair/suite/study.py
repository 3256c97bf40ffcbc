"""A whole study: prepare, train every member, export, evaluate and report; finished parts are skipped."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

from seqpair.checkpoint.catalog import latest_valid
from seqpair.checkpoint.manifest import CheckpointManifest, checkpoint_folders, read_checkpoint_manifest
from seqpair.data.order.ledger import Ledger, require_same_sequences
from seqpair.data.order.mixture import repetition_warnings
from seqpair.data.prepare.preparation import prepare
from seqpair.data.prepared import Prepared
from seqpair.distributed.acceleration import require_float8
from seqpair.distributed.world import choose_device
from seqpair.errors import CheckpointError, EvaluationError, NotFiniteError
from seqpair.evaluate import own
from seqpair.evaluate.registry import choose_tasks
from seqpair.evaluate.runner import results_folder, run_models
from seqpair.evaluate.study_text import StudyTexts, held_out_texts
from seqpair.evaluate.task import OWN_SUITE, SuiteTask, TaskContext
from seqpair.files import write_json
from seqpair.hub.export import RECORD_NAME, export_checkpoint, read_export_record
from seqpair.models.place import find_model
from seqpair.paths import CHECKPOINTS_FOLDER, EXPORT_FOLDER, LEDGER_FILE, run_folder
from seqpair.recipe.data_spec import DataSpec
from seqpair.recipe.diff import diff_plans, require_declared
from seqpair.recipe.plan import Plan
from seqpair.recipe.schema import Recipe
from seqpair.report.collect import collect_study
from seqpair.report.page import write_report
from seqpair.suite.places import StudyPlace
from seqpair.suite.starts import start_finder
from seqpair.suite.training import TrainedRun, train_runs
from seqpair.text import note
from seqpair.train.loggers import require_loggers
from seqpair.train.pinned_plan import require_pinnable

Part = TypeVar("Part")


@dataclass
class StudyOutcome:
    """How a study ended.

    Attributes:
        finished: Whether every part is done.
        page: The report, if it was written.
        seconds: Wall-clock seconds of each part of this call, by name.
        signal_number: The signal that stopped it, if one did.
    """

    finished: bool
    page: Path | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    signal_number: int | None = None


def planned_parts(study: StudyPlace, members: Sequence[str] = ()) -> list[str]:
    """Return a line for each part of a study that says whether it is done or would be done."""
    lines = [f"prepare: {len(study.data.sources)} sources into {study.data.stores}"]
    for member in study.training_order(members):
        newest = latest_valid(study.folder / member)
        lines.append(f"train {member}: {'from scratch' if newest is None else f'newest checkpoint {newest.name}'}")
        for part, proof in (("export", "export/seqpair_export.json"), ("evaluate", "evaluation/samples.json")):
            lines.append(f"{part} {member}: {'there already' if (study.folder / member / proof).exists() else 'to do'}")
    return [*lines, f"report: {study.folder / 'report' / 'index.html'}"]


def run_study(study: StudyPlace, members: Sequence[str] = (), *, workers: int = 1) -> StudyOutcome:
    """Run a study to its end; repeating the call after an interruption resumes where it stopped.

    Args:
        study: The study; where it is a folder of runs, the plans in it are run to their end.
        members: Train and evaluate only these, and those they start from; all if empty.
        workers: Members that train at the same time, as `train_runs` has it.

    Raises:
        RecipeError: A member is not in the recipe, two members differ in more than is declared, or a logger's
            package is not installed.
        SeqpairError: Float8 is asked for and not possible here; or whatever a part complains about: earlier parts stay
            done.
    """
    chosen = study.training_order(members)
    more = MoreTasks.of(study.recipe)  # before anything is trained: a wrong name is an error now
    runtime = study.plan(chosen[0]).runtime
    require_loggers(runtime.loggers)
    if runtime.float8 != "off":
        require_float8(runtime.float8, choose_device(runtime.device))
    outcome = StudyOutcome(finished=False)
    prepared = _timed(outcome, "prepare", lambda: prepare_part(study.data))
    by_member = study.plans(chosen)
    plans = [by_member[name] for name in chosen]
    counts = study.counts()
    for warning in repetition_warnings(plans, counts.stats if counts is not None else None):
        note(f"warning: {warning}")
    for plan in plans[1:]:
        require_declared(diff_plans(plans[0], plan), (plans[0].member, plan.member))
    for plan in plans:  # before the first member is trained: a later one whose run is another plan's is an error now
        require_pinnable(plan, run_folder(plan))
    find_start = start_finder(prepared, plans)  # what cannot be started from is an error before anything is trained
    if not _train(outcome, train_runs(plans, study.data, prepared, find_start, workers=workers), workers):
        return outcome
    require_same_order(plans)
    for plan in plans:
        _timed(outcome, f"export {plan.member}", lambda plan=plan: export_part(plan))
        _timed(outcome, f"evaluate {plan.member}", lambda plan=plan: evaluate_part(plan, more))
    _keep_seconds(study.folder, outcome.seconds)
    outcome.page = _timed(outcome, "report", lambda: write_report(collect_study(study.folder)))
    outcome.finished = True
    return outcome


def _train(outcome: StudyOutcome, runs: Generator[TrainedRun], workers: int) -> bool:
    """Train until all runs are finished, or return False where a signal stopped one."""
    began = time.monotonic()
    with contextlib.closing(runs):
        for plan, trained in runs:
            if isinstance(trained, NotFiniteError):
                raise trained
            if not trained.finished:
                outcome.signal_number = trained.signal_number
                return False
            now = time.monotonic()
            outcome.seconds[f"train {plan.member}" if workers == 1 else "train"] = round(now - began, 2)
            began = now if workers == 1 else began
    return True


def _timed(outcome: StudyOutcome, name: str, part: Callable[[], Part]) -> Part:
    began = time.monotonic()
    result = part()
    outcome.seconds[name] = round(time.monotonic() - began, 2)
    return result


def prepare_part(data: DataSpec) -> Prepared:
    """Prepare the stores and the tokenizer of a study, or open those that exist."""
    return prepare(data.sources, data.tokenizer, Path(data.stores), verify=True)


def require_same_order(plans: Sequence[Plan]) -> int:
    """Compare the ledgers of all runs that ought to read the same sequences.

    Returns:
        The number of groups of runs that need not agree with each other.

    Raises:
        TrainingError: Two of them differ.
    """
    groups = 0
    for index, plan in enumerate(plans):
        compared: set[str] = set()
        for other in plans[:index]:
            shared = _shared_phases(other, plan)
            # Of runs that agree with each other one is enough, in each phase.
            if not shared <= compared:
                require_same_sequences(*(Ledger(run_folder(one) / LEDGER_FILE) for one in (other, plan)))
                compared |= shared
        groups += not compared
    return groups


def _shared_phases(one: Plan, other: Plan) -> set[str]:
    """Return the phases that two plans share; none if they ought to read different sequences in one of these."""
    first, second = ({phase.name: phase for phase in plan.phases} for plan in (one, other))
    shared = [(first[name], second[name]) for name in first if name in second]
    alike = all((a.seq_len, a.mixture, a.batch_stages) == (b.seq_len, b.mixture, b.batch_stages) for a, b in shared)
    return {phase.name for phase, _ in shared} if alike and one.seed == other.seed else set()


class MemberExport(NamedTuple):
    """An export of a member: its name (of a second one with the objective), that objective, and its folder."""

    name: str
    as_class: str | None
    folder: Path


def exports_of(plan: Plan) -> list[MemberExport]:
    """Return where a member's exports lie in its run: one, or for `hybrid` a second one as the decoder class."""
    run, second = run_folder(plan), plan.derived.also_exports
    exports = [MemberExport(plan.member, None, run / EXPORT_FOLDER)]
    if second is not None:
        exports.append(MemberExport(f"{plan.member} as {second}", second, run / f"{EXPORT_FOLDER}-{second}"))
    return exports


def export_part(plan: Plan) -> None:
    """Export a trained member's last checkpoint, for `hybrid` in both classes, unless that is there already.

    Raises:
        CheckpointError: The member has no checkpoint.
        ExportError: The export would not compute what the model computes.
    """
    newest = latest_valid(run_folder(plan))
    if newest is None:
        raise CheckpointError(
            f"the member {plan.member} has no checkpoint to export",
            seen=run_folder(plan),
            fix=f"train it first: seqpair train RECIPE --member {plan.member}",
        )
    for export in exports_of(plan):
        if _is_export_of(export.folder, newest.manifest):
            note(f"{export.name}: exported already ({newest.name})")
            continue
        texts = held_out_texts(newest.path)
        export_checkpoint(newest.path, export.folder, texts, as_class=export.as_class, overwrite=True)


def _is_export_of(folder: Path, manifest: CheckpointManifest) -> bool:
    """Return whether a folder is the export of this checkpoint, not of one of this name that a shorter plan made."""
    path = folder / RECORD_NAME
    record = read_export_record(folder) if path.exists() else {}
    return (record.get("checkpoint"), record.get("plan_digest")) == (manifest.name, manifest.plan_digest)


def export_checkpoints(run: Path, is_wanted: Callable[[], bool] = lambda: True) -> list[Path]:
    """Return an export of every checkpoint of a run, oldest first; those that are not there are made.

    The export of a checkpoint lies beside the member's own as `export-<checkpoint>`, where the report looks for its
    results; the checkpoint that the member's own export was made from has no second one.

    Args:
        run: The run.
        is_wanted: Asked once for each checkpoint, in order: whether it is exported here and now.

    Raises:
        CheckpointError: The run has no checkpoint, or one cannot be used.
        ExportError: An export would not compute what the model computes.
    """
    manifests = sorted(
        (read_checkpoint_manifest(folder) for folder in checkpoint_folders(run)), key=lambda one: one.total_steps
    )
    if not manifests:
        raise CheckpointError("the run has no checkpoint", seen=run, fix="train the member first")
    found = []
    for manifest in [one for one in manifests if is_wanted()]:
        own = _is_export_of(run / EXPORT_FOLDER, manifest)
        folder = run / EXPORT_FOLDER if own else run / f"{EXPORT_FOLDER}-{manifest.name}"
        if not _is_export_of(folder, manifest):
            checkpoint = run / CHECKPOINTS_FOLDER / manifest.name
            note(f"export {manifest.name}")
            export_checkpoint(checkpoint, folder, held_out_texts(checkpoint), overwrite=folder.exists())
        found.append(folder)
    return found


class MoreTasks(NamedTuple):
    """What a recipe's section `evaluation` asks for: tasks, the folder of their data, and most items of each."""

    tasks: list[SuiteTask]
    data: Path
    limit: int | None

    @classmethod
    def of(cls, recipe: Recipe | None) -> MoreTasks | None:
        """Return what a recipe asks for; None if nothing, or if there is no recipe.

        Raises:
            EvaluationError: There is no such suite, or a declaration is wrong.
        """
        if recipe is None or not (recipe.evaluation.suites or recipe.evaluation.tasks):
            return None
        spec, folder = recipe.evaluation, recipe.folder
        suites = [suite for suite in spec.suites if suite != OWN_SUITE]  # it is done anyway, and whole
        tasks = choose_tasks(suites, (), None if spec.tasks is None else folder / spec.tasks)
        return cls(tasks, folder / spec.data, spec.limit)


def evaluate_part(plan: Plan, more: MoreTasks | None = None) -> None:
    """Run a member's exports through the suite `own` and what the recipe adds; results that are there are taken.

    Args:
        plan: The member's plan.
        more: What the recipe's section `evaluation` asks for; None without.

    Raises:
        EvaluationError: An export is not this member's, or a task ended with an error.
        StoreError: The study's data is gone.
    """
    context = TaskContext(Path(), study=StudyTexts(lambda *_: plan).of)
    passes = [(list(own.TASKS), context)]
    if more is not None:
        passes.append((more.tasks, replace(context, data=more.data, limit=more.limit)))
    for export in exports_of(plan):
        place = find_model(export.folder)
        context.study(place)  # a fault of the whole study is an error here, not a reason to skip every task
        # A limit that the recipe names is the study's own choice, so its results are the member's, on the page too.
        folder = results_folder(place, context)
        reports = [next(run_models([place], tasks, given, [folder])) for tasks, given in passes]
        failed = {task: report.skipped[task] for report in reports for task in report.failed}
        if failed:
            raise EvaluationError(
                f"{len(failed)} tasks of {export.name} could not be computed",
                seen="; ".join(f"{task}: {reason}" for task, reason in failed.items()),
                fix="correct what the reasons name and repeat the command; finished tasks are kept",
            )
        if all(
            len(report.cached) + len(report.skipped) == len(tasks)
            for report, (tasks, _) in zip(reports, passes, strict=True)
        ):
            note(f"{export.name}: evaluated already")


def _keep_seconds(study: Path, seconds: dict[str, float]) -> None:
    """Keep the longest time seen per part, so that a repeated call does not hide what it cost."""
    path = study / "seconds.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, {name: max(value, earlier.get(name, 0.0)) for name, value in {**earlier, **seconds}.items()})
