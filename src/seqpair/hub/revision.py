"""What a released revision says of itself, and whether its files are the ones it names.

The record names every other file by SHA-256, which a Hub keeps of large files, and by git's own digest, which it keeps
of the small ones: the listing of a revision on the Hub is compared without a download.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seqpair.errors import VerificationError
from seqpair.files import file_digest
from seqpair.hub.formats import Dtype
from seqpair.recipe.plan import Plan

REVISION_NAME = "seqpair_revision.json"
RELEASE_NAME = "release.json"
ORDER_FOLDER = "order"
OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""The name of a user or an organisation of the Hub."""
MAIN = "main"
"""The revision that everyone loads who names none: a member's last checkpoint."""
CARD_NAME = "README.md"
GIT_ATTRIBUTES = ".gitattributes"
"""The Hub writes it into every repository, and no upload deletes it."""
_HEADER_BYTES = 8  # of a safetensors file: the length of its JSON header


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileDigest(_Frozen):
    """A file's size and digests; a listing knows one of the two digests.

    Attributes:
        bytes: Its size.
        sha256: SHA-256 of its content.
        git: SHA-1 of git's blob, by which git names the content.
    """

    bytes: int
    sha256: str | None = None
    git: str | None = None

    def fault_of(self, seen: FileDigest | None) -> str:
        """Return how a file that was seen differs from this one; empty if it does not."""
        if seen is None:
            return "missing"
        if seen.bytes != self.bytes:
            return f"{seen.bytes} bytes instead of {self.bytes}"
        for kind in ("sha256", "git"):
            ours, theirs = getattr(self, kind), getattr(seen, kind)
            if ours is not None and theirs is not None:
                return "" if ours == theirs else f"{kind} {theirs[:16]} instead of {ours[:16]}"
        return "no digest to compare"


Listing = Mapping[str, FileDigest]


class Parent(_Frozen):
    """The revision that a revision was trained on from, and the digest of its tensors."""

    member: str
    revision: str
    tensors: str


class ProbeSequence(_Frozen):
    """One held-out sequence of the probe: its id, its content tokens, and the places that are masked for an encoder."""

    id: str
    ids: tuple[int, ...]
    masked: tuple[int, ...]


class ProbeResult(_Frozen):
    """The loss on the probe, in nats a predicted token, and the probe itself, so that anybody can compute it again."""

    loss: float
    predicted: int
    sequences: tuple[ProbeSequence, ...]


class Revision(_Frozen):
    """The record of a revision, `seqpair_revision.json`.

    Attributes:
        format_version: Version of these fields.
        study, member: Whose it is.
        revision: Its name: the checkpoint's, or `main` for the last one.
        checkpoint: The checkpoint's name.
        checkpoint_sha256: SHA-256 of the checkpoint's model file.
        phase: The phase that the checkpoint lies in.
        phase_step, total_steps: Steps done in the phase, and in all phases of the member.
        content_tokens: Content tokens that the member has read.
        objective: The objective that the files are exported for.
        dtype: The type of the weights.
        plan_digest: The plan's digest.
        plan: The plan, without the paths of the machine that trained it.
        parent: What it was trained on from; null where that is the initialisation or is not released.
        distance: The L2 norm of the difference between its weights and its parent's; null without a parent.
        tensors: SHA-256 of the weights' bytes without the file's header, which names the checkpoint.
        probe: The loss on the study's probe.
        files: Every other file.
    """

    format_version: int = 1
    study: str
    member: str
    revision: str
    checkpoint: str
    checkpoint_sha256: str
    phase: str
    phase_step: int
    total_steps: int
    content_tokens: int
    objective: str
    dtype: Dtype
    plan_digest: str
    parent: Parent | None
    distance: float | None
    tensors: str
    probe: ProbeResult
    files: dict[str, FileDigest] = Field(min_length=1)
    plan: Plan

    @property
    def repository(self) -> str:
        """Return the name of the repository that the member is published in, without its owner."""
        return repository_name(self.study, self.member)

    def faults_of(self, listing: Listing) -> list[str]:
        """Return what is wrong with a listing of the revision's files, each with the file's name."""
        seen, wanted = (
            {name: one for name, one in files.items() if name not in (REVISION_NAME, GIT_ATTRIBUTES)}
            for files in (listing, self.files)
        )
        return listing_faults(seen, wanted, "the record")


def listing_faults(seen: Listing, wanted: Listing, where: str) -> list[str]:
    """Return how the files that were seen differ from those that should be there, which `where` has, each by name."""
    return [
        f"{name}: {fault}"
        for name in sorted({*seen, *wanted})
        if (fault := wanted[name].fault_of(seen.get(name)) if name in wanted else f"not in {where}")
    ]


def repository_name(study: str, member: str) -> str:
    """Return the name of the repository that a member is published in, without its owner."""
    return f"{study}-{member}"


def public_plan(plan: Plan) -> Plan:
    """Return a plan without what it says of the machine: folders, and where each value came from; its digest stays."""
    sources = [
        source.model_copy(update={"paths": tuple(path if "://" in path else Path(path).name for path in source.paths)})
        for source in plan.sources
    ]
    tokenizer = plan.tokenizer
    if tokenizer.path is not None:
        tokenizer = tokenizer.model_copy(update={"path": Path(tokenizer.path).name})
    changed = {"runs": "", "store_folder": "", "origins": {}, "sources": tuple(sources), "tokenizer": tokenizer}
    return plan.model_copy(update=changed)


def digest_files(folder: Path, *, git: bool = False) -> dict[str, FileDigest]:
    """Return the digests of all files below a folder, by their paths in it.

    Args:
        folder: The folder.
        git: Compute git's digests, too; they are needed to compare with a Hub.
    """
    return {
        path.relative_to(folder).as_posix(): digest_file(path, git=git)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def digest_file(path: Path, *, git: bool = False) -> FileDigest:
    """Return a file's size and digests; see `digest_files`."""
    return FileDigest(bytes=path.stat().st_size, sha256=file_digest(path), git=_git_of(path) if git else None)


def _git_of(path: Path) -> str:
    begun = partial(hashlib.sha1, b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, begun).hexdigest()


def tensors_digest(path: Path) -> str:
    """Return the SHA-256 of a safetensors file without its header: equal weights have it whatever they are called."""
    with path.open("rb") as handle:
        handle.seek(_HEADER_BYTES + int.from_bytes(handle.read(_HEADER_BYTES), "little"))
        return hashlib.file_digest(handle, "sha256").hexdigest()


def parse_revision(text: str | bytes, place: str) -> Revision:
    """Return the record in a text.

    Args:
        text: The JSON.
        place: Where it was read, for the error.

    Raises:
        VerificationError: It is not a record.
    """
    try:
        return Revision.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise VerificationError(
            f"{place} is not the record of a revision",
            seen=f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            allowed="the file that `seqpair release` wrote",
        ) from error


def read_revision(folder: Path) -> Revision:
    """Return the record of a revision's folder.

    Raises:
        VerificationError: There is none, or it cannot be read.
    """
    path = folder / REVISION_NAME
    if not path.is_file():
        raise VerificationError(
            f"{folder} is not a revision of a release",
            seen=f"no {REVISION_NAME}",
            fix="name a folder of a release: `OUT/MEMBER/REVISION`",
        )
    return parse_revision(path.read_bytes(), str(path))
