"""Files that are never seen half written, and the digests that say what is in them.

A file or a folder is replaced as a whole: a reader sees the old content or the new one. JSON Lines files grow
during a run instead; a torn last line, left by a killed process, is left out on reading.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol, TextIO

from seqpair.errors import DamagedLinesError, DiskFullError, RunLockedError, SeqpairError


class Openable(Protocol):
    """What can be opened for reading bytes, as a `Path` can."""

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """Open it."""


def sha256_file(path: Path | Openable, chunk_bytes: int = 1 << 20) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    state = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(chunk_bytes):
            state.update(chunk)
    return state.hexdigest()


def cache_folder() -> Path:
    """Return the user's cache folder of seqpair, which need not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seqpair"


CACHED_BYTES = 8 << 20
"""Smaller files are read each time: that takes less time than a mistake would cost."""
_DIGEST_CACHE = "file_digests.json"


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file; of a large file that has not changed since, the one computed before."""
    return remembered(path, "", lambda: sha256_file(path))


def remembered(path: Path, question: str, answer: Callable[[], str]) -> str:
    """Return what `answer` says of a file; of a large file that has not changed since, what it said before.

    Answers are kept in the user's cache folder, never beside the file, where a copy of the folder would carry a stale
    one along.
    """
    stat = path.stat()
    if stat.st_size < CACHED_BYTES:
        return answer()
    # The time of the last status change cannot be set by a program, so a file that was written and given its old
    # modification time is read again.
    state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    place, key = cache_folder() / _DIGEST_CACHE, str(path.resolve()) + question
    known = _read_cache(place)
    if isinstance(known.get(key), list) and known[key][:-1] == state:
        return str(known[key][-1])
    said = answer()
    with contextlib.suppress(OSError):  # without a cache folder that can be written, the next call reads again
        write_json(place, _read_cache(place) | {key: [*state, said]})
    return said


def _read_cache(place: Path) -> dict[str, Any]:
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def canonical_json(value: object) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def sha256_json(value: object) -> str:
    """Return the SHA-256 of a JSON value's canonical text in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


def hash64(text: str) -> int:
    """Return a 64-bit hash of a text as an integer in [0, 2**64); BLAKE2b with an 8-byte digest."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


TEMPORARY_PREFIX = ".partial-"
_STALE_SECONDS = 86_400
_RUST_ERROR = re.compile(r"\(os error (\d+)\)")


@contextlib.contextmanager
def disk_full(target: Path) -> Iterator[None]:
    """Turn ENOSPC and EDQUOT inside the block into a `DiskFullError`, and let other errors of files name the target."""
    try:
        yield
    except SeqpairError:
        raise
    except Exception as error:
        # safetensors and tokenizers, which are written in Rust, have errors of their own for those of files.
        told = None if isinstance(error, OSError) else _RUST_ERROR.search(str(error))
        fault = OSError(int(told[1]), os.strerror(int(told[1])), str(target)) if told else error
        if not isinstance(fault, OSError):
            raise
        if fault.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"the disk is full while writing {target}",
                seen=fault,
                fix="free some space and repeat the same command; what was saved before is untouched",
            ) from error
        if fault.strerror is not None and fault.filename is None:
            fault.filename = str(target)
        if fault is error:
            raise
        raise fault from error


def fsync_folder(folder: Path) -> None:
    """Make the names inside a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_lock(path: Path) -> TextIO:
    """Open a lock file for writing; a link is refused, because the file that it points to would be emptied.

    Raises:
        RunLockedError: It is a link.
    """
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644), "w", encoding="utf-8")
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise RunLockedError(f"the lock file {path} is a link", seen=path.readlink(), fix="remove the link") from error


def clear_partial(folder: Path) -> list[str]:
    """Remove whatever killed processes left half-written in a folder, and return the names.

    The caller holds a lock on the folder, so nothing in it belongs to a process that is running.
    """
    found = sorted(folder.glob(f"{TEMPORARY_PREFIX}*"))
    for path in found:
        _remove(path)
    return [path.name for path in found]


def _remove(path: Path) -> None:
    # Another process may be removing it too, and a worker of a killed process may still write a last file into it.
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _lock(folder: Path, kind: int) -> int | None:
    """Return an open descriptor of a folder that holds its lock; None if another process holds it or it is gone.

    Raises:
        OSError: The file system has no locks of folders.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, kind)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _remove_stale(final: Path) -> None:
    """Remove the temporary folders of a file or folder whose processes are dead."""
    for path in final.parent.glob(f"{TEMPORARY_PREFIX}{glob.escape(final.name)}-????????"):
        with contextlib.suppress(OSError):
            try:
                descriptor = _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:  # without locks only its age says that nobody is writing it
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    _remove(path)
                continue
            if descriptor is not None:
                _remove(path)
                os.close(descriptor)


@contextlib.contextmanager
def _temporary_folder(final: Path) -> Iterator[Path]:
    """Yield a new folder beside `final`, locked until the end of the block, when it disappears if it is still there."""
    final.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(final)
    descriptor = None
    while True:
        temporary = final.with_name(f"{TEMPORARY_PREFIX}{final.name}-{uuid.uuid4().hex[:8]}")
        try:
            temporary.mkdir()
        except OSError as error:
            error.filename = str(final)  # the name that the user gave
            raise
        with contextlib.suppress(OSError):
            descriptor = _lock(temporary, fcntl.LOCK_EX)
        # Before it was locked, another process may have taken it for a stale one and removed it.
        if temporary.exists():
            break
        if descriptor is not None:
            os.close(descriptor)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


@contextlib.contextmanager
def replacing_file(final: Path) -> Iterator[Path]:
    """Yield a temporary path that takes the place of `final` if the block ends well, else disappears.

    Raises:
        DiskFullError: The disk is full; the earlier file, if any, is untouched.
    """
    # The file lies in a folder of its own, because a program that writes it may make a new file and lose a lock on it.
    with disk_full(final), _temporary_folder(final) as folder:
        temporary = folder / final.name
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(final)
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


def read_json(
    path: Path,
    fault: type[SeqpairError],
    fix: str,
    keys: Mapping[str, type] | None = None,
    *,
    missing_ok: bool = False,
) -> dict[str, Any]:
    """Return the JSON object in a file that a user may have changed or cut.

    Args:
        path: The file.
        fault: The error to raise.
        fix: What the error says is to be done.
        keys: Keys that the object must have, with the type of each.
        missing_ok: Return an empty object where there is no file.

    Raises:
        SeqpairError: As `fault`: the file is no JSON, no object, or lacks a key.
    """
    if missing_ok and not path.is_file():
        return {}
    if path.exists() and not path.is_file():
        raise fault(f"{path} is not a file", allowed="a JSON object", fix=fix)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise fault(f"{path} is not JSON", seen=error, allowed="a JSON object", fix=fix) from error
    if not isinstance(found, dict):
        raise fault(f"{path} is not a JSON object", seen=str(found)[:80], allowed="a JSON object", fix=fix)
    wrong = [name for name, kind in (keys or {}).items() if not isinstance(found.get(name), kind)]
    if wrong:
        seen = ", ".join(f"{name}: {str(found.get(name, 'missing'))[:40]}" for name in wrong)
        allowed = ", ".join(f"{name} ({kind.__name__})" for name, kind in (keys or {}).items())
        raise fault(f"{path} lacks what it must contain", seen=seen, allowed=allowed, fix=fix)
    return found


@contextlib.contextmanager
def replacing_folder(final: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `final` if the block ends well, else disappears.

    `final` must not exist yet. The files inside are fsynced before the rename.
    """
    with disk_full(final), _temporary_folder(final) as temporary:
        yield temporary
        for path in sorted(temporary.rglob("*")):
            if path.is_file():
                with path.open("rb") as handle:
                    os.fsync(handle.fileno())
        fsync_folder(temporary)
        temporary.rename(final)
        fsync_folder(final.parent)


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no finite number")


class JsonLines:
    """One file of JSON objects, one a line.

    Args:
        path: The file; it is created by the first row.
        keys: What every row has.
    """

    def __init__(self, path: Path, keys: Sequence[str] = ()) -> None:
        self.path = path
        self._keys = keys
        self._handle: Any = None

    def append(self, row: dict[str, Any]) -> None:
        """Write one row and hand it to the operating system, so that a killed process does not lose it.

        Raises:
            DiskFullError: The disk is full.
            ValueError: A number in the row is not finite.
        """
        with disk_full(self.path):
            if self._handle is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._handle = self.path.open("a", encoding="utf-8")
            self._handle.write(json.dumps(row, allow_nan=False) + "\n")
            self._handle.flush()

    def sync(self) -> None:
        """Make all rows durable against a crash of the machine."""
        if self._handle is not None:
            with disk_full(self.path):
                os.fsync(self._handle.fileno())

    def close(self) -> None:
        """Close the file; a later `append` opens it again."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows; a torn last line, left by a killed process, is left out.

        Raises:
            DamagedLinesError: A whole line is no JSON object, or lacks a key.
        """
        if not self.path.exists():
            return
        if not self.path.is_file():
            raise DamagedLinesError(f"{self.path} is not a file", fix="remove it")
        with self.path.open("rb") as handle:
            for number, line in enumerate(handle, start=1):
                if line.endswith(b"\n"):
                    yield self._row(number, line)

    def _row(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            row = json.loads(line, parse_constant=_no_number)
            if isinstance(row, dict) and all(key in row for key in self._keys):
                return row
            seen = str(row)[:80]
        except ValueError as error:
            seen = str(error)
        raise DamagedLinesError(
            f"line {number} of {self.path} is not a row",
            seen=seen,
            allowed=f"a JSON object{' with ' if self._keys else ''}{', '.join(self._keys)}",
            fix="put back a good copy of the file, or remove the line",
        )

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> int:
        """Rewrite the file with the wanted rows only, atomically; return how many were dropped."""
        self.close()
        if not self.path.exists():
            return 0
        rows = list(self.rows())
        kept = [row for row in rows if wanted(row)]
        write_text(self.path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in kept))
        return len(rows) - len(kept)
