"""One process at a time uses a run's folder: a lock of the operating system, and signs of life for other machines."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from seqpair.errors import RunLockedError
from seqpair.text import note

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
    note(f"waiting {_SILENT_SECONDS:.0f} s to see whether the holder of the run is alive: {held.strip()}")
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
