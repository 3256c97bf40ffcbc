"""What `verify` is given that is no study: a release, a revision, an export, a checkpoint, or a published member."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from seqpair.checkpoint.manifest import MANIFEST_NAME, MODEL_NAME, read_checkpoint_manifest, verify_files
from seqpair.hub.export import read_export_record
from seqpair.hub.import_folder import read_hub_folder
from seqpair.hub.native import NativeModel
from seqpair.hub.revision import RELEASE_NAME, REVISION_NAME, read_revision
from seqpair.models.integrity import require_recorded
from seqpair.paths import EXPORT_RECORD
from seqpair.suite.places import StudyPlace
from seqpair.suite.verify import Verification
from seqpair.suite.verify_release import Records, check_files, check_weights, folder_place, verify_release


def verify_place(folder: Path, members: Sequence[str] = (), study: StudyPlace | None = None) -> Verification | None:
    """Check a release, one of its revisions, an export or a checkpoint; return None for any other place.

    Args:
        folder: The place.
        members: Of a release, only these; all if empty.
        study: For a release or a revision, the study that it was made from.
    """
    if (folder / RELEASE_NAME).is_file():
        return verify_release(folder, members, study)
    done = Verification()
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
