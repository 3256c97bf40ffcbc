"""Whether a release is what its records say, and the records what the weights and the study say.

Three levels: *hashes* compares files, names and parents, and needs no file of weights from a Hub; *probe* computes the
loss of every revision again; *run* compares the weights with the run's checkpoints bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch

from seqpair.checkpoint.manifest import MODEL_NAME, checkpoint_folder
from seqpair.checkpoint.store import load_checkpoint
from seqpair.data.order.spans import Span, steps_of
from seqpair.errors import VerificationError
from seqpair.files import read_json, sha256_file
from seqpair.hub.config import CONFIG_NAME
from seqpair.hub.formats import DTYPES
from seqpair.hub.import_folder import ImportedModel, read_hub_folder
from seqpair.hub.revision import (
    CARD_NAME,
    MAIN,
    ORDER_FOLDER,
    RELEASE_NAME,
    REVISION_NAME,
    Listing,
    Revision,
    digest_files,
    parse_revision,
    tensors_digest,
)
from seqpair.hub.weights import WEIGHTS_NAME
from seqpair.paths import EXPORT_RECORD
from seqpair.recipe.diff import plan_digest
from seqpair.recipe.objectives import OBJECTIVES
from seqpair.suite.places import StudyPlace
from seqpair.suite.release import stretches
from seqpair.suite.release_card import SHOWN_DIGITS
from seqpair.suite.release_probe import LOSS_TOLERANCE, measure_probe, weights_distance
from seqpair.suite.verify import Verification

_DISTANCE_TOLERANCE = 1e-4  # relative
_AGAIN = "put back a good copy, or release the study again"
Records = dict[str, dict[str, Revision]]
"""The records that could be read, by member and revision."""


@dataclass(frozen=True)
class RevisionPlace:
    """A revision in a folder or on a Hub, and how to read it.

    Attributes:
        member: The member that it should be of; empty if only the record says.
        name: Its name.
        listing: Returns its files.
        read: Returns the content of one file.
        folder: Returns a folder with all files, which a Hub downloads.
    """

    member: str
    name: str
    listing: Callable[[], Listing]
    read: Callable[[str], bytes]
    folder: Callable[[], Path]


def folder_places(folder: Path) -> list[RevisionPlace]:
    """Return the revisions of a release's folder: all that lie there, listed or not."""
    members = [path for path in sorted(folder.iterdir()) if path.is_dir() and path.name != ORDER_FOLDER]
    return [
        folder_place(member.name, path.name, path)
        for member in members
        for path in sorted(member.iterdir())
        if path.is_dir()
    ]


def folder_place(member: str, name: str, folder: Path) -> RevisionPlace:
    """Return a revision in a folder."""
    return RevisionPlace(member, name, partial(digest_files, folder), partial(_read_inside, folder), lambda: folder)


def _read_inside(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


def verify_release(folder: Path, members: Sequence[str] = (), study: StudyPlace | None = None) -> Verification:
    """Check a release's folder: hashes and probe, and with the study the run's checkpoints, too.

    Args:
        folder: The release.
        members: Only these; all if empty.
        study: The study that it was made from, for the level *run*.

    Raises:
        VerificationError: It has no such member.
    """
    done = Verification()
    every = folder_places(folder)
    if absent := set(members) - {place.member for place in every}:
        raise VerificationError(
            f"the release {folder} has no such member",
            seen=", ".join(sorted(absent)),
            allowed=", ".join(sorted({place.member for place in every})),
        )
    places = [place for place in every if not members or place.member in members]
    records = check_revisions(done, places)
    done.check("", "release", RELEASE_NAME, partial(_check_contents, folder, records, members))
    _check_order(done, folder / ORDER_FOLDER, records)
    check_weights(done, places, records, study)
    return done


def check_revisions(done: Verification, places: Sequence[RevisionPlace]) -> Records:
    """Check the level *hashes* of some revisions: files, names, parents, equal weights and cards.

    Returns:
        The records that could be read, also of revisions with faults.
    """
    records: Records = {}
    for place in places:
        done.check(place.member, "hashes", place.name, partial(check_files, place, records))
    weights: dict[str, str] = {}
    for member, own in records.items():
        for name, record in _by_steps(own):
            done.check(member, "parent", name, partial(_check_parent, record, records))
            done.check(member, "weights", name, partial(_check_unequal, record, weights))
        done.check(member, "revisions", MAIN, partial(_check_names, own))
        main = next((p for p in places if p.name == MAIN and p.member in ("", member)), None)
        if main is not None and MAIN in own:
            done.check(member, "card", MAIN, partial(_check_card, main, own))
    return records


def _by_steps(own: Mapping[str, Revision]) -> list[tuple[str, Revision]]:
    return sorted(own.items(), key=lambda item: (item[1].total_steps, item[0] == MAIN))


def _fault(file: str, what: str, *, seen: object = None, allowed: object = None) -> VerificationError:
    return VerificationError(f"{file}: {what}", seen=seen, allowed=allowed)


def check_files(place: RevisionPlace, records: Records) -> str:
    """Check a revision's files with its record, and the record with its place and with its plan."""
    listing = place.listing()
    if REVISION_NAME not in listing:
        raise _fault(REVISION_NAME, "missing, so nothing says what this revision is")
    record = parse_revision(place.read(REVISION_NAME), REVISION_NAME)
    records.setdefault(place.member or record.member, {})[place.name] = record
    faults = record.faults_of(listing)
    if faults:
        raise VerificationError("; ".join(faults), fix="put back a good copy, or release the study again")
    phases = [phase.name for phase in record.plan.phases]
    if plan_digest(record.plan) != record.plan_digest or record.phase not in phases:
        raise _fault(REVISION_NAME, "its plan is not the one that its digest names")
    phase = record.plan.phase(record.phase)
    before = sum(one.steps for one in record.plan.phases[: phases.index(record.phase)])
    wanted = {
        "revision": place.name,
        "member": place.member or record.plan.member,
        "study": record.plan.study,
        "checkpoint": f"{phase.tag}{record.phase_step}",
        "total_steps": before + record.phase_step,
    }
    wrong = [name for name, value in wanted.items() if getattr(record, name) != value]
    if wrong or place.name not in (MAIN, record.checkpoint):
        names = wrong or ["revision"]
        raise _fault(
            REVISION_NAME,
            "it is the record of another revision",
            seen=", ".join(f"{name} {getattr(record, name)}" for name in names),
            allowed=", ".join(f"{name} {wanted[name]}" for name in names),
        )
    return f"{record.checkpoint}, {len(record.files)} files"


def _check_parent(record: Revision, records: Records) -> str:
    """Check that a revision's parent is the one before it, or what the member was started from."""
    own = [one for _, one in _by_steps(records[record.member])] if record.member in records else []
    before = [one for one in own if one.total_steps < record.total_steps]
    start, parent = record.plan.start, record.parent
    expected: Revision | None = before[-1] if before else None
    if not before and start is not None and start.member in records:
        released = [one for _, one in _by_steps(records[start.member])]
        named = [one for one in released if one.checkpoint == start.checkpoint]
        expected = next(iter(named if start.checkpoint else released[-1:]), None)
    if parent is not None and parent.member in records and parent.revision not in records[parent.member]:
        raise _fault(REVISION_NAME, f"its parent {parent.member}@{parent.revision} is missing")
    if parent is not None and parent.member not in records and parent.member == (start.member if start else None):
        return f"from {parent.member}@{parent.revision}, which is not in this place"
    seen = None if parent is None else (parent.member, parent.revision)
    wanted = None if expected is None else (expected.member, expected.revision)
    if seen != wanted:
        words = ["none" if one is None else "@".join(one) for one in (seen, wanted)]
        raise _fault(REVISION_NAME, "its parent is not the revision before it", seen=words[0], allowed=words[1])
    if parent is not None and expected is not None and parent.tensors != expected.tensors:
        raise _fault(
            REVISION_NAME,
            f"its parent {parent.member}@{parent.revision} has other weights now",
            seen=expected.tensors[:SHOWN_DIGITS],
            allowed=parent.tensors[:SHOWN_DIGITS],
        )
    return "from the initialisation" if parent is None else f"from {parent.member}@{parent.revision}"


def _check_unequal(record: Revision, weights: dict[str, str]) -> str:
    """Check that no earlier revision has the same weights, by their bytes and by the whole file."""
    name = f"{record.member}@{record.revision}"
    for digest in (record.tensors, str(record.files[WEIGHTS_NAME].sha256)):
        other = weights.setdefault(digest, name)
        if other != name:
            raise _fault(WEIGHTS_NAME, f"the same weights as {other}", seen=digest[:SHOWN_DIGITS])
    return record.tensors[:SHOWN_DIGITS]


def _check_names(own: Mapping[str, Revision]) -> str:
    """Check that `main` is the last revision, and that the revisions that the plan needs are there."""
    if MAIN not in own:
        raise VerificationError(
            f"the revision {MAIN} is missing",
            seen=", ".join(own),
            fix="put back a good copy, or release the study again",
        )
    main, last = own[MAIN], _by_steps(own)[-1][1]
    if last.total_steps > main.total_steps:
        raise _fault(
            REVISION_NAME,
            f"{MAIN} is not the last revision",
            seen=main.checkpoint,
            allowed=f"{last.checkpoint} or later",
        )
    steps, there = 0, {one.checkpoint for one in own.values()}
    for phase in main.plan.phases:
        steps += phase.steps
        needed = {f"{phase.tag}{phase.steps}"} if steps <= main.total_steps else set()
        if missing := sorted(needed - there):
            raise VerificationError(
                f"the plan's revisions are not complete: {', '.join(missing)} is missing",
                fix="put back a good copy, or release the study again",
            )
    unlike = [name for name, one in own.items() if one.probe.sequences != main.probe.sequences]
    if unlike:
        raise _fault(REVISION_NAME, f"the probe of {', '.join(unlike)} is not that of {MAIN}")
    return f"{len(own)} revisions"


def _check_card(main: RevisionPlace, own: Mapping[str, Revision]) -> str:
    """Check that the table of revisions in a member's card has these revisions and no others."""
    card = main.read(CARD_NAME).decode("utf-8")
    missing = [
        one.revision
        for one in own.values()
        if f"| `{one.revision}` | `{one.checkpoint}` |" not in card or f"`{one.tensors[:SHOWN_DIGITS]}`" not in card
    ]
    rows = sum(1 for line in card.splitlines() if line.startswith("| `") and line.count("|") == 7)
    if missing or rows != len(own):
        raise _fault(CARD_NAME, "a stale card", seen=f"{rows} revisions, without {', '.join(missing) or 'none'}")
    return f"{rows} revisions in the table"


def _check_contents(folder: Path, records: Records, members: Sequence[str]) -> str:
    """Check `release.json` with the revisions that are there, their records, and the files of the order."""
    contents = read_json(folder / RELEASE_NAME, VerificationError, _AGAIN, {"members": dict})
    listed = {
        member: value["revisions"] for member, value in contents["members"].items() if not members or member in members
    }
    faults = []
    for member in sorted({*listed, *records}):
        named, there = listed.get(member, {}), records.get(member, {})
        faults += [f"{member}@{name} is missing" for name in named if name not in there]
        faults += [f"{member}@{name} is not in {RELEASE_NAME}" for name in there if name not in named]
        for name in (name for name in named if name in there):
            seen = {
                "record_sha256": sha256_file(folder / member / name / REVISION_NAME),
                "weights_sha256": there[name].files[WEIGHTS_NAME].sha256,
                "checkpoint": there[name].checkpoint,
            }
            faults += [f"{member}@{name}: another {key}" for key, value in seen.items() if named[name][key] != value]
    order = {name: digest.sha256 for name, digest in digest_files(folder / ORDER_FOLDER).items()}
    for name in sorted({*contents["order"], *order}):
        if order.get(name) != contents["order"].get(name):
            faults.append(f"{ORDER_FOLDER}/{name}: {'missing' if name not in order else 'another file'}")
    if faults:
        raise VerificationError("; ".join(faults), fix="put back a good copy, or release the study again")
    return f"{sum(map(len, listed.values()))} revisions, {len(order)} files of the order"


def _check_order(done: Verification, folder: Path, records: Records) -> None:
    """Check that each file of the order has the steps between its two revisions."""
    wanted: dict[str, list[Span]] = {}
    for own in records.values():
        wanted |= stretches([one for _, one in _by_steps(own)])
    for name, spans in wanted.items():
        done.check("", "order", name, partial(_check_stretch, folder / name, spans))


def _check_stretch(path: Path, spans: Sequence[Span]) -> str:
    if not path.is_file():
        raise _fault(path.name, "missing")
    table = pq.read_table(path, columns=["phase", "step", "position"])
    phases: list[str] = []
    steps, positions = [], []
    for span in spans:
        own = np.arange(span.positions.start, span.positions.stop, dtype=np.int64)
        phases += [span.phase.name] * len(own)
        positions.append(own)
        steps.append(steps_of(span.phase, own))
    same = (
        table["phase"].to_pylist() == phases
        and np.array_equal(table["position"].to_numpy(), np.concatenate(positions))
        and np.array_equal(table["step"].to_numpy(), np.concatenate(steps))
    )
    if not same:
        raise _fault(path.name, "the order of another stretch", seen=f"{table.num_rows} rows", allowed=len(phases))
    return f"{len(phases)} sequences"


def check_weights(
    done: Verification, places: Iterable[RevisionPlace], records: Records, study: StudyPlace | None
) -> None:
    """Check the level *probe* of all revisions whose record could be read, and with a study the level *run*."""
    by_name = {(place.member, place.name): place for place in places}
    last: dict[tuple[str, str], ImportedModel] = {}  # what was read last is mostly the next one's parent
    for member, own in records.items():
        for name, record in _by_steps(own):
            place = by_name.get((member, name)) or by_name[("", name)]
            done.check(member, "probe", name, partial(_check_probe, place, record, by_name, last))
            if study is not None:
                done.check(member, "run", name, partial(_check_run, place, record, study))


def _check_probe(
    place: RevisionPlace,
    record: Revision,
    places: Mapping[tuple[str, str], RevisionPlace],
    last: dict[tuple[str, str], ImportedModel],
) -> str:
    """Compute a revision's loss again, and compare what its files say of the model with the plan."""
    folder = place.folder()
    seen = tensors_digest(folder / WEIGHTS_NAME)
    if seen != record.tensors:
        raise _fault(WEIGHTS_NAME, "other weights than the record's", seen=seen[:16], allowed=record.tensors[:16])
    result, read = measure_probe(folder, record.probe.sequences)
    _require_model(folder, read, record)
    if abs(result.loss - record.probe.loss) > LOSS_TOLERANCE or result.predicted != record.probe.predicted:
        raise _fault(
            WEIGHTS_NAME,
            "the loss on the probe is another one: these are other weights, or the record was edited",
            seen=f"{result.loss:.6f} of {result.predicted} tokens",
            allowed=f"{record.probe.loss:.6f} of {record.probe.predicted} tokens, within {LOSS_TOLERANCE:g}",
        )
    key = None if record.parent is None else (record.parent.member, record.parent.revision)
    if key is not None and (key in last or key in places):
        parent = last[key] if key in last else read_hub_folder(places[key].folder())
        distance, stated = weights_distance(read.model, parent.model), record.distance
        if stated is None or abs(distance - stated) > _DISTANCE_TOLERANCE * max(distance, 1e-6):
            raise _fault(REVISION_NAME, "the distance to its parent is another one", seen=distance, allowed=stated)
    last.clear()
    last[(record.member, record.revision)] = read
    return f"loss {result.loss:.4f} of {result.predicted:,} tokens"


def _require_model(folder: Path, read: ImportedModel, record: Revision) -> None:
    """Check that a folder's configuration and tokenizer are those of the plan."""
    phase, objective = record.plan.phase(record.phase), OBJECTIVES[record.objective]
    config, export = (read_json(folder / name, VerificationError, _AGAIN) for name in (CONFIG_NAME, EXPORT_RECORD))
    specials = read.tokenizer.specials
    roles = {"bos": specials.cls, "cls": specials.cls, "eos": specials.sep, "sep": specials.sep, "pad": specials.pad}
    names = ("shape", "vocab_size", "window_tokens", "global_every", "norm_eps")
    pairs: dict[str, tuple[object, object]] = {
        **{name: (getattr(read.model_plan, name), getattr(record.plan.model, name)) for name in names},
        "global RoPE base": (read.rope.global_theta, phase.rope_global_theta),
        "local RoPE base": (read.rope.local_theta, phase.rope_local_theta),
        "longest row": (read.seq_len, phase.seq_len),
        "direction": (read.direction, objective.direction),
        "predicts": (read.predicts, objective.predicts),
        "tokenizer": (read.tokenizer.digest, export.get("tokenizer_digest")),
        **{f"{role}_token_id": (config.get(f"{role}_token_id"), value) for role, value in roles.items()},
    }
    wrong = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    if wrong:
        raise _fault(
            "tokenizer.json" if "tokenizer" in wrong else CONFIG_NAME,
            "the files do not describe the model of the plan",
            seen=", ".join(f"{name} {seen}" for name, (seen, _) in wrong.items()),
            allowed=", ".join(f"{name} {allowed}" for name, (_, allowed) in wrong.items()),
        )


def _check_run(place: RevisionPlace, record: Revision, study: StudyPlace) -> str:
    """Compare a revision's weights with its checkpoint bit for bit, in the type of the release."""
    folder = checkpoint_folder(study.run(record.member).path, record.checkpoint)
    if not folder.is_dir():
        return f"the run has no checkpoint {record.checkpoint} any more"
    loaded = load_checkpoint(folder, model_only=True)
    manifest = loaded.manifest
    wanted = {
        "plan_digest": manifest.plan_digest,
        "content_tokens": manifest.content_tokens,
        "checkpoint_sha256": manifest.files[MODEL_NAME].sha256,
    }
    wrong = [name for name, value in wanted.items() if getattr(record, name) != value]
    if wrong:
        raise _fault(REVISION_NAME, f"the run's checkpoint {manifest.name} has another {', '.join(wrong)}")
    read = read_hub_folder(place.folder()).model
    kind = DTYPES[record.dtype]
    unlike = [name for name, values in loaded.model.items() if not torch.equal(values.to(kind).float(), read[name])]
    if unlike:
        raise _fault(
            WEIGHTS_NAME,
            f"not the weights of the run's checkpoint {manifest.name}",
            seen=f"{len(unlike)} of {len(read)} parameters differ, such as {unlike[0]}",
        )
    return f"bit for bit the checkpoint {manifest.name}"
