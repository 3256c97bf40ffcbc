"""What a checkpoint says of itself, and whether its files are as it says.

A format may grow by optional fields, written only where they say something; whatever else changes in a manifest, the
plan inside it included, counts `FORMAT_VERSION` up. Format 2: a plan says what it starts from (`start`).
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seqpair.data.store.manifest import FileEntry
from seqpair.errors import CheckpointError
from seqpair.files import sha256_file
from seqpair.paths import CHECKPOINTS_FOLDER, PLAN_FILE, SOUPS_FOLDER
from seqpair.recipe.continuing import shared_steps
from seqpair.recipe.diff import plan_digest
from seqpair.recipe.plan import Plan

FORMAT_VERSION = 2
MANIFEST_NAME = "manifest.json"
_NAME = re.compile(r"^[a-z]+[0-9]+$")


class SoupPart(BaseModel):
    """One checkpoint of an average.

    Attributes:
        name: Its name, `step120`.
        total_steps: Steps done in all phases.
        content_tokens: Content tokens read, all phases together.
        weight: Its share of the average; the parts' weights sum to 1.
        model_sha256: SHA-256 of its `model.safetensors`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    total_steps: int
    content_tokens: int
    weight: float = Field(gt=0, le=1)
    model_sha256: str


class Soup(BaseModel):
    """How an average of checkpoints was made.

    Attributes:
        weighting: `uniform` or `exponential:<ratio>`, followed by ` (start: <weight>)` where the start is mixed in.
        parts: The checkpoints, oldest first; a start is the first and has its member's name, `decoder@step120`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weighting: str
    parts: tuple[SoupPart, ...] = Field(min_length=1)


class CheckpointFields(BaseModel):
    """What the trainer knows of a checkpoint.

    Attributes:
        study: The recipe's name.
        member: The member's name.
        phase: The phase that was under way or has just ended.
        tag: The phase's tag: `step`, `ext`, `decay` or `cross`.
        phase_step: Steps done in this phase.
        total_steps: Steps done in all phases of this member.
        content_tokens: Content tokens this member has read, all phases together.
        positions: For every phase begun, how many of its training positions were read: [0, n).
        plan: The whole plan.
        plan_digest: The digest of what in the plan changes what is learned.
        tokenizer_digest: The tokenizer's digest.
        store_digests: The training stores' digests by source.
        versions: What wrote it: seqpair, torch, python, ...
        soup: Null, or how this average was made; phase, steps, tokens and positions are then those of its
            newest part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    study: str
    member: str
    phase: str
    tag: str = Field(pattern=r"^[a-z]+$")
    phase_step: int = Field(ge=0)
    total_steps: int = Field(ge=0)
    content_tokens: int = Field(ge=0)
    positions: dict[str, int]
    plan: Plan
    plan_digest: str
    tokenizer_digest: str
    store_digests: dict[str, str]
    versions: dict[str, str]
    soup: Soup | None = None

    @property
    def checkpoint_name(self) -> str:
        """Return the name: the phase's tag and the step within the phase."""
        return f"{self.tag}{self.phase_step}"


class CheckpointManifest(CheckpointFields):
    """A checkpoint's manifest.

    Attributes:
        format_version: Version of the layout of files and fields.
        name: The folder's name, `step120`, or the name that a soup was given.
        files: Digest and size of every other file.
        created: When, in UTC, ISO 8601.
    """

    format_version: int
    name: str
    files: dict[str, FileEntry]
    created: str

    def as_json(self) -> dict[str, Any]:
        """Return the manifest as JSON; `soup` is there only for a soup."""
        return self.model_dump(mode="json", exclude={"soup"} if self.soup is None else None)


def checkpoint_folder(run_folder: Path, name: str) -> Path:
    """Return where a run keeps the checkpoint of this name."""
    return run_folder / CHECKPOINTS_FOLDER / name


def soup_folder(run_folder: Path, name: str) -> Path:
    """Return where a run keeps the average of this name; `latest_valid` does not look there."""
    return run_folder / SOUPS_FOLDER / name


def checkpoint_folders(run_folder: Path) -> list[Path]:
    """Return the folders of a run that have a checkpoint's name, unread; partial and set-aside ones have not."""
    folder = run_folder / CHECKPOINTS_FOLDER
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in found if _NAME.match(path.name) and path.is_dir()]


def read_checkpoint_manifest(checkpoint: Path) -> CheckpointManifest:
    """Read a checkpoint's manifest and compare it with its own digests, its folder and its run; no file is opened.

    Raises:
        CheckpointError: There is no checkpoint here, its manifest cannot be read or was edited, the folder has another
            name, or it lies in the run of another plan or member.
    """
    manifest = parse_checkpoint_manifest(checkpoint)
    _require_own_plan(checkpoint, manifest)
    _require_own_place(checkpoint, manifest)
    return manifest


def parse_checkpoint_manifest(checkpoint: Path) -> CheckpointManifest:
    """Read a checkpoint's manifest, wherever its folder lies and whatever it is called.

    Raises:
        CheckpointError: There is no checkpoint here, or its manifest cannot be read.
    """
    path = checkpoint / MANIFEST_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CheckpointError(
            "there is no checkpoint here" if not checkpoint.exists() else f"{checkpoint} is not a checkpoint",
            seen=checkpoint if not checkpoint.exists() else f"no {MANIFEST_NAME}",
            allowed="a folder in <runs>/<study>/<member>/checkpoints",
            fix="`seqpair checkpoints` lists what there is, and `seqpair train` makes checkpoints; check the name",
        ) from None
    except (UnicodeDecodeError, OSError) as error:
        raise damaged(checkpoint, path.name, seen=error, expected="a manifest") from error
    try:
        value = json.loads(text)
        version = value.get("format_version") if isinstance(value, dict) else None
    except (ValueError, RecursionError) as error:
        raise damaged(checkpoint, path.name, seen=f"no JSON: {error}", expected="a manifest") from error
    if isinstance(version, int) and version != FORMAT_VERSION:
        raise CheckpointError(
            f"the checkpoint {checkpoint} has a layout this version does not read",
            seen=f"format_version {version}",
            allowed=FORMAT_VERSION,
            fix="use the version of seqpair that wrote it, named in its manifest under versions",
        )
    try:
        return CheckpointManifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        seen = f"{where}: {first['msg']} ({error.error_count()} faults)"
        raise damaged(checkpoint, path.name, seen=seen, expected=f"a manifest of format {FORMAT_VERSION}") from error


def _require_own_plan(checkpoint: Path, manifest: CheckpointManifest) -> None:
    """Check that the plan inside is the one whose digest was recorded, and that the place is one of this plan."""
    digest = plan_digest(manifest.plan)
    if digest != manifest.plan_digest:
        raise damaged(
            checkpoint,
            MANIFEST_NAME,
            seen=f"a plan with the digest {digest[:16]}",
            expected=f"the plan with the digest {manifest.plan_digest[:16]}",
        )
    steps_before = 0
    for phase in manifest.plan.phases:
        if (phase.name, phase.tag) == (manifest.phase, manifest.tag):
            break
        steps_before += phase.steps
    else:
        seen = f"phase {manifest.phase} with the tag {manifest.tag}"
        raise damaged(checkpoint, MANIFEST_NAME, seen=seen, expected="a phase of its plan")
    if manifest.phase_step > phase.steps or manifest.total_steps != steps_before + manifest.phase_step:
        raise damaged(
            checkpoint,
            MANIFEST_NAME,
            seen=f"step {manifest.phase_step} of phase {phase.name}, {manifest.total_steps} steps in all",
            expected=f"{steps_before} steps before the phase, and at most {phase.steps} in it",
        )


def _require_own_place(checkpoint: Path, manifest: CheckpointManifest) -> None:
    """Check the folder's name, and the plan and the member of the run that the folder lies in."""
    # Not resolved: a run's folder of checkpoints may be a link to another disk.
    folder = Path(os.path.abspath(checkpoint))
    if manifest.name not in (folder.name, checkpoint.resolve().name):
        raise CheckpointError(
            f"the checkpoint in {checkpoint} has another name than its folder",
            seen=f"the folder {folder.name}",
            allowed=manifest.name,
            fix=f"rename the folder to {manifest.name}, unless there is one of this name already",
        )
    path = folder.parent.parent / PLAN_FILE
    if folder.parent.name not in (CHECKPOINTS_FOLDER, SOUPS_FOLDER) or not path.is_file():
        return
    try:
        plan = Plan.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CheckpointError(
            f"whether {checkpoint} belongs to its run cannot be checked: {path} cannot be read",
            seen=str(error).splitlines()[0],
            allowed="the plan.json that `seqpair train` wrote",
            fix="put back a good copy of plan.json",
        ) from error
    own, run = (manifest.member, manifest.plan_digest), (plan.member, plan_digest(plan))
    # A run that was continued with a larger budget has checkpoints that the shorter plan made.
    if own[0] != run[0] or not trains_alike(manifest, plan):
        raise CheckpointError(
            f"the checkpoint {checkpoint} does not belong to the run it lies in",
            seen=f"member {own[0]}, plan {own[1][:16]}",
            allowed=f"member {run[0]}, plan {run[1][:16]}, as in {path}",
            fix=f"move it back to the run of {manifest.study}/{manifest.member}, and put the run's own checkpoint here",
        )


def trains_alike(manifest: CheckpointManifest, plan: Plan) -> bool:
    """Return whether a plan trains what a checkpoint's own plan trained, up to the checkpoint's last step."""
    if manifest.plan_digest == plan_digest(plan):
        return True
    return shared_steps(manifest.plan, plan).steps >= manifest.total_steps > 0


def damaged(checkpoint: Path, file: str, *, seen: object, expected: object) -> CheckpointError:
    """Return the error for a damaged checkpoint: the file, what was seen, what was expected, what to do."""
    return CheckpointError(
        f"the checkpoint {checkpoint} is damaged: {file}",
        seen=seen,
        allowed=expected,
        fix=f"delete {checkpoint} (or put back a good copy); the run resumes from the checkpoint before it",
    )


MODEL_NAME = "model.safetensors"
OPTIMIZER_NAME = "optimizer.safetensors"
STATE_NAME = "state.json"


def file_names(manifest: CheckpointManifest) -> tuple[str, ...]:
    """Return the files that belong to a checkpoint, the manifest left out; a soup has the model alone."""
    return (MODEL_NAME, OPTIMIZER_NAME, STATE_NAME) if manifest.soup is None else (MODEL_NAME,)


def file_entry(path: Path) -> FileEntry:
    """Return what a manifest says of a file that has just been written."""
    return FileEntry(sha256=sha256_file(path), bytes=path.stat().st_size)


def size_bytes(manifest: CheckpointManifest) -> int:
    """Return how many bytes a checkpoint's files take, the manifest left out."""
    return sum(entry.bytes for entry in manifest.files.values())


def verify_files(
    path: Path, manifest: CheckpointManifest, wanted: tuple[str, ...] | None = None, *, hashes: bool = True
) -> None:
    """Hold a checkpoint's files against its manifest.

    Args:
        path: The checkpoint's folder.
        manifest: Its manifest.
        wanted: The files to look at; by default all that belong to it.
        hashes: Compare SHA-256 too, not only sizes.

    Raises:
        CheckpointError: A file is missing, or differs in size or digest.
    """
    for file in wanted or file_names(manifest):
        entry = manifest.files.get(file)
        if entry is None:
            raise damaged(path, MANIFEST_NAME, seen=f"no entry for {file}", expected="one for every file")
        try:
            seen_bytes = (path / file).stat().st_size
            if seen_bytes != entry.bytes:
                raise damaged(path, file, seen=f"{seen_bytes} bytes", expected=f"{entry.bytes} bytes")
            digest = sha256_file(path / file) if hashes else entry.sha256
        except OSError as error:
            raise damaged(path, file, seen=error, expected=f"{entry.bytes} readable bytes") from error
        if digest != entry.sha256:
            raise damaged(path, file, seen=f"SHA-256 {digest}", expected=f"SHA-256 {entry.sha256}")
