"""A whole fine-tuning job: sets, a grid over seeds, transfers, the results and the model that is kept.

<out>/runs/      a record for each finished run; an interrupted job goes on there
<out>/results/   one JSON a set with its items, in the form of every evaluation
<out>/model/     the chosen model with its head
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seqpair.errors import EvaluationError
from seqpair.evaluate.finetune.keep import RECORD_NAME, keep_tuned
from seqpair.evaluate.finetune.runs import GridResult, outcome_of, tune_grid
from seqpair.evaluate.finetune.sets import LabelledSet, Transfer
from seqpair.evaluate.finetune.settings import TuneSetting
from seqpair.evaluate.results import TaskResult, write_result
from seqpair.evaluate.suites.runner import TaskPlan, result_of
from seqpair.evaluate.suites.task import SuiteTask, TaskContext
from seqpair.evaluate.tasks.task import BOTH, TaskOutcome
from seqpair.files import sha256_json
from seqpair.models.place import ModelPlace
from seqpair.models.text_model import TextModel
from seqpair.text import Progress

OUT_FOLDER = Path("finetuned")
SUITE = "finetune"
_FIELD_LABELS = {"spearman": "correlation", "pearson": "correlation", "matthews": "correlation"}
_PERCENT = ("bleu", "chrf")


@dataclass(frozen=True)
class TuneJob:
    """What to do.

    Attributes:
        sets: One set, or several that one model learns together.
        settings: The grid.
        seeds: The seeds.
        out: The job's folder.
        transfers: Sets that are answered and not learned.
        limit: Most rows of a part.
        keep: Whether the chosen model is kept.
    """

    sets: tuple[LabelledSet, ...]
    settings: tuple[TuneSetting, ...]
    seeds: tuple[int, ...]
    out: Path
    transfers: tuple[Transfer, ...] = ()
    limit: int | None = None
    keep: bool = True

    def __post_init__(self) -> None:
        """Check that every set has a name of its own.

        Raises:
            EvaluationError: Two have one.
        """
        names = [one.name for one in self.sets] + [one.labelled.name for one in self.transfers]
        if len(set(names)) < len(names):
            raise EvaluationError("two sets have one name", seen=", ".join(names), fix="give one another `name`")


@dataclass(frozen=True)
class JobReport:
    """What a job gave.

    Attributes:
        model: The model's name.
        out: The job's folder.
        results: One a set.
        kept: The record of the kept model; empty if none was.
    """

    model: str
    out: Path
    results: list[TaskResult]
    kept: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the values as JSON."""
        return {
            "model": self.model,
            "out": str(self.out),
            "results": [result.model_dump(mode="json") for result in self.results],
            "kept": self.kept,
        }


def job_folder(place: ModelPlace, names: list[str]) -> Path:
    """Return where a job goes by default."""
    return OUT_FOLDER / place.short_name / "-".join(names)


def run_job(model: TextModel, job: TuneJob) -> JobReport:
    """Do a job, or what is left of it.

    Raises:
        EvaluationError: The kept model of another job is in its folder, or no run came to an end.
        ExportError: The kept model would not compute what was tuned.
    """
    _require_free(model, job)
    bar = Progress(f"finetune {'+'.join(one.name for one in job.sets)}", 0, "rows")

    def watch(done: float, total: float) -> None:
        bar.total = total
        bar.update(done)

    folder, kept = job.out / "model", {}
    result = tune_grid(
        model,
        job.sets,
        job.settings,
        job.seeds,
        job.out / "runs",
        watch,
        transfers=job.transfers,
        keep_weights=job.keep and not folder.exists(),
    )
    bar.finish()
    results = [_write(model, job, result, one.labelled) for one in (*result.sets, *result.others)]
    if result.weights is not None:
        kept = keep_tuned(model, result, folder) | {"folder": str(folder)}
        result.weights.unlink()
    elif job.keep:
        kept = {"folder": str(folder), "was_there": True}
    return JobReport(model.name, job.out, results, kept)


def _key(model: TextModel, job: TuneJob) -> str:
    return sha256_json(
        {
            "model": model.model_digest,
            "sets": [one.digest for one in job.sets],
            "transfers": [[one.head, one.labelled.digest, list(one.classes)] for one in job.transfers],
            "settings": [setting.as_json() for setting in job.settings],
            "seeds": list(job.seeds),
        }
    )


def _require_free(model: TextModel, job: TuneJob) -> None:
    """Check that a model in the folder is this job's own."""
    mark = job.out / "job.txt"
    folder, key = job.out / "model", _key(model, job)
    if (folder / RECORD_NAME).exists() and (not mark.is_file() or mark.read_text(encoding="utf-8").strip() != key):
        raise EvaluationError(
            "the folder holds the model of another job",
            seen=folder,
            fix="choose another --out, or remove that model",
        )
    job.out.mkdir(parents=True, exist_ok=True)
    mark.write_text(key + "\n", encoding="utf-8")


def _write(model: TextModel, job: TuneJob, result: GridResult, labelled: LabelledSet) -> TaskResult:
    outcome: TaskOutcome = outcome_of(result, labelled.name, model.direction)
    unit = "0 to 100" if labelled.metric in _PERCENT else _FIELD_LABELS.get(labelled.metric, "0 to 1")
    task = SuiteTask(
        name=labelled.name,
        version=1,
        title=f"Fine-tuned: {labelled.name}",
        suite=SUITE,
        metric=labelled.metric,
        unit=unit,
        higher_is_better=True,
        directions=BOTH,
        inputs=(),
        run=lambda *_: outcome,
        uses=("seeds",),
    )
    cut = int(sum(count for name, count in outcome.figures.items() if name.endswith("_truncated_rows")))
    context = TaskContext(job.out, limit=job.limit, seeds=job.seeds)
    made = result_of(model, TaskPlan(task, _key(model, job)), context, replace(outcome, truncated=cut))
    write_result(job.out / "results", made, outcome.items)
    return made
