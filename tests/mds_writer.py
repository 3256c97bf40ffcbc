"""A small writer of Mosaic Data Shards, made from the format's description and from nothing in `src`."""

import bz2
import gzip
import hashlib
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

Row = dict[str, Any]
FIXED_BYTES = {"int": 8, "int32": 4, "uint16": 2, "uint64": 8}
SCALAR_FORMS = {"int": "<q", "int32": "<i", "uint16": "<H", "uint64": "<Q"}
DTYPE_CODES = {"uint8": 8, "int8": 9, "uint16": 16, "int16": 17, "float32": 34, "uint32": 32, "int32": 33, "int64": 65}
PACKERS = {
    "zstd": lambda data: zstandard.ZstdCompressor().compress(data),
    "gz": gzip.compress,
    "bz2": bz2.compress,
}


def encoded(encoding: str, value: Any) -> bytes:
    kind, *rest = encoding.split(":")
    if kind == "str":
        return value if isinstance(value, bytes) else value.encode()
    if kind == "bytes":
        return value
    if kind != "ndarray":
        return struct.pack(SCALAR_FORMS[kind], value)
    array = np.asarray(value, dtype=rest[0] if rest else None)
    head = b"" if rest else bytes([DTYPE_CODES[array.dtype.name]])
    if len(rest) < 2:
        width = next(power for power in range(4) if max(array.shape, default=0) < 1 << (8 << power))
        head += bytes([array.ndim << 2 | width])
        head += b"".join(size.to_bytes(1 << width, "little") for size in array.shape)
    return head + array.tobytes()


def shard_bytes(columns: dict[str, str], rows: Sequence[Row]) -> bytes:
    names = sorted(columns)
    sizes = [FIXED_BYTES.get(columns[name]) for name in names]
    header = json.dumps(
        {
            "column_encodings": [columns[name] for name in names],
            "column_names": names,
            "column_sizes": sizes,
            "format": "mds",
            "version": 2,
        },
        indent=4,
    ).encode()
    samples = []
    for row in rows:
        parts = [encoded(columns[name], row[name]) for name in names]
        lengths = [len(part) for part, size in zip(parts, sizes, strict=True) if size is None]
        samples.append(struct.pack(f"<{len(lengths)}I", *lengths) + b"".join(parts))
    at = 4 * (len(samples) + 2) + len(header)
    offsets = [at]
    for sample in samples:
        at += len(sample)
        offsets.append(at)
    return struct.pack(f"<{len(offsets) + 1}I", len(samples), *offsets) + header + b"".join(samples)


def write_mds(
    folder: Path,
    columns: dict[str, str],
    rows: Sequence[Row],
    *,
    packing: str | None = None,
    shard_rows: int = 10,
    hashes: Sequence[str] = (),
) -> Path:
    """Write rows as an MDS folder and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for number, begin in enumerate(range(0, len(rows), shard_rows)):
        chunk = rows[begin : begin + shard_rows]
        name = f"shard.{number:05d}.mds"
        data = shard_bytes(columns, chunk)
        packed = PACKERS[packing](data) if packing else None
        (folder / (f"{name}.{packing}" if packing else name)).write_bytes(data if packed is None else packed)
        names = sorted(columns)
        shards.append(
            {
                "column_encodings": [columns[column] for column in names],
                "column_names": names,
                "column_sizes": [FIXED_BYTES.get(columns[column]) for column in names],
                "compression": packing,
                "format": "mds",
                "hashes": list(hashes),
                "raw_data": file_entry(name, data, hashes),
                "samples": len(chunk),
                "size_limit": 1 << 26,
                "version": 2,
                "zip_data": file_entry(f"{name}.{packing}", packed, hashes) if packed is not None else None,
            }
        )
    (folder / "index.json").write_text(json.dumps({"shards": shards, "version": 2}))
    return folder


def file_entry(name: str, data: bytes, hashes: Sequence[str]) -> Row:
    return {
        "basename": name,
        "bytes": len(data),
        "hashes": {kind: hashlib.new(kind, data).hexdigest() for kind in hashes},
    }


def merge_indexes(root: Path, folders: Sequence[str]) -> None:
    """Write the root's index over sub-folders, as published data sets have it."""
    shards = []
    for folder in folders:
        for shard in json.loads((root / folder / "index.json").read_text())["shards"]:
            for part in ("raw_data", "zip_data"):
                if shard[part]:
                    shard[part]["basename"] = f"{folder}/{shard[part]['basename']}"
            shards.append(shard)
    (root / "index.json").write_text(json.dumps({"shards": shards, "version": 2}))
