"""Mosaic Data Shards (MDS): the format that the original's two trillion tokens are published in.

Shards are read in place: a raw one memory-mapped, a packed one unpacked in memory. A shard is: the number of samples
n as uint32, n + 1 offsets as uint32 from the file's start, a JSON header, then the samples; a sample is a uint32 size
for each column without a fixed size, then the columns' bytes.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import mmap
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import zstandard
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from seqpair.data.sources.remote import AnyFile
from seqpair.errors import DataError

INDEX = "index.json"
_DTYPE_OF_CODE = {8: "<u1", 9: "<i1", 16: "<u2", 17: "<i2", 32: "<u4", 33: "<i4", 64: "<u8", 65: "<i8"}
"""The dtype byte of a self-describing array: bits of the value, plus one if it is signed."""
_DTYPE_OF_NAME = {np.dtype(code).name: code for code in _DTYPE_OF_CODE.values()}
_FLOAT_CODES = {18: "float16", 34: "float32", 66: "float64"}
_SCALARS = {"int": "<i8", **{name: code for name, code in _DTYPE_OF_NAME.items()}}
_UNPACKERS: dict[str, Callable[[bytes, int], bytes]] = {
    "zstd": lambda data, size: zstandard.ZstdDecompressor().decompress(data, max_output_size=size),
    "gz": lambda data, size: gzip.decompress(data),
    "bz2": lambda data, size: bz2.decompress(data),
}
_HASHES = ("sha256", "sha512", "sha3_256", "blake2b", "blake2s", "sha1", "md5")

Value = bytes | int | npt.NDArray[np.int64]
Decoder = Callable[[memoryview], Value]


class _FileEntry(BaseModel):
    model_config = ConfigDict(frozen=True)

    basename: str
    bytes: int = Field(ge=0)
    hashes: dict[str, str] = {}


class ShardEntry(BaseModel):
    """What an index says of one shard; keys that reading does not need are ignored."""

    model_config = ConfigDict(frozen=True)

    version: Literal[2]
    format: Literal["mds"]
    compression: str | None = None
    raw_data: _FileEntry
    zip_data: _FileEntry | None = None
    samples: int = Field(ge=0)
    column_names: tuple[str, ...] = Field(min_length=1)
    column_encodings: tuple[str, ...]
    column_sizes: tuple[int | None, ...]

    @model_validator(mode="after")
    def _as_many_of_each(self) -> ShardEntry:
        if not len(self.column_names) == len(self.column_encodings) == len(self.column_sizes):
            raise ValueError("column_names, column_encodings and column_sizes differ in length")
        for file in (self.raw_data, self.zip_data):
            if file is not None and (file.basename.startswith("/") or ".." in file.basename.split("/")):
                raise ValueError(f"basename {file.basename!r} leaves the folder of the index")
        return self


class _Index(BaseModel):
    version: Literal[2] = 2
    shards: tuple[ShardEntry, ...]


@dataclass(frozen=True, slots=True)
class MdsShard:
    """One shard that is there.

    Attributes:
        file: Its file, raw or packed.
        packed: How it is packed, such as `zstd`; None for a raw one.
        entry: What the index says of it.
    """

    file: AnyFile
    packed: str | None
    entry: ShardEntry

    @property
    def file_entry(self) -> _FileEntry:
        """Return what the index says of the file that is there."""
        return self.entry.raw_data if self.packed is None or self.entry.zip_data is None else self.entry.zip_data


def read_mds_index(file: AnyFile) -> tuple[ShardEntry, ...]:
    """Read an `index.json`.

    Raises:
        DataError: It is not the index of an MDS folder of version 2.
    """
    with file.open("rb") as stream:
        data = stream.read()
    try:
        return _Index.model_validate_json(data).shards
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(
            f"{file} is not the index of an MDS folder",
            seen=f"{'.'.join(str(part) for part in first['loc']) or 'content'}: {first['msg']}",
            allowed="a JSON object with `shards`, each of format mds, version 2",
            fix="fetch the index again, or correct `kind` in the recipe",
        ) from error


def packing_of(entry: ShardEntry) -> str:
    """Return the name of a shard's compression without its level.

    Raises:
        DataError: It is one that is not read here.
    """
    name = (entry.compression or "").partition(":")[0]
    if name not in _UNPACKERS:
        raise DataError(
            f"the shard {entry.raw_data.basename} has a compression that is not read here",
            seen=entry.compression,
            allowed=", ".join(sorted(_UNPACKERS)),
            fix="unpack the shards; a raw shard beside a packed one is taken",
        )
    return name


def read_samples(
    shard: MdsShard, columns: Sequence[str], bytes_dtype: str | None = None
) -> Iterator[tuple[Value, ...]]:
    """Yield the values of some columns, sample by sample.

    Text columns come as bytes, whole numbers as int, arrays as int64.

    Args:
        shard: The shard.
        columns: The names of the columns, in the order that values are wanted.
        bytes_dtype: The dtype of arrays that are stored as plain bytes in the last column.

    Raises:
        DataError: The shard lacks a column, is cut off, damaged or not what the index says.
    """
    decoders = [_decoder(shard, name, bytes_dtype if name == columns[-1] else None) for name in columns]
    places = [shard.entry.column_names.index(name) for name in columns]
    data = _plain_bytes(shard)
    view = memoryview(data)
    offsets = _offsets(shard, view)
    sizes = shard.entry.column_sizes
    variable = [place for place, size in enumerate(sizes) if size is None]
    # A sample is the sizes of its columns without a fixed size, uint32 each, then the values of all columns.
    head_bytes = 4 * len(variable)
    fixed_bytes = sum(size for size in sizes if size is not None)
    widths = [size or 0 for size in sizes]
    for sample, (begin, end) in enumerate(zip(offsets, offsets[1:], strict=False)):
        head = view[begin : begin + head_bytes].cast("I") if end - begin >= head_bytes else None
        if head is None or sum(head) + head_bytes + fixed_bytes != end - begin:
            raise _damaged(shard, f"sample {sample}: its columns do not fill its {end - begin} bytes")
        for place, size in zip(variable, head, strict=True):
            widths[place] = size
        starts, at = [], begin + head_bytes
        for width in widths:
            starts.append(at)
            at += width
        try:
            yield tuple(
                decode(view[starts[place] : starts[place] + widths[place]])
                for decode, place in zip(decoders, places, strict=True)
            )
        except _NotAnArrayError as error:
            raise _damaged(shard, f"sample {sample}: {error}") from error


class _NotAnArrayError(ValueError):
    """Bytes that are no array of whole numbers."""


def _plain_bytes(shard: MdsShard) -> bytes | mmap.mmap:
    """Return a shard's raw bytes, checked against the sizes and hashes of the index."""
    said = shard.file_entry
    try:
        with shard.file.open("rb") as stream:
            if shard.packed is None and isinstance(shard.file, Path) and said.bytes > 0:
                data: bytes | mmap.mmap = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            else:
                data = stream.read()
    except ValueError as error:  # an empty file cannot be mapped
        raise _damaged(shard, "0 bytes", said.bytes) from error
    except OSError as error:
        raise DataError(f"the MDS shard {shard.file} cannot be read", seen=error, fix="make it readable") from error
    if len(data) != said.bytes:
        raise _damaged(shard, f"{len(data)} bytes", said.bytes)
    _check_hash(shard, data)
    if shard.packed is None:
        return data
    try:
        plain = _UNPACKERS[shard.packed](bytes(data), max(1, shard.entry.raw_data.bytes))
    except (zstandard.ZstdError, OSError, EOFError, zlib.error, ValueError) as error:
        raise _damaged(shard, f"it cannot be unpacked: {error}") from error
    if len(plain) != shard.entry.raw_data.bytes:
        raise _damaged(shard, f"{len(plain)} bytes unpacked", shard.entry.raw_data.bytes)
    return plain


def _check_hash(shard: MdsShard, data: bytes | mmap.mmap) -> None:
    """Compare the shard with the strongest hash that the index has of it and that can be computed here."""
    hashes = shard.file_entry.hashes
    name = next((name for name in _HASHES if name in hashes), None)
    if name is not None:
        digest = hashlib.new(name, data, usedforsecurity=False).hexdigest()
    else:
        name = next((name for name in sorted(hashes) if name.startswith("xx")), None)
        if name is None or find_spec("xxhash") is None:
            return
        import xxhash

        maker = getattr(xxhash, name, None)
        if maker is None:
            return
        digest = maker(data).hexdigest()
    if digest != hashes[name]:
        raise _damaged(shard, f"{name} {digest}", f"{name} {hashes[name]}")


def _offsets(shard: MdsShard, view: memoryview) -> list[int]:
    """Return where the samples begin and end, after the checks that make slicing safe."""
    samples = shard.entry.samples
    # A shard begins with the number of samples and their samples + 1 borders, uint32 each; the JSON header follows.
    head_bytes = 4 * (samples + 2)
    if len(view) < head_bytes:
        raise _damaged(shard, f"{len(view)} bytes for {samples} samples", f"{head_bytes} bytes or more")
    count = int.from_bytes(view[:4], "little")
    if count != samples:
        raise _damaged(shard, f"{count} samples", f"{samples} samples, as in the index")
    offsets = np.frombuffer(view, "<u4", samples + 1, 4)
    if int(offsets[-1]) != len(view) or int(offsets[0]) < head_bytes or bool((offsets[1:] < offsets[:-1]).any()):
        raise _damaged(shard, "offsets that do not ascend to the file's end")
    _check_header(shard, bytes(view[head_bytes : int(offsets[0])]))
    listed: list[int] = offsets.tolist()
    return listed


def _check_header(shard: MdsShard, header: bytes) -> None:
    """Check that a shard's own header names the columns that the index names."""
    try:
        said: Any = json.loads(header)
        columns = tuple(tuple(said[f"column_{part}"]) for part in ("names", "encodings", "sizes"))
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(shard, f"a header that is not JSON with the columns: {error}") from error
    entry = shard.entry
    if columns != (entry.column_names, entry.column_encodings, entry.column_sizes):
        raise _damaged(shard, f"columns {columns} in the shard's header", "the columns of the index")


def _decoder(shard: MdsShard, name: str, bytes_dtype: str | None) -> Decoder:
    """Return what turns a column's bytes into its value.

    Raises:
        DataError: There is no such column, or its encoding is neither text nor whole numbers.
    """
    entry = shard.entry
    if name not in entry.column_names:
        raise DataError(
            f"{shard.file} has no column {name!r}",
            seen=name,
            allowed=", ".join(entry.column_names),
            fix="correct `text_field`, `ids_field` or `id_field` in the recipe",
        )
    encoding = entry.column_encodings[entry.column_names.index(name)]
    kind, _, rest = encoding.partition(":")
    dtype_name, _, shape = rest.partition(":")
    size = entry.column_sizes[entry.column_names.index(name)]
    if kind == "bytes" and bytes_dtype is not None:
        return _values_of(np.dtype(_DTYPE_OF_NAME[bytes_dtype]))
    if kind in ("str", "bytes"):
        return bytes
    if encoding in _SCALARS and size == np.dtype(_SCALARS[encoding]).itemsize:
        signed = _SCALARS[encoding][1] == "i"
        return lambda view: int.from_bytes(view, "little", signed=signed)
    if kind == "ndarray" and (not dtype_name or dtype_name in _DTYPE_OF_NAME):
        fixed = np.dtype(_DTYPE_OF_NAME[dtype_name]) if dtype_name else None
        if not shape:
            return lambda view: _array(view, fixed)
        if fixed is not None and "," not in shape:
            return _values_of(fixed)
    raise DataError(
        f"the column {name!r} of {shard.file} is neither text nor whole numbers",
        seen=f"encoding {encoding!r}",
        allowed="str, bytes, int, ndarray, ndarray:<integer dtype>",
        fix="choose another column in the recipe",
    )


def _values_of(dtype: np.dtype[Any]) -> Decoder:
    """Return the decoder of bare values of one dtype."""

    def decode(view: memoryview) -> npt.NDArray[np.int64]:
        if len(view) % dtype.itemsize:
            raise _NotAnArrayError(f"{len(view)} bytes are no whole number of {dtype.name}")
        return np.frombuffer(view, dtype).astype(np.int64)

    return decode


def _array(view: memoryview, dtype: np.dtype[Any] | None) -> npt.NDArray[np.int64]:
    """Decode an array: its dtype in one byte unless fixed, its shape, its values.

    The shape is one byte (number of axes * 4 + log2 of the bytes of a size), then the sizes.
    """
    at = 0
    if dtype is None:
        code = view[0] if len(view) else -1
        if code in _FLOAT_CODES:
            raise _NotAnArrayError(f"an array of {_FLOAT_CODES[code]}, not of whole numbers")
        if code not in _DTYPE_OF_CODE:
            raise _NotAnArrayError(f"no dtype has the code {code}")
        dtype, at = np.dtype(_DTYPE_OF_CODE[code]), 1
    if len(view) <= at:
        raise _NotAnArrayError("an array without a shape")
    axes, size_bytes = view[at] >> 2, 1 << (view[at] & 3)
    if axes != 1:
        raise _NotAnArrayError(f"an array of {axes} axes, not one")
    begin = at + 1 + size_bytes
    count = int.from_bytes(view[at + 1 : begin], "little")
    if len(view) != begin + count * dtype.itemsize:
        raise _NotAnArrayError(f"{len(view)} bytes do not hold {count} values of {dtype.name}")
    return np.frombuffer(view[begin:], dtype).astype(np.int64)


def _damaged(shard: MdsShard, seen: str, expected: object = None) -> DataError:
    return DataError(
        f"the MDS shard {shard.file} is damaged or cut off",
        seen=seen,
        allowed=expected,
        fix="fetch the shard and its index again",
    )
