"""Reads one member's run folder into plain values: its curves, checkpoints, export, results with their items, samples.

What was evaluated with a limit or another way of scoring lies in a folder of its own inside the evaluation's. It stands
beside the full result under its own name, never in its place.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from seqpair.checkpoint.manifest import CheckpointManifest, checkpoint_folders, read_checkpoint_manifest
from seqpair.compare.reading import NEVER_MEANS, gold_scores, scores_of_columns
from seqpair.compare.values import Interval, Model, Scores
from seqpair.errors import EvaluationError, SeqpairError
from seqpair.evaluate.results import (
    SAMPLES_NAME,
    SUMMARY_NAME,
    ItemOutcome,
    TaskResult,
    is_mean_of_items,
    read_items,
    read_result,
    result_files,
    standard_error,
    standard_interval,
    weighted_mean,
)
from seqpair.files import JsonLines
from seqpair.paths import DRIFT_FILE, EVALUATION_FOLDER, EXPORT_FOLDER, EXPORT_RECORD, METRICS_FILE, PLAN_FILE
from seqpair.recipe.objectives import OBJECTIVES
from seqpair.recipe.plan import Plan


@dataclass(frozen=True)
class TrainPoint:
    """One training step's row of `metrics.jsonl`; `tokens` are content tokens so far, `lr` the learning rate."""

    tokens: int
    loss: float
    lr: float
    phase: str
    tokens_per_second: float
    seconds: float
    waste_frac: float


@dataclass(frozen=True)
class HeldOutPoint:
    """One source's held-out loss at one moment; `loss` in nats per predicted token."""

    tokens: int
    source: str
    loss: float
    bits_per_byte: float
    accuracy: float


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint on disk, in numbers; `tokens` are content tokens read so far."""

    name: str
    phase: str
    steps: int
    tokens: int
    bytes: int
    created: str


@dataclass(frozen=True)
class MemberOutcome:
    """One task's result for one member, with its items in a fixed order.

    Attributes:
        result: The task's result as it was written.
        ids: The items' names, ascending, (n,); members are paired by them.
        values, weights: The items' outcomes and how much they count, (n,) each.
        details: What else is known of an item, (n,).
        clusters: The cluster that an item names, or empty, (n,).
        choices: The name of the folder of the choices it was made with; empty for the default ones.
        is_derived: Whether it was made of another outcome's items, as the bits per byte of the right answers are.
    """

    result: TaskResult
    ids: tuple[str, ...]
    values: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]
    details: tuple[Mapping[str, Any], ...] = ()
    clusters: tuple[str, ...] = ()
    choices: str = ""
    is_derived: bool = False

    @property
    def key(self) -> str:
        """Return the name under which members' outcomes are paired: task, and choices where not the default."""
        return f"{self.result.task}@{self.choices}" if self.choices else self.result.task

    @property
    def title(self) -> str:
        """Return the task in words, with the choices where they are not the default."""
        return f"{self.result.title} ({self.choices.replace('_', ', ')})" if self.choices else self.result.title

    @property
    def at_chance(self) -> bool:
        """Return whether the interval includes what guessing gives, or the value is that."""
        chance = self.result.chance
        return chance is not None and Interval(self.result.value, *self.result.interval).contains(chance)


@dataclass(frozen=True)
class ShownMask:
    """A text with `[MASK]`, what the member put there as (token, probability), and what stood there."""

    text: str
    predictions: tuple[tuple[str, float], ...]
    answer: str | None


@dataclass(frozen=True)
class Generated:
    """A prompt, how the member went on, and how its tokens were chosen."""

    prompt: str
    text: str
    mode: str


@dataclass
class Samples:
    """What a member wrote: filled masks and continued prompts."""

    filled: list[ShownMask] = field(default_factory=list)
    generated: list[Generated] = field(default_factory=list)


@dataclass(frozen=True)
class EvaluatedCheckpoint:
    """A checkpoint that was exported and evaluated beside the last one, with its results by task."""

    manifest: CheckpointManifest
    outcomes: dict[str, MemberOutcome]


@dataclass
class MemberRun:
    """Everything that is known of one member, or of the second export of a member.

    Attributes:
        name: Its name; of a second export `<member> as <objective>`.
        folder: Its run folder.
        study: The study it is of, where several are shown together; its name then starts with it.
        second_of: The member whose second export this is, or None. Its curves, order and checkpoint are that
            member's, and stand there only.
        objective: The objective that it was exported for, where it is a second export.
        plan: Its plan.
        train, held_out: The curves.
        outcomes: Its results, by task.
        samples: What it wrote.
        evaluation: The evaluation's own summary: what was skipped and why, and how long it took.
        drift: How far each part of the model is from its start, by layer; empty for a member from scratch.
        saved: The checkpoints on disk, oldest first.
        evaluated: Those of them whose exports were evaluated too.
        export: `seqpair_export.json`.
        checkpoint: The newest checkpoint's manifest.
        missing: What could not be read, one sentence each.
    """

    name: str
    folder: Path
    study: str = ""
    second_of: str | None = None
    objective: str | None = None
    plan: Plan | None = None
    train: list[TrainPoint] = field(default_factory=list)
    held_out: list[HeldOutPoint] = field(default_factory=list)
    outcomes: dict[str, MemberOutcome] = field(default_factory=dict)
    samples: Samples = field(default_factory=Samples)
    evaluation: dict[str, Any] = field(default_factory=dict)
    export: dict[str, Any] | None = None
    checkpoint: CheckpointManifest | None = None
    drift: dict[str, float] = field(default_factory=dict)
    saved: list[SavedCheckpoint] = field(default_factory=list)
    evaluated: list[EvaluatedCheckpoint] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def is_outside(self) -> bool:
        """Return whether it is a model from elsewhere, of which there are results and nothing else."""
        return self.plan is None and bool(self.outcomes) and not (self.folder / METRICS_FILE).exists()

    @property
    def direction(self) -> str:
        """Return the attention direction of what was evaluated; `unknown` without a plan."""
        if self.objective is not None:
            return OBJECTIVES[self.objective].direction
        return self.plan.derived.direction if self.plan is not None else "unknown"


def tasks_done(members: Sequence[MemberRun]) -> list[str]:
    """Return the keys of all tasks: first those that most members do, then by name."""
    doers = Counter(task for member in members for task in member.outcomes)
    return sorted(doers, key=lambda task: (-doers[task], task))


def first_outcome(task: str, members: Sequence[MemberRun]) -> MemberOutcome:
    """Return the first member's outcome that there is of a task: it says what was measured."""
    return next(member.outcomes[task] for member in members if task in member.outcomes)


def collect_member(folder: Path) -> MemberRun:
    """Read one member's run folder, `<runs>/<study>/<member>`; what is absent is named in `missing`."""
    member = MemberRun(name=folder.name, folder=folder)
    try:
        member.plan = Plan.model_validate_json((folder / PLAN_FILE).read_text(encoding="utf-8"))
    except (ValidationError, OSError, UnicodeDecodeError) as error:
        member.missing.append(f"plan.json cannot be read ({first_line(error)})")
    else:
        if member.plan.member != folder.name:
            member.missing.append(
                f"the run of {member.plan.member} lies in {folder.name}/, and stands under its own name"
            )
            member.name = member.plan.member
    _read_metrics(member)
    if (folder / DRIFT_FILE).exists():
        member.drift = read_json_object(folder / DRIFT_FILE, member.missing) or {}
    _read_evaluation(member)
    _read_checkpoint(member)
    return member


def member_views(member: MemberRun) -> list[MemberRun]:
    """Return a member and, where it has one, its second export with its own results."""
    second = None if member.plan is None else member.plan.derived.also_exports
    if second is None:
        return [member]
    view = MemberRun(f"{member.name} as {second}", member.folder, second_of=member.name, objective=second)
    view.plan = member.plan
    if not any((member.folder / f"{part}-{second}").is_dir() for part in (EXPORT_FOLDER, EVALUATION_FOLDER)):
        member.missing.append(f"{EXPORT_FOLDER}-{second}/ is missing, so its second export is not shown")
        return [member]
    _read_evaluation(view)
    return [member, view]


def _read_evaluation(member: MemberRun) -> None:
    suffix = "" if member.objective is None else f"-{member.objective}"
    evaluation = member.folder / f"{EVALUATION_FOLDER}{suffix}"
    member.evaluation = read_json_object(evaluation / SUMMARY_NAME, []) or {}
    member.export = read_json_object(member.folder / f"{EXPORT_FOLDER}{suffix}" / EXPORT_RECORD, member.missing)
    member.outcomes = _own_outcomes(member, evaluation, member.export)
    member.samples = read_study_samples(evaluation, member.missing)


def _own_outcomes(member: MemberRun, evaluation: Path, export: Mapping[str, Any] | None) -> dict[str, MemberOutcome]:
    """Return an evaluation's results that say they are this member's, of the export's weights; name all others."""
    found = read_outcomes(evaluation, member.missing)
    kept: dict[str, MemberOutcome] = {}
    own = {"member": member.plan.member if member.plan else member.folder.name}
    own |= {"study": member.plan.study} if member.plan else {}
    own |= {"model_digest": str(export["model_digest"])} if export and "model_digest" in export else {}
    for key, outcome in found.items():
        other = [f"{name} {seen}" for name, wanted in own.items() if (seen := getattr(outcome.result, name)) != wanted]
        if other:
            member.missing.append(f"{evaluation.name}/{key} is left out: it is another model's ({', '.join(other)})")
        else:
            kept[key] = outcome
    return kept


def read_outcomes(folder: Path, missing: list[str]) -> dict[str, MemberOutcome]:
    """Return an evaluation folder's results by key; what cannot be read is named in `missing`."""
    outcomes: dict[str, MemberOutcome] = {}
    inside = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    for place in [folder, *sorted(path for path in inside if not path.name.startswith("."))]:
        choices = "" if place == folder else place.name
        for path in result_files(place):
            try:
                outcome = _outcome(place, read_result(path), choices)
            except (SeqpairError, OSError) as error:
                said = error.what if isinstance(error, SeqpairError) else first_line(error)
                missing.append(f"the result {path.stem} cannot be read ({said})")
            else:
                outcomes |= {own.key: own for own in (outcome, *_gold_outcomes(outcome))}
    if not outcomes:
        missing.append(f"{folder.name}/ contains no result")
    return outcomes


def _outcome(folder: Path, result: TaskResult, choices: str) -> MemberOutcome:
    items = sorted(read_items(folder, result), key=lambda item: item.id)
    values, weights = np.array([item.value for item in items]), np.array([item.weight for item in items])
    if result.metric not in NEVER_MEANS and not is_mean_of_items(result.value, values, weights):
        raise EvaluationError(
            f"its value {result.value:.4f} is not the mean of its items", fix="evaluate the model again"
        )
    return MemberOutcome(
        result=result,
        ids=tuple(item.id for item in items),
        values=values,
        weights=weights,
        details=tuple(item.detail for item in items),
        clusters=tuple(item.cluster for item in items),
        choices=choices,
    )


def _gold_outcomes(outcome: MemberOutcome) -> list[MemberOutcome]:
    """Return how likely the right answers of an outcome's items are, as outcomes beside it (`gold_scores`)."""
    found = []
    own = scores_of_outcome(Model("", "", 0), replace(outcome, choices=""))
    for gold in gold_scores(own):
        clusters = tuple(own.clusters.get(name, "") for name in own.ids)
        columns = zip(gold.ids, gold.values, gold.weights, clusters, strict=True)
        items = [ItemOutcome(id=name, value=v, weight=w, cluster=cluster) for name, v, w, cluster in columns]
        interval, method = standard_interval(items)
        told = {name: getattr(gold.task, name) for name in ("title", "metric", "unit", "higher_is_better", "chance")}
        beside = {"value": weighted_mean(items), "interval": interval, "interval_method": method}
        beside |= {"standard_error": standard_error(items), "baselines": {}, "figures": {}, "note": ""}
        result = outcome.result.model_copy(update={"task": gold.task.name, **told, **beside})
        details: tuple[Mapping[str, Any], ...] = ({},) * len(items)
        found.append(
            MemberOutcome(result, gold.ids, gold.values, gold.weights, details, clusters, outcome.choices, True)
        )
    return found


def scores_of_outcome(model: Model, outcome: MemberOutcome) -> Scores:
    """Return a member's outcome as scores of a model."""
    found = scores_of_columns(
        model, outcome.result, outcome.ids, outcome.values, outcome.weights, outcome.details, outcome.clusters
    )
    return replace(found, task=replace(found.task, name=outcome.key, title=outcome.title))


def read_study_samples(folder: Path, missing: list[str]) -> Samples:
    """Return what a member wrote; what cannot be read is named in `missing`."""
    rows = read_json_object(folder / SAMPLES_NAME, missing)
    samples = Samples()
    try:
        for row in (rows or {}).get("fill_mask", []):
            predictions = tuple((str(one["token"]), float(one["probability"])) for one in row["predictions"])
            samples.filled.append(ShownMask(str(row["text"]), predictions, row.get("answer")))
        for row in (rows or {}).get("generation", []):
            samples.generated.append(Generated(str(row["prompt"]), str(row["text"]), str(row.get("mode", ""))))
    except (KeyError, TypeError, ValueError) as error:
        missing.append(f"{SAMPLES_NAME} is not of the expected form ({first_line(error)})")
    return samples


def _read_metrics(member: MemberRun) -> None:
    path = member.folder / METRICS_FILE
    if not path.exists():
        member.missing.append("metrics.jsonl is missing, so there are no curves")
        return
    try:
        for row in JsonLines(path).rows():
            if row["kind"] == "train":
                member.train.append(TrainPoint(**{name: row[name] for name in TrainPoint.__dataclass_fields__}))
            elif row["kind"] == "held_out":
                member.held_out.append(HeldOutPoint(**{name: row[name] for name in HeldOutPoint.__dataclass_fields__}))
    except (ValueError, KeyError, TypeError) as error:
        member.missing.append(f"metrics.jsonl is damaged after {len(member.train)} steps ({first_line(error)})")


def _read_checkpoint(member: MemberRun) -> None:
    manifests = []
    for folder in checkpoint_folders(member.folder):
        try:
            manifests.append(read_checkpoint_manifest(folder))
        except SeqpairError as error:
            member.missing.append(f"checkpoint {folder.name} cannot be read ({error.what})")
    if manifests:
        manifests.sort(key=lambda manifest: manifest.total_steps)
        member.checkpoint = manifests[-1]
        member.saved = [_saved(manifest) for manifest in manifests]
        member.evaluated = _evaluated(member, {manifest.name: manifest for manifest in manifests})
    else:
        member.missing.append("there is no checkpoint")


def _evaluated(member: MemberRun, manifests: dict[str, CheckpointManifest]) -> list[EvaluatedCheckpoint]:
    """Read `evaluation-NAME` of every `export-NAME` that was made from another checkpoint than the member's export."""
    last = (member.export or {}).get("checkpoint")
    second = None if member.plan is None else member.plan.derived.also_exports
    found: dict[str, EvaluatedCheckpoint] = {}
    for record in sorted(member.folder.glob(f"{EXPORT_FOLDER}-*/{EXPORT_RECORD}")):
        suffix = record.parent.name.removeprefix(EXPORT_FOLDER)
        evaluation = member.folder / f"{EVALUATION_FOLDER}{suffix}"
        said = read_json_object(record, member.missing) or {}
        manifest = manifests.get(str(said.get("checkpoint")))
        if suffix == f"-{second}" or manifest is None or manifest.name == last or not evaluation.is_dir():
            continue
        found[manifest.name] = EvaluatedCheckpoint(manifest, _own_outcomes(member, evaluation, said))
    return sorted(found.values(), key=lambda one: one.manifest.total_steps)


def _saved(manifest: CheckpointManifest) -> SavedCheckpoint:
    return SavedCheckpoint(
        name=manifest.name,
        phase=manifest.phase,
        steps=manifest.total_steps,
        tokens=manifest.content_tokens,
        bytes=sum(entry.bytes for entry in manifest.files.values()),
        created=manifest.created,
    )


def read_json_object(path: Path, missing: list[str]) -> dict[str, Any] | None:
    """Return a JSON object; if it is absent or damaged, say so in `missing` and return None."""
    shown = "/".join(path.parts[-2:])
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        missing.append(f"{shown} is missing")
        return None
    except (ValueError, OSError) as error:
        missing.append(f"{shown} cannot be read ({first_line(error)})")
        return None
    if not isinstance(value, dict):
        missing.append(f"{shown} is not a JSON object")
        return None
    return value


def first_line(error: Exception) -> str:
    """Return an error's kind and first line, cut short."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]
