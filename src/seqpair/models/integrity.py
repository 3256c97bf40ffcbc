"""Whether the files of a model are those that were written: an export's record is compared, never believed.

A flipped bit in an export would otherwise be evaluated under the good model's digest, and its results kept for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqpair.errors import EvaluationError
from seqpair.files import file_digest, sha256_json
from seqpair.hub.weights import WEIGHTS_NAME

_CARD = "README.md"  # its owner may edit it; nothing is computed from it


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
