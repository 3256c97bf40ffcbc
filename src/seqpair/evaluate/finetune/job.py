"""A whole fine-tuning job: from what a user asks for to the results and the model that is kept.

<out>/runs/      a record for each finished run, from which an interrupted job resumes
<out>/results/   one JSON per set with its items, in the form of every evaluation
<out>/model/     the chosen model with its head
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from seqpair.errors import EvaluationError
from seqpair.evaluate.classification.sets import find_set
from seqpair.evaluate.finetune.keep import TUNED_RECORD, keep_tuned
from seqpair.evaluate.finetune.runs import GridResult, tune_grid, tuned_outcome
from seqpair.evaluate.finetune.set_spec import SetSpec, labelled_set, name_of_source, spec_of
from seqpair.evaluate.finetune.sets import LabelledSet, Transfer, transfer_of
from seqpair.evaluate.finetune.settings import TuneSetting, given_settings, grid_settings
from seqpair.evaluate.results import TaskResult, write_result
from seqpair.evaluate.task import Measurement, TaskOutcome, result_of
from seqpair.files import sha256_json
from seqpair.models.place import ModelPlace
from seqpair.models.text_model import TextModel
from seqpair.recipe.tree import plain_scalar
from seqpair.text import Progress

OUT_FOLDER = Path("finetuned")
SUITE = "finetune"
_FIELD_LABELS = {"spearman": "correlation", "pearson": "correlation", "matthews": "correlation"}
_PERCENT = ("bleu", "chrf")
_LISTS = ("labels", "header")


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
class TuneRequest:
    """What a user asks for, in names, files and texts; `job_of` reads the rows and checks everything.

    Attributes:
        tasks: Names of sets, or files that describe one; several are learned together.
        described: In place of `tasks`, keys of a description (`SetSpec`) of rows in files, `train` among them; `None`
            leaves a key as it is.
        transfers: Other sets, as `tasks`, or files of rows with the columns of `described`.
        meanings: `LABEL=LABEL_OF_THE_OTHER_SET`, for the transfers.
        choices: `KEY=VALUE`, for any other key of a description or of a setting.
        data_folder: The folder with the named sets.
        grid: The grid to try, unless there are `rates`.
        rates, epochs: A grid of the user's own.
        pooling: What the head reads.
        seeds: How many seeds, from 0.
        limit: Most rows of a part.
        out: The job's folder; `None` makes one below `finetuned`.
        keep: Whether the chosen model is kept.
    """

    tasks: Sequence[str] = ()
    described: Mapping[str, Any] = field(default_factory=dict)
    transfers: Sequence[str] = ()
    meanings: Sequence[str] = ()
    choices: Sequence[str] = ()
    data_folder: Path = Path("data/eval")
    grid: str = "small"
    rates: Sequence[float] = ()
    epochs: Sequence[int] = ()
    pooling: str = "default"
    seeds: int = 1
    limit: int | None = None
    out: Path | None = None
    keep: bool = True


def job_of(request: TuneRequest, place: ModelPlace) -> TuneJob:
    """Return the job that a request asks for, with its rows read.

    Args:
        request: What the user asks for.
        place: The model, which names the default folder.

    Raises:
        EvaluationError: A set, a key, a value or a row cannot be used.
    """
    described, common = _with_choices(request)
    if request.meanings and not request.transfers:
        raise EvaluationError("--map needs another set", seen=", ".join(request.meanings), fix="give --transfer too")
    sets = _learned(request, described)
    common = {"max_tokens": max(one.max_tokens for one in sets)} | common
    transfers = tuple(_transfer(other, sets[0], described, request) for other in request.transfers)
    limited = tuple(one.limited(request.limit) for one in sets)
    # The digest keeps apart sets of one name: other rows, another limit, or a file of the same name elsewhere.
    own = f"{'-'.join(one.name for one in sets)}-{sha256_json([one.digest for one in limited])[:8]}"
    return TuneJob(
        limited,
        tuple(_settings(request, sets[0].name, common)),
        tuple(range(request.seeds)),
        request.out or OUT_FOLDER / place.short_name / own,
        transfers,
        request.limit,
        request.keep,
    )


def _with_choices(request: TuneRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the keys of the description and those of the settings, choices included."""
    settings = {one.name for one in fields(TuneSetting)} - {"learning_rate", "epochs", "pooling"}
    known = dict.fromkeys([*SetSpec.model_fields, *sorted(settings)])
    described = {key: value for key, value in request.described.items() if value is not None}
    common: dict[str, Any] = {"pooling": request.pooling}
    for choice in request.choices:
        key, equals, value = choice.partition("=")
        if not equals or key not in known:
            raise EvaluationError(
                "fine-tuning has no such choice", seen=choice, allowed=", ".join(f"{name}=VALUE" for name in known)
            )
        if key in settings:  # `max_tokens` is a key of both; the setting's is the one that counts
            common[key] = plain_scalar(value)
        else:
            parts = [part.strip() for part in value.split(",")]
            described[key] = parts if key in _LISTS else value.replace("\\n", "\n")
    return described, common


def _learned(request: TuneRequest, described: Mapping[str, Any]) -> list[LabelledSet]:
    """Return the sets to learn."""
    has_rows = bool(described.get("train"))
    if has_rows == bool(request.tasks):
        raise EvaluationError(
            "fine-tuning needs rows to learn from", seen=described.get("train"), allowed="either --data or --task"
        )
    if has_rows:
        named = {"name": name_of_source(str(described["train"]))} | dict(described)
        return [labelled_set(spec_of(named, "the command line"))]
    if described and not any(_is_file_of_rows(other) for other in request.transfers):
        raise EvaluationError(
            "a named set brings its own description",
            seen=", ".join(described),
            allowed="these keys with --data, or with a file of rows as --transfer",
        )
    return [find_set(name, request.data_folder) for name in request.tasks]


def _settings(request: TuneRequest, task: str, common: dict[str, Any]) -> list[TuneSetting]:
    base = TuneSetting(1e-4, **common)
    if request.rates:
        return given_settings(request.rates, [base.weight_decay], request.epochs or [3], base)
    if request.epochs:
        raise EvaluationError(
            "--epochs belongs to a grid of your own", seen=", ".join(map(str, request.epochs)), fix="give --rate too"
        )
    # A grid sets the batch size and the weight decay of its settings; what the user chose replaces both.
    own = {key: value for key, value in common.items() if key in ("batch_rows", "weight_decay")}
    return list(dict.fromkeys(replace(setting, **own) for setting in grid_settings(request.grid, task, base)))


def _is_file_of_rows(name: str) -> bool:
    return "." in name and not name.endswith((".yaml", ".yml"))


def _transfer(other: str, learned: LabelledSet, described: Mapping[str, Any], request: TuneRequest) -> Transfer:
    wrong = [pair for pair in request.meanings if pair.count("=") != 1]
    if wrong:
        raise EvaluationError("--map names two labels", seen=", ".join(wrong), allowed="LABEL=LABEL_OF_THE_OTHER_SET")
    if _is_file_of_rows(other):
        given = {**described, "name": name_of_source(other), "test": other, "labels": ()}
        labelled = labelled_set(spec_of(given, "the command line"), like=learned)
    else:
        labelled = find_set(other, request.data_folder)
    return transfer_of(learned, labelled.limited(request.limit), dict(pair.split("=") for pair in request.meanings))


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


def run_job(model: TextModel, job: TuneJob) -> JobReport:
    """Do a job, or what is left of it.

    Raises:
        EvaluationError: Its folder contains the model of another job or other files, or no run came to an end.
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
    elif job.keep:
        kept = {"folder": str(folder), "was_there": True}
    if job.keep:  # also those of a call that was killed after it had kept the model
        for weights in (job.out / "runs").glob("*.safetensors"):
            weights.unlink()
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
    if (folder / TUNED_RECORD).exists() and (not mark.is_file() or mark.read_text(encoding="utf-8").strip() != key):
        raise EvaluationError(
            "the folder contains the model of another job",
            seen=folder,
            fix="choose another --out, or remove that model",
        )
    if not mark.is_file() and any(job.out.glob("[!.]*")):
        raise EvaluationError(
            "the folder contains other files than those of a job",
            seen=job.out,
            allowed="a new or empty folder, or that of an earlier call",
            fix="choose another --out",
        )
    job.out.mkdir(parents=True, exist_ok=True)
    mark.write_text(key + "\n", encoding="utf-8")


def _write(model: TextModel, job: TuneJob, result: GridResult, labelled: LabelledSet) -> TaskResult:
    outcome: TaskOutcome = tuned_outcome(result, labelled.name, model.direction)
    unit = "0 to 100" if labelled.metric in _PERCENT else _FIELD_LABELS.get(labelled.metric, "0 to 1")
    measured = Measurement(
        name=labelled.name,
        version=1,
        title=f"Fine-tuned: {labelled.name}",
        suite=SUITE,
        metric=labelled.metric,
        unit=unit,
        higher_is_better=True,
    )
    place = model.place
    if place is None:
        raise EvaluationError(
            "a result names the model that it is of, so the model must be opened by its name",
            fix="open it with `open_model`",
        )
    cut = math.fsum(count for name, count in outcome.figures.items() if name.endswith("_truncated_rows"))
    outcome.figures["truncated_rows"] = cut
    choices = {"limit": job.limit, "predicts": place.predicts, "seeds": list(job.seeds)}
    made = result_of(measured, place, outcome, key=_key(model, job), choices=choices)
    write_result(job.out / "results", made, outcome.items)
    return made
