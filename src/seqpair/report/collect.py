"""Reads what a study left on disk into plain values, and into the scores that the questions are asked of.

A file that is absent or cannot be read does not stop the report: it is named in `missing`, which the page shows. A
folder that is no study at all is an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seqpair.compare.reading import model_from_elsewhere, model_of_plan
from seqpair.compare.values import Model, Scores
from seqpair.data.order.ledger import Ledger, LedgerComparison, compare_ledgers
from seqpair.data.store.manifest import StoreManifest, read_index
from seqpair.data.store.manifest import read_manifest as read_store_manifest
from seqpair.errors import EvaluationError, SeqpairError
from seqpair.paths import LEDGER_FILE, PLAN_FILE
from seqpair.recipe.plan import Plan
from seqpair.report.member import (
    MemberRun,
    collect_member,
    member_views,
    read_json_object,
    read_outcomes,
    scores_of_outcome,
)

FIRST_MEMBERS = ("encoder", "decoder")


@dataclass(frozen=True)
class OrderCheck:
    """Two members' ledgers, compared."""

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
        order: For every member but a study's first: its ledger compared with the first one's.
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
    """Read a study folder, `<runs>/<study>`, or a folder of several such folders, or of results of other models.

    Args:
        folder: The folder.
        also: What is shown beside it: other studies' folders, or folders of results that `seqpair eval` or
            `seqpair import-results` wrote for a model from elsewhere.

    Raises:
        EvaluationError: A folder does not exist, or no member has run in it.
    """
    places = [place for one in (folder, *also) for place in _study_folders(one)]
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


def _study_folders(folder: Path) -> list[Path]:
    """Return the folder itself if members have run in it or it is one of results, else such folders inside it."""
    is_run = (folder / PLAN_FILE).exists()  # a member's own results are no study
    if is_run or _has_results(folder) or any(folder.glob("*/plan.json")):
        return [folder]
    inside = {path.parent.parent for path in folder.glob("*/*/plan.json")}
    inside |= {path for path in folder.glob("*") if _has_results(path)}
    return sorted(inside) or [folder]


def _has_results(folder: Path) -> bool:
    """Return whether a folder is one of results, as `seqpair eval` writes for a model from elsewhere."""
    # With a limit or shots all results lie in folders that are named by them.
    return any(any(folder.glob(f"{inside}*.items.jsonl")) for inside in ("", "limit-*/", "shots-*/"))


def _read_study(folder: Path) -> Study:
    if _has_results(folder):
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


def _order(study: Study) -> list[OrderCheck]:
    """Compare the ledger of every member from scratch with the first one's."""
    own = [member for member in study.members if member.second_of is None]
    fresh = [member for member in own if member.plan is None or member.plan.start is None]
    ledgers = {member.name: Ledger(member.folder / LEDGER_FILE) for member in fresh}
    for name, ledger in ledgers.items():
        if not ledger.path.exists():
            study.missing.append(f"{name}: ledger.jsonl is missing, so its order is not proven")
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
            study.missing.append(f"the stores are not in {folder}, so the sources are described by the plan alone")
            return {}
        return {name: read_store_manifest(folder / where / "train") for name, where in index.stores.items()}
    except SeqpairError as error:
        study.missing.append(f"the stores cannot be read ({error.what})")
        return {}


def scores_of_members(members: Sequence[MemberRun]) -> list[Scores]:
    """Return every member's scores on every task, at its end and at evaluated checkpoints, and outside models' scores.

    A member whose plan cannot be read is left out.
    """
    found: list[Scores] = []
    for member in members:
        if member.plan is None:
            if member.is_outside:
                outside = model_from_elsewhere(member.name)
                found += [scores_of_outcome(outside, outcome) for outcome in member.outcomes.values()]
            continue
        found += [scores_of_outcome(final_model(member, member.plan), outcome) for outcome in member.outcomes.values()]
        for evaluated in member.evaluated:
            model = model_of_plan(
                member.plan,
                checkpoint=evaluated.manifest.name,
                positions=evaluated.manifest.positions,
                tokens=evaluated.manifest.content_tokens,
                train_seconds=_seconds_until(member, evaluated.manifest.content_tokens),
            )
            found += [scores_of_outcome(model, outcome) for outcome in evaluated.outcomes.values()]
    return found


def final_model(member: MemberRun, plan: Plan) -> Model:
    """Return the model at the end of a member's run."""
    return model_of_plan(
        plan,
        tokens=member.train[-1].tokens if member.train else None,
        train_seconds=sum(point.seconds for point in member.train) if member.train else None,
        objective=member.objective,
    )


def _seconds_until(member: MemberRun, tokens: int) -> float | None:
    """Return the seconds of the training steps that read a member's first tokens; None without steps."""
    steps = [point.seconds for point in member.train if point.tokens <= tokens]
    return math.fsum(steps) if steps else None
