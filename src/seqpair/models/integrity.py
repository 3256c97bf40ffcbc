"""Whether the files of a model are those that were written: an export's record is compared, never believed.

A flipped bit in an export would otherwise be evaluated under the good model's digest, and its results kept for ever.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqpair.errors import EvaluationError
from seqpair.files import sha256_file, sha256_json, write_json
from seqpair.hub.weights import WEIGHTS_NAME
from seqpair.nn.decode.one_token import cache_folder

CACHED_BYTES = 8 << 20
"""Smaller files are hashed each time: that takes less time than a mistake would cost."""
_CARD = "README.md"  # its owner may edit it; nothing is computed from it
_DIGEST_CACHE = "file_digests.json"


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file; of a large file that has not changed since, the one computed before.

    Digests are kept in the user's cache folder, never beside the file, where a copy of the folder would carry a
    stale one along.
    """
    stat = path.stat()
    if stat.st_size < CACHED_BYTES:
        return sha256_file(path)
    # The time of the last status change cannot be set by a program, so a file that was written and given its old
    # modification time is read again.
    state = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    place, key = cache_folder() / _DIGEST_CACHE, str(path.resolve())
    known = _read_cache(place)
    if key in known and known[key][:-1] == state:
        return str(known[key][-1])
    digest = sha256_file(path)
    with contextlib.suppress(OSError):  # without a cache folder that can be written, the next call reads again
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, _read_cache(place) | {key: [*state, digest]})
    return digest


def _read_cache(place: Path) -> dict[str, Any]:
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def weights_digest(weights: list[Path]) -> str:
    """Return the digest of a model that is no export of ours: over its weight files and their names."""
    return sha256_json({path.name: file_digest(path) for path in weights})


def require_recorded(folder: Path, record: Mapping[str, Any]) -> bool:
    """Compare the files of an export with the digests in its record.

    Args:
        folder: The export.
        record: Its record. Records made before digests of all files were kept name the weights' digest only.

    Returns:
        Whether every file was compared, so that what was proven at the export still holds.

    Raises:
        EvaluationError: A file is missing, or is not the one that was exported.
    """
    files: dict[str, str] = record.get("files") or {WEIGHTS_NAME: record["model_digest"]}
    for name, wanted in files.items():
        path = folder / name
        if name == _CARD:
            continue
        seen = file_digest(path) if path.is_file() else "no such file"
        if seen != wanted:
            raise EvaluationError(
                f"{path} is not the file that was exported",
                seen=seen if len(seen) < 64 else f"SHA-256 {seen}",
                allowed=f"SHA-256 {wanted}",
                fix="export the checkpoint again, or put back a good copy; if it was changed on purpose, remove the "
                "record seqpair_export.json: then the folder is any Hugging Face model",
            )
    return "files" in record
