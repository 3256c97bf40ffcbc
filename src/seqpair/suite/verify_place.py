"""What `verify` is given that is no study: a release, a revision, an export, a checkpoint, or a published member."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from seqpair.checkpoint.manifest import MANIFEST_NAME, MODEL_NAME, read_checkpoint_manifest, verify_files
from seqpair.errors import VerificationError
from seqpair.hub.export import read_export_record
from seqpair.hub.import_folder import read_hub_folder
from seqpair.hub.native import NativeModel
from seqpair.hub.publish import HubAccess
from seqpair.hub.revision import CARD_NAME, MAIN, RELEASE_NAME, REVISION_NAME, Listing, read_revision
from seqpair.models.integrity import require_recorded
from seqpair.paths import EXPORT_RECORD
from seqpair.recipe.load import find_recipe
from seqpair.suite.places import RUNS_FOLDER, StudyPlace
from seqpair.suite.verify import Verification
from seqpair.suite.verify_release import (
    Records,
    RevisionPlace,
    check_files,
    check_revisions,
    check_weights,
    folder_place,
    verify_release,
)

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_REQUESTS_AT_ONCE = 8


def verify_place(folder: Path, members: Sequence[str] = (), study: StudyPlace | None = None) -> Verification | None:
    """Check a release, one of its revisions, an export or a checkpoint; return None for any other place.

    Args:
        folder: The place.
        members: Of a release, only these; all if empty.
        study: For a release or a revision, the study that it was made from.

    Raises:
        VerificationError: A study or members are given with what is neither, and would be of no effect.
    """
    if (folder / RELEASE_NAME).is_file():
        return verify_release(folder, members, study)
    done = Verification()
    is_other = any((folder / name).is_file() for name in (REVISION_NAME, EXPORT_RECORD, MANIFEST_NAME))
    if is_other and (members or (study is not None and not (folder / REVISION_NAME).is_file())):
        raise VerificationError(
            "--study and --member belong to a release",
            seen=folder,
            fix="leave them out, or name the release or the study",
        )
    if (folder / REVISION_NAME).is_file():
        name = read_revision(folder).revision
        place = folder_place("", name, folder)
        records: Records = {}
        done.check("", "hashes", name, partial(check_files, place, records))
        check_weights(done, [place], records, study)
    elif (folder / EXPORT_RECORD).is_file():
        done.check("", "export", folder.name, partial(_check_export, folder))
    elif (folder / MANIFEST_NAME).is_file() and (folder / MODEL_NAME).is_file():
        done.check("", "checkpoint", folder.name, partial(_check_checkpoint, folder))
    else:
        return None
    return done


def _check_export(folder: Path) -> str:
    proven = require_recorded(folder, read_export_record(folder))
    read = read_hub_folder(folder)
    NativeModel(read.model_plan, read.model, read.direction, read.rope)
    return f"{read.hub_class}, {'every file' if proven else 'the weights'} as exported"


def _check_checkpoint(folder: Path) -> str:
    manifest = read_checkpoint_manifest(folder)
    verify_files(folder, manifest)
    return f"{manifest.member}, {manifest.content_tokens:,} content tokens"


def is_hub_name(place: str) -> bool:
    """Return whether a word can only be `OWNER/NAME` on a Hub: there is no such file, folder or study."""
    here = (Path(place), RUNS_FOLDER / place)
    return bool(_HUB_NAME.fullmatch(place)) and not any(path.exists() for path in here) and find_recipe(place) is None


def verify_published(
    repository: str, *, deep: bool = False, study: StudyPlace | None = None, access: HubAccess | None = None
) -> Verification:
    """Check a published member: the Hub's listings and the small files, and with `deep` the weights.

    Args:
        repository: `OWNER/NAME`.
        deep: Download all revisions, and compute their losses again.
        study: The study that it was made from, to compare weights bit for bit; it needs `deep`.
        access: The Hub.

    Raises:
        PublishError: The Hub refuses or does not answer.
    """
    hub, done = access or HubAccess(), Verification()
    names = hub.revisions(repository)

    def fetch(name: str) -> tuple[Listing, dict[str, bytes]]:
        listing = hub.listing(repository, name)
        wanted = [file for file in (REVISION_NAME, *([CARD_NAME] if name == MAIN else [])) if file in listing]
        return listing, {file: hub.read(repository, name, file) for file in wanted}

    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        fetched = dict(zip(names, pool.map(fetch, names), strict=True))
    places = [
        RevisionPlace("", name, partial(fetched[name].__getitem__, 0), fetched[name][1].__getitem__,
                      partial(hub.download, repository, name))
        for name in names
    ]  # fmt: skip
    records = check_revisions(done, places)
    for member, own in records.items():
        done.check(
            member,
            "repository",
            repository,
            partial(_check_repository, repository, {r.repository for r in own.values()}),
        )
    if deep:
        check_weights(done, places, records, study)
    return done


def _check_repository(repository: str, seen: set[str]) -> str:
    if seen != {repository.split("/")[1]}:
        raise VerificationError(
            "the revisions belong to another repository",
            seen=", ".join(sorted(seen)),
            allowed=repository,
        )
    return f"all revisions are of {repository}"
