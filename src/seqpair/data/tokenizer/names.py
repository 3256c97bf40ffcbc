"""The special tokens' names by role, and the files beside a tokenizer that give them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from seqpair.errors import DataError

ROLES = ("unk", "cls", "sep", "pad", "mask")
DEFAULT_NAMES = {role: f"[{role.upper()}]" for role in ROLES}


def names_beside(file: Path) -> dict[str, str]:
    """Return the special tokens' names from the files beside `tokenizer.json`, else the usual ones."""
    names = dict(DEFAULT_NAMES)
    for beside in ("tokenizer_config.json", "special_tokens_map.json"):
        settings = read_json(file.with_name(beside))
        for role in ROLES:
            value = settings.get(f"{role}_token")
            text = value.get("content") if isinstance(value, dict) else value
            if isinstance(text, str):
                names[role] = text
    return names


def read_json(file: Path) -> dict[str, Any]:
    """Return a JSON object; empty if the file is not there or holds something else.

    Raises:
        DataError: The file is not JSON.
    """
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is not JSON", seen=error) from error
    return value if isinstance(value, dict) else {}
