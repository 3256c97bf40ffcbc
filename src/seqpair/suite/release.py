"""A release: every kept checkpoint of a study as a proven export with its record, the order between them, and cards.

Everything in a release is a function of the study, so that a release that was interrupted ends byte for byte as one
that was not, and repeating the call writes nothing.

OUT/<member>/<revision>/    an export, its card, and seqpair_revision.json; `main` is the last checkpoint
OUT/order/                  one Parquet file for the steps between two neighbouring revisions, and a card
OUT/release.json            members, revisions, hashes
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
from torch import Tensor

from seqpair.checkpoint.catalog import CheckpointEntry, scan, superfluous
from seqpair.checkpoint.manifest import MODEL_NAME
from seqpair.data.order.export import export_order
from seqpair.data.order.spans import Span, spans_between
from seqpair.data.prepared import Prepared
from seqpair.errors import CheckpointError, ExportError, RunLockedError, SeqpairError
from seqpair.evaluate.study_text import held_out_texts
from seqpair.files import TEMPORARY_PREFIX, clear_partial, read_json, sha256_file, write_json, write_text
from seqpair.hub.export import export_checkpoint, read_export_record
from seqpair.hub.formats import DTYPES, Dtype
from seqpair.hub.import_folder import read_hub_folder
from seqpair.hub.revision import (
    CARD_NAME,
    MAIN,
    ORDER_FOLDER,
    RELEASE_NAME,
    REVISION_NAME,
    Parent,
    ProbeSequence,
    Revision,
    digest_file,
    digest_files,
    public_plan,
    read_revision,
    tensors_digest,
)
from seqpair.hub.weights import WEIGHTS_NAME
from seqpair.recipe.diff import plan_digest
from seqpair.recipe.plan import KeepRule, Plan
from seqpair.suite.places import StudyPlace
from seqpair.suite.release_card import Statement, card_text, main_sections, order_card, revision_section
from seqpair.suite.release_probe import make_probe, measure_probe, weights_distance
from seqpair.text import note

FORMAT_VERSION = 1
_NUMBERS = re.compile(r"\[\s+((?:-?\d+,\s+)*-?\d+)\s+\]")


@dataclass
class ReleaseOutcome:
    """What a call did.

    Attributes:
        exported: The revisions that were exported, as `member/revision`.
        kept: How many revisions were there already.
        order_files: How many files the order has.
    """

    exported: list[str] = field(default_factory=list)
    kept: int = 0
    order_files: int = 0


@dataclass
class _Release:
    """What all parts of one call need."""

    out: Path
    study: StudyPlace
    prepared: Prepared
    plans: dict[str, Plan]
    statement: Statement
    dtype: Dtype
    probe: tuple[ProbeSequence, ...] = ()
    texts: list[str] | None = None
    outcome: ReleaseOutcome = field(default_factory=ReleaseOutcome)
    done: dict[str, list[Revision]] = field(default_factory=dict)


def release_study(
    study: StudyPlace,
    out: Path,
    members: Sequence[str] = (),
    *,
    every_tokens: int | None = None,
    dtype: Dtype = "fp32",
    statement: Statement | None = None,
) -> ReleaseOutcome:
    """Write or complete the release of a study; what is there and right is left alone.

    Args:
        study: The trained study.
        out: The folder of the release: new, empty, or an earlier release of this study.
        members: Only these; all if empty. Members that were released earlier stay.
        every_tokens: Release the first checkpoint at or after each multiple of so many content tokens, the last one of
            each phase, and those that other members start from; all kept checkpoints without it.
        dtype: The type of the weights.
        statement: Licence, language and owner.

    Raises:
        CheckpointError: A member has no checkpoint, or one is damaged.
        ExportError: An export would not compute what the model computes, or `out` is something else.
        RunLockedError: Another process writes this release.
        StoreError: The study's data is not prepared.
    """
    statement = statement or Statement()
    if dtype not in DTYPES:
        raise ExportError("weights cannot be stored in this precision", seen=dtype, allowed=", ".join(DTYPES))
    chosen = [run.member for run in study.chosen(members)]
    entries = {name: _entries(study, name, every_tokens) for name in chosen}
    with _only_writer(out):
        earlier = _require_ours(out, study.name, dtype, statement)
        for folder in [out, *sorted(path for path in out.rglob("*") if path.is_dir())]:
            clear_partial(folder)
        plans = {run.member: run.plan() for run in study.runs}
        made = _Release(out, study, study.open_data(), plans, statement, dtype)
        made.probe = make_probe(made.prepared, min(phase.seq_len for plan in plans.values() for phase in plan.phases))
        made.texts = held_out_texts(next(iter(entries.values()))[-1].path)
        for name in _member_order(plans):
            if name in earlier or name in entries:
                _release_member(made, name, entries.get(name, ()))
        _release_order(made)
        _write_if_new(out / RELEASE_NAME, _as_text(_contents(made)))
    return made.outcome


def _member_order(plans: Mapping[str, Plan]) -> list[str]:
    """Return all members, those that others start from first; however the study was named, the order is the same."""

    def depth(name: str | None) -> int:
        start = plans[name].start if name in plans else None
        return 0 if start is None else 1 + depth(start.member)

    return sorted(plans, key=lambda name: (depth(name), name))


def _entries(study: StudyPlace, member: str, every_tokens: int | None) -> list[CheckpointEntry]:
    """Return the checkpoints of a member to release, oldest first."""
    run = study.run(member).path
    found = scan(run)
    if found.faults:
        raise found.faults[0]
    if not found.entries:
        raise CheckpointError(
            f"the member {member} has no checkpoint to release", seen=run, fix="train it, or name others: --members"
        )
    plan = found.entries[-1].manifest.plan
    rule = KeepRule(last=None if every_tokens is None else 1, every_tokens=every_tokens, names=plan.keep.names)
    left_out = superfluous(found.entries, rule, plan.phases)
    return [entry for entry in found.entries if entry not in left_out]


@contextlib.contextmanager
def _only_writer(out: Path) -> Iterator[None]:
    """Lock the folder itself, so that no lock file becomes a part of the release."""
    out.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise RunLockedError(
            f"another process writes the release {out}", seen=error, fix="wait until it has ended, or end it"
        ) from error
    finally:
        os.close(descriptor)


def _require_ours(out: Path, study: str, dtype: str, statement: Statement) -> list[str]:
    """Return the members that a release contains; a new one gets its `release.json` first, so that it is known as ours.

    Raises:
        ExportError: The folder is not empty and not a release, or one of another study, type or owner.
    """
    path = out / RELEASE_NAME
    wanted = {"study": study, "dtype": dtype, "owner": statement.owner}
    if not path.is_file():
        others = sorted(one.name for one in out.iterdir() if not one.name.startswith(TEMPORARY_PREFIX))
        if others:
            raise ExportError(
                "the output folder is not empty, and no release of seqpair",
                seen=f"{out} with {', '.join(others[:4])}",
                fix="choose another folder",
            )
        write_json(path, {"format_version": FORMAT_VERSION, **wanted, "members": {}})
        return []
    found = read_json(path, ExportError, "choose another folder, or put back a good copy", {"members": dict})
    seen = {key: found.get(key) for key in wanted}
    if seen != wanted:
        raise ExportError(
            f"the folder {out} is another release",
            seen=", ".join(f"{key} {value or 'none'}" for key, value in seen.items()),
            allowed=", ".join(f"{key} {value or 'none'}" for key, value in wanted.items()),
            fix="choose another folder, or repeat the command with the options of that release",
        )
    return list(found["members"])


def _release_member(made: _Release, member: str, entries: Sequence[CheckpointEntry]) -> None:
    """Release a member's revisions one after another, each with the one before as its parent."""
    folder = made.out / member
    wanted = {MAIN if entry is entries[-1] else entry.name: entry for entry in entries}
    earlier = _earlier_revisions(folder, wanted, made.plans[member])
    steps = {one.revision: one.total_steps for one in earlier}
    steps |= {name: entry.manifest.total_steps for name, entry in wanted.items()}
    parent = _start(made, member)
    done = made.done.setdefault(member, [])
    for name in sorted(steps, key=lambda name: (steps[name], name == MAIN)):
        entry = wanted.get(name)
        known = next((one for one in earlier if one.revision == name), None)
        revision = _release_revision(made, folder / name, entry, known, parent, done)
        done.append(revision)
        parent = _Origin(Parent(member=member, revision=name, tensors=revision.tensors), folder / name)


def _earlier_revisions(folder: Path, wanted: Mapping[str, CheckpointEntry], plan: Plan) -> list[Revision]:
    """Return the records of revisions that are there and right; checkpoints may have been thinned out since."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            revision = read_revision(path)
        except SeqpairError as error:
            if path.name in wanted:
                continue  # it is made again
            raise ExportError(
                f"the release contains a folder that is no revision: {path}", seen=error.what, fix="remove it"
            ) from error
        entry = wanted.get(path.name)
        if revision.revision != path.name or revision.plan_digest != plan_digest(plan):
            raise ExportError(
                f"the release contains a revision of another plan or name: {path}",
                seen=f"{revision.member}@{revision.revision}, plan {revision.plan_digest[:16]}",
                allowed=f"{path.name}, plan {plan_digest(plan)[:16]}",
                fix="release into another folder",
            )
        is_same = entry is None or revision.checkpoint_sha256 == entry.manifest.files[MODEL_NAME].sha256
        faults = [one for one in revision.faults_of(digest_files(path)) if not one.startswith(f"{CARD_NAME}:")]
        if is_same and not faults:
            found.append(revision)
        elif entry is None:
            raise ExportError(
                f"a released revision is damaged, and its checkpoint is gone: {path}",
                seen="; ".join(faults),
                fix="put back a good copy, or remove the revision",
            )
    return found


@dataclass
class _Origin:
    """A parent and its weights, which are read when they are asked for."""

    parent: Parent
    folder: Path
    _state: Mapping[str, Tensor] | None = None

    def state(self) -> Mapping[str, Tensor]:
        if self._state is None:
            self._state = read_hub_folder(self.folder).model
        return self._state


def _start(made: _Release, member: str) -> _Origin | None:
    """Return the released revision that a member was started from, if it was, and if that is released."""
    start = made.plans[member].start
    if start is None or start.member is None:
        return None
    released = made.done.get(start.member, [])
    for one in released:
        if one.checkpoint == start.checkpoint or (start.checkpoint is None and one is released[-1]):
            place = made.out / start.member / one.revision
            return _Origin(Parent(member=start.member, revision=one.revision, tensors=one.tensors), place)
    return None


def _release_revision(
    made: _Release,
    folder: Path,
    entry: CheckpointEntry | None,
    known: Revision | None,
    origin: _Origin | None,
    before: Sequence[Revision],
) -> Revision:
    """Bring one revision's files, card and record up to date, and return the record.

    Args:
        made: The release.
        folder: The revision's folder.
        entry: Its checkpoint; None if that was thinned out, and the revision is there.
        known: Its record, if its files are there and right.
        origin: What it was trained on from.
        before: The member's earlier revisions.
    """
    target = folder
    if known is None:
        assert entry is not None, "a revision without a checkpoint is there"
        target = folder.with_name(f"{TEMPORARY_PREFIX}{folder.name}")
        note(f"release {folder.parent.name}/{folder.name} ({entry.name})")
        export_checkpoint(entry.path, target, made.texts, dtype=made.dtype)
        made.outcome.exported.append(f"{folder.parent.name}/{folder.name}")
    made.outcome.kept += known is not None
    parent = None if origin is None else origin.parent
    if known is None or known.parent != parent or known.probe.sequences != made.probe:
        probe, read = measure_probe(target, made.probe)
        distance = None if origin is None else weights_distance(read.model, origin.state())
    else:
        probe, distance = known.probe, known.distance
    found = {"parent": parent, "distance": distance, "probe": probe}
    if known is None:
        fields = _fields(entry, target, folder.name, made.dtype) | found
        revision = Revision.model_validate(fields | {"files": digest_files(target, git=True)})
    else:
        revision = known.model_copy(update=found)  # its files have been compared with it: none is read again
    plan = revision.plan
    added = (
        main_sections([*before, revision], made.plans, made.study.run(plan.member).path, made.statement)
        if folder.name == MAIN
        else revision_section(folder.name, plan, made.statement)
    )
    _write_if_new(target / CARD_NAME, card_text(target, folder.name, plan, made.statement, added))
    files = revision.files | {CARD_NAME: digest_file(target / CARD_NAME, git=True)}
    revision = revision.model_copy(update={"files": files})
    _write_if_new(target / REVISION_NAME, _as_text(revision.model_dump(mode="json")))
    if target != folder:
        if folder.exists():
            shutil.rmtree(folder)
        target.rename(folder)
    return revision


def _fields(entry: CheckpointEntry | None, folder: Path, name: str, dtype: Dtype) -> dict[str, object]:
    """Return what a record says of a checkpoint and of its export."""
    assert entry is not None, "a new record has a checkpoint"
    manifest = entry.manifest
    plan = public_plan(manifest.plan)
    return {
        **{key: getattr(manifest, key) for key in ("phase", "phase_step", "total_steps", "content_tokens")},
        "study": plan.study,
        "member": plan.member,
        "revision": name,
        "checkpoint": manifest.name,
        "checkpoint_sha256": manifest.files[MODEL_NAME].sha256,
        "objective": read_export_record(folder)["objective"],
        "dtype": dtype,
        "plan_digest": manifest.plan_digest,
        "tensors": tensors_digest(folder / WEIGHTS_NAME),
        "plan": plan,
    }


def stretches(revisions: Sequence[Revision]) -> dict[str, list[Span]]:
    """Return the steps between a member's neighbouring revisions, by the name of their file.

    Args:
        revisions: The member's revisions, oldest first.
    """
    found = {}
    first = f"{revisions[0].plan.phases[0].tag}0"
    for one in revisions:
        found[f"{first}-to-{one.checkpoint}.parquet"] = spans_between(one.plan, first, one.checkpoint)
        first = one.checkpoint
    return found


def _release_order(made: _Release) -> None:
    """Write the order between neighbouring revisions; members that read the same sequences share the files."""
    folder = made.out / ORDER_FOLDER
    readers: dict[str, list[str]] = {}
    rows: dict[str, int] = {}
    for member, revisions in made.done.items():
        for name, spans in stretches(revisions).items():
            readers.setdefault(name, []).append(member)
            rows[name] = sum(len(span.positions) for span in spans)
            if not (folder / name).exists():
                export_order(_first_reader(made, spans), spans, made.prepared.train, folder / name)
            elif pq.read_metadata(folder / name).num_rows != rows[name]:
                raise ExportError(
                    f"the order file {folder / name} is another one", seen="its rows", fix="remove it and repeat"
                )
    for path in folder.glob("*.parquet"):
        if path.name not in readers:
            path.unlink()  # a revision has come between its two
    _write_if_new(folder / CARD_NAME, order_card(made.study.name, readers, rows, made.statement))
    made.outcome.order_files = len(readers)


def _first_reader(made: _Release, spans: Sequence[Span]) -> Plan:
    """Return the plan that an order file names: of the first member that runs its phases, released or not."""
    names = {span.phase.name for span in spans}
    plans = (made.plans[name] for name in _member_order(made.plans))
    return next(plan for plan in plans if names <= {phase.name for phase in plan.phases})


def _contents(made: _Release) -> dict[str, object]:
    """Return what `release.json` says: the digest of a revision's record stands for all its files."""
    members = {}
    for member, revisions in made.done.items():
        members[member] = {
            "repository": revisions[0].repository,
            "plan_digest": revisions[0].plan_digest,
            "revisions": {
                one.revision: {
                    "checkpoint": one.checkpoint,
                    "record_sha256": sha256_file(made.out / member / one.revision / REVISION_NAME),
                    "weights_sha256": one.files[WEIGHTS_NAME].sha256,
                }
                for one in revisions
            },
        }
    order = digest_files(made.out / ORDER_FOLDER)
    return {
        "format_version": FORMAT_VERSION,
        "study": made.study.name,
        "dtype": made.dtype,
        "owner": made.statement.owner,
        "license": made.statement.license,
        "members": members,
        "order": {name: digest.sha256 for name, digest in order.items()},
    }


def _as_text(value: object) -> str:
    """Return JSON with one key per line, and lists of numbers on one line."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    return _NUMBERS.sub(lambda found: f"[{re.sub(chr(92) + 's+', ' ', found[1])}]", text) + "\n"


def _write_if_new(path: Path, text: str) -> None:
    """Write a file unless it has this content, so that a repeated release leaves every file's time as it was."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
