"""A run's folder: its checkpoints listed, found and thinned by rule, and room for the next one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seqpair.checkpoint.manifest import (
    CheckpointManifest,
    checkpoint_folder,
    checkpoint_folders,
    read_checkpoint_manifest,
    verify_files,
)
from seqpair.data.order.ledger import Ledger
from seqpair.errors import CheckpointError, DiskFullError
from seqpair.files import TEMPORARY_PREFIX, fsync_folder
from seqpair.paths import LEDGER_FILE, SOUPS_FOLDER
from seqpair.recipe.plan import KeepRule, PhasePlan, Plan
from seqpair.text import format_bytes, note


@dataclass(frozen=True)
class CheckpointEntry:
    """One checkpoint whose manifest can be read."""

    path: Path
    manifest: CheckpointManifest

    @property
    def name(self) -> str:
        """Return its name, `step120`."""
        return self.manifest.name


@dataclass(frozen=True)
class Catalog:
    """A run's checkpoints, oldest first, and the faults of those whose manifest cannot be read."""

    entries: tuple[CheckpointEntry, ...]
    faults: tuple[CheckpointError, ...]


def scan(run_folder: Path) -> Catalog:
    """Read the manifests of a run's checkpoints; their files are not verified."""
    entries: list[CheckpointEntry] = []
    faults: list[CheckpointError] = []
    for path in checkpoint_folders(run_folder):
        try:
            entries.append(_entry(path))
        except CheckpointError as error:
            faults.append(error)
    return Catalog(tuple(sorted(entries, key=lambda entry: entry.manifest.total_steps)), tuple(faults))


def scan_soups(run_folder: Path) -> Catalog:
    """Read the manifests of a run's averages, `<run>/soups/*`, by name; their files are not verified."""
    entries: list[CheckpointEntry] = []
    faults: list[CheckpointError] = []
    folder = run_folder / SOUPS_FOLDER
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.is_dir() and not path.name.startswith(TEMPORARY_PREFIX) and ".aside-" not in path.name:
            try:
                entries.append(CheckpointEntry(path, read_checkpoint_manifest(path)))
            except CheckpointError as error:
                faults.append(error)
    return Catalog(tuple(entries), tuple(faults))


def list_checkpoints(run_folder: Path) -> list[CheckpointEntry]:
    """Return a run's checkpoints, oldest first; those whose manifest cannot be read are noted and left out."""
    catalog = scan(run_folder)
    for fault in catalog.faults:
        note(str(fault))
    return list(catalog.entries)


def find_checkpoint(run_folder: Path, name: str) -> CheckpointEntry:
    """Return the checkpoint of this name.

    Raises:
        CheckpointError: There is none, or its manifest cannot be read.
    """
    path = checkpoint_folder(run_folder, name)
    if not path.exists():
        names = ", ".join(entry.name for entry in scan(run_folder).entries)
        raise CheckpointError(
            f"the run {run_folder} has no checkpoint of this name", seen=name, allowed=names or "none was made yet"
        )
    return _entry(path)


def _entry(path: Path) -> CheckpointEntry:
    """Read one checkpoint's manifest; a soup that was put among the checkpoints is none."""
    manifest = read_checkpoint_manifest(path)
    if manifest.soup is not None:
        raise CheckpointError(
            f"a soup lies among the checkpoints: {path}",
            seen=f"an average of {len(manifest.soup.parts)} checkpoints",
            allowed="checkpoints made by training",
            fix=f"move it to {path.parent.parent / SOUPS_FOLDER}",
        )
    return CheckpointEntry(path, manifest)


def latest_valid(run_folder: Path) -> CheckpointEntry | None:
    """Return the newest checkpoint whose files are all as its manifest says, or `None`.

    Damaged ones are skipped with a note that says so, and stay where they are.
    """
    for entry in reversed(list_checkpoints(run_folder)):
        try:
            verify_files(entry.path, entry.manifest)
        except CheckpointError as error:
            note(f"skipped {entry.name}: {error}")
            continue
        return entry
    return None


def thin(run_folder: Path, rule: KeepRule, phases: Sequence[PhasePlan]) -> list[str]:
    """Remove the checkpoints that no rule keeps.

    Kept are the newest `last`, the first at or after every multiple of `every_tokens`, the last of each
    phase, those that other members start from (`names`), and always the newest. Without `last` all are
    kept. A damaged one does not count as one of the newest; one whose manifest cannot be read is left alone.

    Args:
        run_folder: The run; the caller holds its lock.
        rule: Which stay.
        phases: The plan's phases.

    Returns:
        The names of those that were removed.
    """
    removed = superfluous(list_checkpoints(run_folder), rule, phases)
    for entry in removed:
        _remove(entry.path)
    if removed:
        note(f"removed checkpoints that the keep rule does not name: {', '.join(entry.name for entry in removed)}")
    return [entry.name for entry in removed]


def superfluous(
    entries: Sequence[CheckpointEntry], rule: KeepRule, phases: Sequence[PhasePlan]
) -> list[CheckpointEntry]:
    """Return what `thin` would remove of these checkpoints, oldest first; nothing is removed."""
    if rule.last is None:
        return []
    kept = (
        _phase_ends(entries, phases) | _at_multiples(entries, rule.every_tokens) | _newest(entries, max(1, rule.last))
    )
    return [entry for entry in entries if entry.path not in kept and entry.name not in rule.names]


def missing_checkpoints(run_folder: Path, plan: Plan) -> tuple[list[str], list[str]]:
    """Return the planned checkpoints that a run has passed and that are not there, oldest first.

    The run has passed the last step that its ledger or one of its checkpoints shows.

    Returns:
        Those that no rule may remove (the last one of each phase, and those that other members start from), and all
        others, which may have been thinned.
    """
    recorded = sum(1 for _ in Ledger(run_folder / LEDGER_FILE).records())
    steps_done = max([recorded, *(entry.manifest.total_steps for entry in scan(run_folder).entries)])
    names = {path.name for path in checkpoint_folders(run_folder)}
    needed: list[str] = []
    others: list[str] = []
    steps_before = 0
    for phase in plan.phases:
        for step in phase.checkpoint_steps:
            name = f"{phase.tag}{step}"
            if steps_before + step <= steps_done and name not in names:
                (needed if step == phase.steps or name in plan.keep.names else others).append(name)
        steps_before += phase.steps
    return needed, others


def _phase_ends(entries: Sequence[CheckpointEntry], phases: Sequence[PhasePlan]) -> set[Path]:
    ends = {(phase.name, phase.steps) for phase in phases}
    return {entry.path for entry in entries if (entry.manifest.phase, entry.manifest.phase_step) in ends}


def _at_multiples(entries: Sequence[CheckpointEntry], every_tokens: int | None) -> set[Path]:
    """Return the first checkpoint in each [k * every_tokens, (k + 1) * every_tokens), k >= 1.

    It does not depend on what was removed before: the first of an interval is never removed.
    """
    first: dict[int, Path] = {}
    if every_tokens is not None:
        for entry in entries:
            first.setdefault(entry.manifest.content_tokens // every_tokens, entry.path)
    return {path for multiple, path in first.items() if multiple >= 1}


def _newest(entries: Sequence[CheckpointEntry], last: int) -> set[Path]:
    """Return the newest `last` whose files are whole, and every damaged one newer than those."""
    kept: set[Path] = set()
    whole = 0
    for entry in reversed(entries):
        try:
            verify_files(entry.path, entry.manifest, hashes=False)
            whole += 1
        except CheckpointError as error:
            note(str(error))
        kept.add(entry.path)
        if whole == last:
            break
    return kept


def _remove(path: Path) -> None:
    """Take a checkpoint away under a partial's name first, so that half of one never looks like one."""
    doomed = path.with_name(f"{TEMPORARY_PREFIX}removed-{path.name}")
    path.rename(doomed)
    fsync_folder(path.parent)
    shutil.rmtree(doomed)


def require_space(folder: Path, needed_bytes: int, purpose: str = "what has to be written") -> None:
    """Refuse if the disk of a folder, which need not exist yet, has less room than this.

    Raises:
        DiskFullError: With what is needed and what is free.
    """
    existing = next(path for path in [folder, *folder.resolve().parents] if path.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < needed_bytes:
        raise DiskFullError(
            f"the disk of {folder} cannot hold {purpose}",
            seen=f"{format_bytes(free_bytes)} free ({free_bytes} bytes)",
            allowed=f"at least {format_bytes(needed_bytes)} ({needed_bytes} bytes)",
            fix="free some space or set `runs` to another disk, then repeat the same command; nothing was lost",
        )


def require_room_for_two(run_folder: Path, checkpoint_bytes: int) -> None:
    """Refuse if the disk cannot hold two checkpoints of this run, those it already has counted in.

    Two, because the earlier one must stay until the next is whole: with none there yet, room for two
    must be free; with one or more there, room for one.

    Args:
        run_folder: The run; its checkpoints lie in `checkpoints/`.
        checkpoint_bytes: The size of one.

    Raises:
        DiskFullError: With what is needed and what is free.
    """
    held = bool(checkpoint_folders(run_folder))
    purpose = "one more checkpoint beside the earlier one" if held else "two checkpoints"
    require_space(run_folder, checkpoint_bytes * (1 if held else 2), purpose)
