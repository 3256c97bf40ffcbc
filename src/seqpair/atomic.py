"""Writing files so that a reader sees the old content or the new one, never a part.

Owns the temporary name, fsync and rename, and turns a full disk into `DiskFullError`. Must not know
what is written. Entry points: `write_bytes`, `write_text`, `write_json`, `replacing_file`, `replacing_folder`,
`disk_full`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from seqpair.errors import DiskFullError

TEMPORARY_PREFIX = ".partial-"


@contextlib.contextmanager
def disk_full(target: Path) -> Iterator[None]:
    """Turn ENOSPC and EDQUOT inside the block into a `DiskFullError` that names the target."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFullError(
            f"the disk is full while writing {target}",
            seen=error,
            fix="free some space and repeat the same command; what was saved before is untouched",
        ) from error


def fsync_folder(folder: Path) -> None:
    """Make the names inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def replacing_file(final: Path) -> Iterator[Path]:
    """Yield a temporary path that takes the place of `final` if the block ends well, else disappears.

    Raises:
        DiskFullError: The disk is full; the earlier file, if any, is untouched.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:8]}-{final.name}")
    try:
        with disk_full(final):
            yield temporary
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_folder(final.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        DiskFullError: The disk is full; the earlier file, if any, is untouched.
    """
    with replacing_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: object) -> None:
    """Write a JSON file whole or not at all; keys keep their order, NaN is refused."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


@contextlib.contextmanager
def replacing_folder(final: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `final` if the block ends well, else disappears.

    `final` must not exist yet. The files inside are fsynced before the rename.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f"{TEMPORARY_PREFIX}{uuid.uuid4().hex[:8]}-{final.name}")
    try:
        with disk_full(final):
            temporary.mkdir()
            yield temporary
            for path in sorted(temporary.rglob("*")):
                if path.is_file():
                    with path.open("rb") as handle:
                        os.fsync(handle.fileno())
            fsync_folder(temporary)
            temporary.rename(final)
            fsync_folder(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
