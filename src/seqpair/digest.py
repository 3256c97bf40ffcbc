"""Digests: of files, of JSON values, and 64-bit hashes of identifiers.

Owns the choice of hash functions. Must not know what is being hashed. Entry points: `sha256_file`,
`sha256_json`, `hash64`.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import BinaryIO, Literal, Protocol


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


def canonical_json(value: object) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def sha256_json(value: object) -> str:
    """Return the SHA-256 of a JSON value's canonical text in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode("ascii")).hexdigest()


def hash64(text: str) -> int:
    """Return a 64-bit hash of a text as an integer in [0, 2**64); BLAKE2b with an 8-byte digest."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")
