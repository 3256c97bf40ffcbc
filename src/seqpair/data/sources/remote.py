"""Files here or elsewhere, plain or compressed, opened in one way so that readers need not tell them apart.

Elsewhere is a URL: `s3://`, `gs://`, `hf://`, `https://` and whatever else fsspec reads.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import posixpath
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import zstandard

from seqpair.errors import DataError, without_secrets

_MAGIC = ("*", "?", "[")
_BLOCK_BYTES = 1 << 22
PINNED = "revision:"
"""How the identity of a whole that cannot change begins."""
_IDENTITY_KEYS = ("sha256", "lfs", "md5Hash", "content_md5", "blob_id", "ETag", "etag")
"""What file systems call a value that changes with the content, the strongest first."""
COMPRESSION_SUFFIXES = (".gz", ".zst")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file elsewhere.

    Attributes:
        url: Its URL.
        size_bytes: Its size when it was found.
        identity: A value of the server's that changes with the content (a checksum or a strong entity
            tag), such as `ETag:...`; None where the server gives none.
    """

    url: str
    size_bytes: int
    identity: str | None

    @property
    def name(self) -> str:
        """Return the last part of its path."""
        return posixpath.basename(_path_of(self.url))

    @property
    def suffix(self) -> str:
        """Return the ending of its name, such as `.gz`."""
        return posixpath.splitext(self.name)[1]

    def now(self) -> RemoteFile | None:
        """Look at it again; None if it is gone. What is pinned to a revision is as it was.

        Raises:
            DataError: The server cannot be reached.
        """
        return self if (self.identity or "").startswith(PINNED) else look_at_url(self.url)

    def __str__(self) -> str:
        """Return the URL as it is stored and shown: without what signs it."""
        return without_secrets(self.url)

    def read_bytes(self) -> bytes:
        """Return its bytes; as `open` otherwise."""
        with self.open() as stream:
            return stream.read()

    def open(self, mode: str = "rb") -> BinaryIO:
        """Open it for reading bytes, in blocks, with seeking.

        Raises:
            DataError: It is gone, cannot be reached, has another size than when it was found, or needs a
                package that is missing; now or at a later read.
        """
        if mode != "rb":
            raise ValueError(f"a remote file is only read: {mode!r}")
        with _faults(self.url):
            system, path = _system(self.url)
            raw = _Raw(system.open(path, "rb", block_size=_BLOCK_BYTES), self)
        return cast(BinaryIO, io.BufferedReader(raw, _BLOCK_BYTES))


class _Raw(io.RawIOBase):
    """A remote stream whose faults, at any read, are one kind of error."""

    def __init__(self, stream: Any, file: RemoteFile) -> None:
        self._stream, self._file = stream, file
        # A file that grew would be read under the address of the old one; some servers tell no size.
        size = getattr(stream, "size", None)
        if size is not None and size != file.size_bytes:
            raise DataError(
                f"the remote file {file.url} has changed while it was read",
                seen=f"{size} bytes",
                allowed=f"{file.size_bytes} bytes, as when it was found",
                fix="run the command again",
            )

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _faults(self._file.url):
            data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _faults(self._file.url):
            return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self._stream.tell())

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


AnyFile = Path | RemoteFile
"""A file here or elsewhere; both have `name`, `suffix` and `open`."""


def is_url(path: str) -> bool:
    """Return whether a path of a recipe is a URL."""
    return "://" in path


def local_path(url: str) -> Path | None:
    """Return the path of a `file://` URL; None for another URL."""
    return Path(_path_of(url)) if url.startswith("file://") else None


def join_url(folder: str, name: str) -> str:
    """Return the URL of a file below a folder's URL."""
    return f"{folder.rstrip('/')}/{name}"


def labels_below(places: Sequence[str]) -> list[str]:
    """Return paths or URLs without the folders that they all share: stable when the whole is moved."""
    parts = [place.split("/") for place in places]
    shared = 0
    while len({tuple(part[: shared + 1]) for part in parts}) == 1 and all(len(part) > shared + 1 for part in parts):
        shared += 1
    return ["/".join(part[shared:]) for part in parts]


def look_at_url(url: str) -> RemoteFile | None:
    """Return the file at a URL; None if there is none.

    Raises:
        DataError: The server cannot be reached, or a package is missing.
    """
    with _faults(url):
        system, path = _system(url)
        try:
            info = system.info(path)
        except FileNotFoundError:
            return None
        return None if info["type"] == "directory" else _remote(url, info)


def find_remote(url: str, endings: tuple[str, ...]) -> list[RemoteFile]:
    """Return the files that a URL stands for, none if nothing is there.

    A pattern (`*`, `**`) stands for the files it matches, a folder for all files below it with one of
    the endings (hidden names skipped), a file for itself whatever its ending.

    Raises:
        DataError: The server cannot be reached, or a package is missing.
    """
    with _faults(url):
        system, path = _system(url)
        # The question mark of a web address begins its query.
        if any(sign in (_path_of(url) if url.startswith("http") else path) for sign in _MAGIC):
            found = system.glob(path, detail=True)
            kept = {name: info for name, info in found.items() if info["type"] != "directory"}
        else:
            try:
                info = system.info(path)
            except FileNotFoundError:
                return []
            # Object stores have no folders: a name may be a file and a prefix of others, and the slash decides.
            if info["type"] != "directory" and not url.endswith("/"):
                return [_remote(url, info)]
            root = path.rstrip("/")
            found = system.find(root, detail=True)
            kept = {name: info for name, info in found.items() if name.endswith(endings) and not _hidden(name, root)}
        return [_remote(system.unstrip_protocol(name), info) for name, info in kept.items()]


def _hidden(name: str, root: str) -> bool:
    return any(part.startswith(".") for part in name.removeprefix(root).split("/"))


def _remote(url: str, info: dict[str, Any]) -> RemoteFile:
    size = info.get("size")
    if size is None:
        raise DataError(
            f"the server does not say how large {url} is", seen=f"size: {size}", fix="download the file and name it"
        )
    return RemoteFile(url, int(size), _identity(info))


def _identity(info: dict[str, Any]) -> str | None:
    """Return what stands for a file's content; a weak entity tag does not."""
    for key in _IDENTITY_KEYS:
        value = info.get(key)
        if key == "lfs" and value is not None:
            value = value.get("sha256") if isinstance(value, dict) else getattr(value, "sha256", None)
        if value and not str(value).startswith("W/"):  # weak: equal for contents that only mean the same
            return f"{key}:{value}"
    return None


def _path_of(url: str) -> str:
    rest = url.partition("://")[2]
    return rest.partition("?")[0] if url.startswith("http") else rest


def _system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL and the path in it."""
    from fsspec.core import url_to_fs

    system, path = url_to_fs(url)
    return system, path


@contextlib.contextmanager
def _faults(url: str) -> Iterator[None]:
    """Turn what file systems raise into one error; each raises its own kinds."""
    scheme = url.partition("://")[0]
    try:
        yield
    except DataError:
        raise
    except ImportError as error:
        raise DataError(
            f"reading {scheme}:// needs a package that is not installed",
            seen=error,
            allowed="https:// and hf:// with the extra `datasets`; s3:// also needs s3fs, gs:// gcsfs",
            fix="install it, or download the files and name them by path",
        ) from error
    except ValueError as error:
        raise DataError(
            f"{url} is not a URL that can be read", seen=error, fix="correct `paths` in the recipe"
        ) from error
    except Exception as error:  # aiohttp, botocore and others have no base class in common
        raise DataError(
            f"the remote file or folder {url} cannot be read",
            seen=f"{type(error).__name__}: {error}",
            fix="check the URL, the network and your credentials for it",
        ) from error


class _ZstdReader(io.RawIOBase):
    """A stream of all Zstandard frames of a file.

    The library's own reader ends without a word where a file was cut off; this one raises.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        # The library refuses windows above 128 MiB unless told otherwise; `zstd --long=31` writes up to 2 GiB.
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        self._frame = self._decompressor.decompressobj()
        self._frame_begun = False
        self._compressed = b""
        self._plain = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        while not self._plain:
            if not self._compressed:
                self._compressed = self._raw.read(1 << 17)
                if not self._compressed:
                    if self._frame_begun:
                        raise EOFError("the last frame is cut off")
                    return 0
            # A file may be many frames end to end, as parallel compressors write them; each needs an object of its own.
            if self._frame.eof:
                self._frame = self._decompressor.decompressobj()
            self._plain = self._frame.decompress(self._compressed)
            self._compressed = self._frame.unused_data if self._frame.eof else b""
            self._frame_begun = not self._frame.eof
        count = min(len(buffer), len(self._plain))
        buffer[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        return count


@contextlib.contextmanager
def open_stream(path: AnyFile) -> Iterator[tuple[IO[bytes], BinaryIO]]:
    """Open a file, here or elsewhere, for reading, decompressed by its suffix.

    Yields:
        The stream of plain bytes, and the raw file, whose `tell()` says how far reading has come.

    Raises:
        DataError: The file cannot be read, is damaged or is cut off.
    """
    try:
        with path.open("rb") as raw:
            stream: IO[bytes] = raw
            if path.suffix == ".gz":
                stream = cast(IO[bytes], gzip.GzipFile(fileobj=raw))
            elif path.suffix == ".zst":
                stream = io.BufferedReader(cast(io.RawIOBase, _ZstdReader(raw)), 1 << 17)
            yield stream, raw
    except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
        raise DataError(
            f"the compressed file {path} is damaged or cut off", seen=error, fix="fetch or write the file again"
        ) from error
    except PermissionError as error:
        raise DataError(f"the file {path} cannot be read", seen=error, fix="make it readable") from error
