"""Reading files that may be compressed with gzip or Zstandard, as plain byte streams."""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator
from typing import IO, BinaryIO, cast

import zstandard

from seqpair.data.sources.remote import AnyFile
from seqpair.errors import DataError

COMPRESSION_SUFFIXES = (".gz", ".zst")


class _ZstdReader(io.RawIOBase):
    """A stream of all Zstandard frames of a file.

    The library's own reader ends without a word where a file was cut off; this one raises.
    """

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._decompressor = zstandard.ZstdDecompressor()
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
