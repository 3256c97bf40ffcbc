"""Reads what a study left on disk into plain values.

Owns finding the files of a study folder and naming what is not there. Must not know how anything is
shown. Entry points: `collect_study`, `collect_member`.

A file that is absent or cannot be read does not stop the report: it is named in `missing`, which the
page shows. A folder that is no study at all is an error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from seqpair.checkpoint.manifest import CheckpointManifest, checkpoint_folders, read_manifest
from seqpair.data.ledger import Ledger, LedgerComparison, compare_ledgers
from seqpair.data.manifest import StoreManifest, read_index
from seqpair.data.manifest import read_manifest as read_store_manifest
from seqpair.errors import EvaluationError, SeqpairError
from seqpair.evaluate.results import EVALUATION_FOLDER, SAMPLES_NAME, TaskResult, read_items, read_results
from seqpair.jsonlines import JsonLines
from seqpair.recipe.objectives import OBJECTIVES
from seqpair.recipe.plan import Plan

FIRST_MEMBERS = ("encoder", "decoder")
REPORT_FOLDER = "report"
EXPORT_FOLDER, EXPORT_RECORD = "export", "seqpair_export.json"


@dataclass(frozen=True)
class TrainPoint:
    """One training step's row of `metrics.jsonl`; `tokens` are content tokens so far."""

    tokens: int
    loss: float
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
class Outcome:
    """One task's result for one member, with its items in a fixed order.

    Attributes:
        result: The task's result as it was written.
        ids: The items' names, ascending, (n,); members are paired by them.
        values, weights: The items' outcomes and how much they count, (n,) each.
    """

    result: TaskResult
    ids: tuple[str, ...]
    values: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]


@dataclass(frozen=True)
class FilledMask:
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
class MemberRun:
    """Everything that is known of one member, or of the second export of a member.

    Attributes:
        name: Its name; of a second export `<member> as <objective>`.
        folder: Its run folder.
        second_of: The member whose second export this is, or None. Its curves, order and checkpoint are that
            member's, and stand there only.
        objective: The objective that it was exported for, where it is a second export.
        plan: Its plan.
        train, held_out: The curves.
        outcomes: Its results, by task.
        filled, generated: The samples.
        export: `seqpair_export.json`.
        checkpoint: The newest checkpoint's manifest.
        missing: What could not be read, one sentence each.
    """

    name: str
    folder: Path
    second_of: str | None = None
    objective: str | None = None
    plan: Plan | None = None
    train: list[TrainPoint] = field(default_factory=list)
    held_out: list[HeldOutPoint] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    filled: list[FilledMask] = field(default_factory=list)
    generated: list[Generated] = field(default_factory=list)
    export: dict[str, Any] | None = None
    checkpoint: CheckpointManifest | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def direction(self) -> str:
        """Return the attention direction of what was evaluated; `unknown` without a plan."""
        if self.objective is not None:
            return OBJECTIVES[self.objective].direction
        return self.plan.derived.direction if self.plan is not None else "unknown"


@dataclass
class Study:
    """A study: its members, first the encoder, then the decoder, then the others by name.

    A member's second export stands right after it.

    Attributes:
        name: The study's name.
        folder: Its folder.
        members: The members.
        order: For every member but the first: its ledger held against the first one's.
        stores: The training stores' manifests by source.
        seconds: Wall-clock seconds of the study's parts, where the suite kept them.
        missing: What could not be read, over all members.
    """

    name: str
    folder: Path
    members: list[MemberRun]
    order: dict[str, LedgerComparison] = field(default_factory=dict)
    stores: dict[str, StoreManifest] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def collect_study(folder: Path) -> Study:
    """Read a study folder, `<runs>/<study>`.

    Raises:
        EvaluationError: The folder does not exist or no member has run in it.
    """
    names = _member_names(folder)
    members = [view for name in names for view in member_views(collect_member(folder / name))]
    study = Study(name=folder.resolve().name, folder=folder, members=members)
    study.order = _order(study)
    study.stores = _stores(study)
    study.seconds = _read_json(folder / "seconds.json", []) or {}
    for member in study.members:
        study.missing += [f"{member.name}: {what}" for what in member.missing]
    return study


def _member_names(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise EvaluationError(
            "there is no such study folder",
            seen=folder,
            allowed="<runs>/<study>, as `seqpair run` makes it",
            fix="run `seqpair run RECIPE` first, or give the folder of a study",
        )
    found = sorted(path.parent.name for path in folder.glob("*/plan.json"))
    if not found:
        raise EvaluationError(
            "no member of a study has run in this folder",
            seen=f"{folder} holds {', '.join(sorted(path.name for path in folder.iterdir())) or 'nothing'}",
            allowed="folders with a plan.json, one for each member",
            fix="give the folder of the study, not of a member or of all runs",
        )
    return [name for name in FIRST_MEMBERS if name in found] + [name for name in found if name not in FIRST_MEMBERS]


def collect_member(folder: Path) -> MemberRun:
    """Read one member's run folder, `<runs>/<study>/<member>`; what is absent is named in `missing`."""
    member = MemberRun(name=folder.name, folder=folder)
    try:
        member.plan = Plan.model_validate_json((folder / "plan.json").read_text(encoding="utf-8"))
    except (ValidationError, OSError, UnicodeDecodeError) as error:
        member.missing.append(f"plan.json cannot be read ({_first_line(error)})")
    _read_metrics(member)
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
        member.missing.append(f"{EXPORT_FOLDER}-{second}/ is not there: its second export is not shown")
        return [member]
    _read_evaluation(view)
    return [member, view]


def _read_evaluation(member: MemberRun) -> None:
    suffix = "" if member.objective is None else f"-{member.objective}"
    evaluation = member.folder / f"{EVALUATION_FOLDER}{suffix}"
    _read_outcomes(member, evaluation)
    _read_samples(member, evaluation)
    member.export = _read_json(member.folder / f"{EXPORT_FOLDER}{suffix}" / EXPORT_RECORD, member.missing)


def _read_metrics(member: MemberRun) -> None:
    path = member.folder / "metrics.jsonl"
    if not path.exists():
        member.missing.append("metrics.jsonl is not there: no curves")
        return
    try:
        for row in JsonLines(path).rows():
            if row["kind"] == "train":
                member.train.append(TrainPoint(**{name: row[name] for name in TrainPoint.__dataclass_fields__}))
            elif row["kind"] == "held_out":
                member.held_out.append(HeldOutPoint(**{name: row[name] for name in HeldOutPoint.__dataclass_fields__}))
    except (ValueError, KeyError, TypeError) as error:
        member.missing.append(f"metrics.jsonl is damaged after {len(member.train)} steps ({_first_line(error)})")


def _read_outcomes(member: MemberRun, folder: Path) -> None:
    try:
        for result in read_results(folder):
            items = sorted(read_items(folder, result), key=lambda item: item.id)
            member.outcomes[result.task] = Outcome(
                result=result,
                ids=tuple(item.id for item in items),
                values=np.array([item.value for item in items]),
                weights=np.array([item.weight for item in items]),
            )
    except SeqpairError as error:
        member.missing.append(f"a result cannot be read ({error.what})")
    if not member.outcomes:
        member.missing.append(f"{folder.name}/ holds no result")


def _read_samples(member: MemberRun, folder: Path) -> None:
    samples = _read_json(folder / SAMPLES_NAME, member.missing)
    if samples is None:
        return
    try:
        member.filled = [
            FilledMask(
                text=str(row["text"]),
                predictions=tuple((str(one["token"]), float(one["probability"])) for one in row["predictions"]),
                answer=row.get("answer"),
            )
            for row in samples.get("fill_mask", [])
        ]
        member.generated = [
            Generated(prompt=str(row["prompt"]), text=str(row["text"]), mode=str(row.get("mode", "")))
            for row in samples.get("generation", [])
        ]
    except (KeyError, TypeError, ValueError) as error:
        member.missing.append(f"{SAMPLES_NAME} is not of the expected form ({_first_line(error)})")


def _read_checkpoint(member: MemberRun) -> None:
    manifests = []
    for folder in checkpoint_folders(member.folder):
        try:
            manifests.append(read_manifest(folder))
        except SeqpairError as error:
            member.missing.append(f"checkpoint {folder.name} cannot be read ({error.what})")
    if manifests:
        member.checkpoint = max(manifests, key=lambda manifest: manifest.total_steps)
    else:
        member.missing.append("there is no checkpoint")


def _read_json(path: Path, missing: list[str]) -> dict[str, Any] | None:
    """Return a JSON object; if it is absent or damaged, say so in `missing` and return None."""
    shown = "/".join(path.parts[-2:])
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        missing.append(f"{shown} is not there")
        return None
    except (ValueError, OSError) as error:
        missing.append(f"{shown} cannot be read ({_first_line(error)})")
        return None
    if not isinstance(value, dict):
        missing.append(f"{shown} is not a JSON object")
        return None
    return value


def _order(study: Study) -> dict[str, LedgerComparison]:
    """Hold every from-scratch member's ledger against the first one's."""
    own = [member for member in study.members if member.second_of is None]
    fresh = [member for member in own if member.plan is None or member.plan.start is None]
    ledgers = {member.name: Ledger(member.folder / "ledger.jsonl") for member in fresh}
    for name, ledger in ledgers.items():
        if not ledger.path.exists():
            study.missing.append(f"{name}: ledger.jsonl is not there: its order is not proven")
    here = [name for name, ledger in ledgers.items() if ledger.path.exists()]
    compared: dict[str, LedgerComparison] = {}
    for name in here[1:]:
        try:
            compared[name] = compare_ledgers(ledgers[here[0]], ledgers[name])
        except SeqpairError as error:
            study.missing.append(f"{name}: the ledgers cannot be compared ({error.what})")
    return compared


def _stores(study: Study) -> dict[str, StoreManifest]:
    """Read the training stores' manifests of the first member that has a plan."""
    plan = next((member.plan for member in study.members if member.plan is not None), None)
    if plan is None:
        return {}
    folder = Path(plan.store_folder)
    try:
        index = read_index(plan.sources, plan.tokenizer, folder)
        if index is None:
            study.missing.append(f"the stores are not in {folder}: no facts of the sources beyond the plan's")
            return {}
        return {name: read_store_manifest(folder / where / "train") for name, where in index.stores.items()}
    except SeqpairError as error:
        study.missing.append(f"the stores cannot be read ({error.what})")
        return {}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:160]
