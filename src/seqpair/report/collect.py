"""Reads what a study left on disk into plain values.

A file that is absent or cannot be read does not stop the report: it is named in `missing`, which the
page shows. A folder that is no study at all is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from seqpair.checkpoint.manifest import CheckpointManifest, checkpoint_folders, read_manifest
from seqpair.data.order.ledger import Ledger, LedgerComparison, compare_ledgers
from seqpair.data.store.manifest import StoreManifest, read_index
from seqpair.data.store.manifest import read_manifest as read_store_manifest
from seqpair.errors import EvaluationError, SeqpairError
from seqpair.evaluate.results import SUMMARY_NAME
from seqpair.files import JsonLines
from seqpair.paths import EVALUATION_FOLDER, EXPORT_FOLDER, EXPORT_RECORD, LEDGER_FILE, METRICS_FILE, PLAN_FILE
from seqpair.recipe.objectives import OBJECTIVES
from seqpair.recipe.plan import Plan
from seqpair.report.evaluation_files import Outcome, Samples, first_line, read_json_object, read_outcomes, read_samples

FIRST_MEMBERS = ("encoder", "decoder")


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
class EvaluatedCheckpoint:
    """A checkpoint that was exported and evaluated beside the last one, with its results by task."""

    manifest: CheckpointManifest
    outcomes: dict[str, Outcome]


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
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    samples: Samples = field(default_factory=Samples)
    evaluation: dict[str, Any] = field(default_factory=dict)
    export: dict[str, Any] | None = None
    checkpoint: CheckpointManifest | None = None
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


@dataclass(frozen=True)
class OrderCheck:
    """Two members' ledgers held against each other."""

    first: str
    second: str
    comparison: LedgerComparison


@dataclass
class Study:
    """A study, or several shown together: its members, first the encoder, then the decoder, then the others by name.

    A member's second export stands right after it.

    Attributes:
        name: The study's name.
        folder: Its folder.
        members: The members.
        order: For every member but a study's first: its ledger held against the first one's.
        stores: The training stores' manifests by source.
        seconds: Wall-clock seconds of the study's parts, where the suite kept them.
        missing: What could not be read, over all members.
    """

    name: str
    folder: Path
    members: list[MemberRun]
    order: list[OrderCheck] = field(default_factory=list)
    stores: dict[str, StoreManifest] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def collect_study(folder: Path, also: Sequence[Path] = ()) -> Study:
    """Read a study folder, `<runs>/<study>`, or a folder of several such folders.

    Args:
        folder: The folder.
        also: What is shown beside it: other studies' folders, or folders of results that `seqpair eval` wrote for a
            model from elsewhere.

    Raises:
        EvaluationError: A folder does not exist, or no member has run in it.
    """
    places = [*_study_folders(folder), *(place for one in also for place in _study_folders(one, or_results=True))]
    studies = [_read_study(place) for place in places]
    if len(studies) == 1:
        return studies[0]
    together = Study(name=folder.resolve().name, folder=folder, members=[])
    for study in studies:
        for member in study.members:
            member.study = "" if member.is_outside else study.name
            if member.study:
                member.name = f"{study.name}/{member.name}"
                member.second_of = member.second_of and f"{study.name}/{member.second_of}"
        together.members += study.members
        together.order += [
            OrderCheck(f"{study.name}/{check.first}", f"{study.name}/{check.second}", check.comparison)
            for check in study.order
        ]
        together.stores = study.stores | together.stores
        together.seconds |= {f"{study.name}: {part}": seconds for part, seconds in study.seconds.items()}
        together.missing += [f"{study.name}: {what}" for what in study.missing]
    return together


def _study_folders(folder: Path, or_results: bool = False) -> list[Path]:
    """Return the folder itself if members have run in it, else those of its folders in which members have."""
    if or_results and any(folder.glob("*.items.jsonl")):
        return [folder]
    if not any(folder.glob("*/plan.json")):
        inside = sorted({path.parent.parent for path in folder.glob("*/*/plan.json")})
        if inside:
            return inside
    return [folder]


def _read_study(folder: Path) -> Study:
    if any(folder.glob("*.items.jsonl")):
        model = MemberRun(name=folder.resolve().name, folder=folder)
        model.outcomes = read_outcomes(folder, model.missing)
        return Study(name=model.name, folder=folder, members=[model], missing=list(model.missing))
    names = _member_names(folder)
    members = [view for name in names for view in member_views(collect_member(folder / name))]
    study = Study(name=folder.resolve().name, folder=folder, members=members)
    study.order = _order(study)
    study.stores = _stores(study)
    study.seconds = read_json_object(folder / "seconds.json", []) or {}
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
            fix="give the folder of a study, or of several, not of a member",
        )
    return [name for name in FIRST_MEMBERS if name in found] + [name for name in found if name not in FIRST_MEMBERS]


def collect_member(folder: Path) -> MemberRun:
    """Read one member's run folder, `<runs>/<study>/<member>`; what is absent is named in `missing`."""
    member = MemberRun(name=folder.name, folder=folder)
    try:
        member.plan = Plan.model_validate_json((folder / PLAN_FILE).read_text(encoding="utf-8"))
    except (ValidationError, OSError, UnicodeDecodeError) as error:
        member.missing.append(f"plan.json cannot be read ({first_line(error)})")
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
    member.outcomes = read_outcomes(evaluation, member.missing)
    member.samples = read_samples(evaluation, member.missing)
    member.evaluation = read_json_object(evaluation / SUMMARY_NAME, []) or {}
    member.export = read_json_object(member.folder / f"{EXPORT_FOLDER}{suffix}" / EXPORT_RECORD, member.missing)


def _read_metrics(member: MemberRun) -> None:
    path = member.folder / METRICS_FILE
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
        member.missing.append(f"metrics.jsonl is damaged after {len(member.train)} steps ({first_line(error)})")


def _read_checkpoint(member: MemberRun) -> None:
    manifests = []
    for folder in checkpoint_folders(member.folder):
        try:
            manifests.append(read_manifest(folder))
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
        found[manifest.name] = EvaluatedCheckpoint(manifest, read_outcomes(evaluation, member.missing))
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


def _order(study: Study) -> list[OrderCheck]:
    """Hold every from-scratch member's ledger against the first one's."""
    own = [member for member in study.members if member.second_of is None]
    fresh = [member for member in own if member.plan is None or member.plan.start is None]
    ledgers = {member.name: Ledger(member.folder / LEDGER_FILE) for member in fresh}
    for name, ledger in ledgers.items():
        if not ledger.path.exists():
            study.missing.append(f"{name}: ledger.jsonl is not there: its order is not proven")
    here = [name for name, ledger in ledgers.items() if ledger.path.exists()]
    compared: list[OrderCheck] = []
    for name in here[1:]:
        try:
            compared.append(OrderCheck(here[0], name, compare_ledgers(ledgers[here[0]], ledgers[name])))
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
