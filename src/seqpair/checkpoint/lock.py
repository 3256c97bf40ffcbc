"""One process at a time in a run's folder.

The lock is the operating system's: it ends with the process, however that ends, so a lock file that is lying there
locks nothing. Processes forked from the holder hold it too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from seqpair.errors import RunLockedError

LOCK_NAME = ".lock"


@contextlib.contextmanager
def lock_run(run_folder: Path) -> Iterator[None]:
    """Hold a run's folder for the length of the block; the folder is made if it is not there.

    Raises:
        RunLockedError: Another process holds it, or the file system has no locks.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(run_folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(descriptor, run_folder)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, run_folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
            raise RunLockedError(
                f"the run {run_folder} is in use by another process",
                seen=holder or "a process that has not yet said who it is",
                fix="wait for it or stop it; the lock ends with the process, no file has to be removed",
            ) from error
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
            raise RunLockedError(
                f"the file system of {run_folder} has no locks", seen=error, fix="set `runs` to a local disk"
            ) from error
        raise
