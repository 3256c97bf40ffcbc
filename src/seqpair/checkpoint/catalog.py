"""A run's folder: its checkpoints listed, found and thinned by rule, room for the next one, one process at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
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
from seqpair.errors import CheckpointError, DiskFullError, RunLockedError
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


LOCK_NAME = ".lock"
_SIGN = ", sign of life "
_RENEWED_SECONDS = 10.0
_SILENT_SECONDS = 30.0
"""The holder of a run shows that it lives; one on another machine that has not done so for this long counts as dead."""


@contextlib.contextmanager
def lock_run(run_folder: Path) -> Iterator[Lease]:
    """Hold a run's folder for the length of the block; the folder is made if it is not there.

    The lock is the operating system's: it ends with the process, however that ends. Processes forked from the holder
    hold it too. Since a shared disk may keep locks to one machine, the lock file also names its holder, who renews
    it; what a dead process has left there locks nothing, but makes another machine wait until it is known to be dead.

    Yields:
        The holder's lease.

    Raises:
        RunLockedError: Another process holds it, or the file system has no locks.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    path = run_folder / LOCK_NAME
    try:
        # A link would let the lock overwrite any file that it points to.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR):
            raise
        raise RunLockedError(
            f"the lock of the run {run_folder} is not a file", seen=error, fix=f"remove {path}"
        ) from error
    try:
        _take(descriptor, run_folder)
        _wait_for_silence(path)
        lease = Lease(path, descriptor)
        try:
            yield lease
        finally:
            lease.end()
    finally:
        os.close(descriptor)


class Lease:
    """A holder's name in a run's lock file, renewed by a thread.

    Args:
        path: The lock file.
        descriptor: It, open and locked.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor
        self._holder = f"pid {os.getpid()} on {socket.gethostname()}"
        self._taken_by: str | None = None
        self._ended = threading.Event()
        self._say(0)
        self._thread = threading.Thread(target=self._renew, name="seqpair-lease", daemon=True)
        self._thread.start()

    def require(self) -> None:
        """Refuse to go on if another process has taken the run, because this one was suspended or cut off for long.

        Raises:
            RunLockedError: It has.
        """
        if self._taken_by is not None:
            raise _in_use(self._path.parent, self._taken_by)

    def end(self) -> None:
        """Let others know at once that the run is free."""
        self._ended.set()
        self._thread.join()
        if self._taken_by is None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, 0)

    def _renew(self) -> None:
        number = 0
        while not self._ended.wait(_RENEWED_SECONDS):
            number += 1
            with contextlib.suppress(OSError):  # a network disk may be away for a while
                found = _said_in(self._path)
                if found != self._said:
                    self._taken_by = found
                    return
                self._say(number)

    def _say(self, number: int) -> None:
        said = f"{self._holder}{_SIGN}{number}\n"
        os.pwrite(self._descriptor, said.encode(), 0)
        os.ftruncate(self._descriptor, len(said.encode()))
        os.fsync(self._descriptor)
        self._said = said


def _wait_for_silence(path: Path) -> None:
    """Wait until the holder that a lock file names is dead or has ended, if no lock of its machine may show it here.

    Raises:
        RunLockedError: It is alive.
    """
    held = _said_in(path)
    if _SIGN not in held or f" on {socket.gethostname()}{_SIGN}" in held:
        return
    note(f"waiting {_SILENT_SECONDS:.0f} s, since the run was not left in order by {held.strip()}")
    end = time.monotonic() + _SILENT_SECONDS
    # No clocks of two machines are compared.
    while (now := _said_in(path)) == held and time.monotonic() < end:
        time.sleep(_RENEWED_SECONDS / 10)
    if now not in ("", held):
        raise _in_use(path.parent, f"{now.strip()}, less than {_RENEWED_SECONDS / 5:.0f} seconds ago")


def _said_in(path: Path) -> str:
    return path.read_text("utf-8", "replace")  # opened each time, so that a network disk asks its server


def _in_use(run_folder: Path, holder: str) -> RunLockedError:
    return RunLockedError(
        f"the run {run_folder} is in use by another process",
        seen=holder.strip() or "a process that has not yet said who it is",
        fix="wait for it or stop it; the lock ends with the process, no file has to be removed",
    )


def _take(descriptor: int, run_folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace")
            raise _in_use(run_folder, holder) from error
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise RunLockedError(
                f"the file system of {run_folder} has no locks", seen=error, fix="set `runs` to a local disk"
            ) from error
        raise
