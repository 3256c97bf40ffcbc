"""A user's JSON Lines file of texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from seqpair.errors import DataError


class GivenText(NamedTuple):
    """A text and the id its line gives it; the line's number, from 1, where it gives none."""

    id: str
    text: str


def read_texts(path: Path, text_key: str = "text", id_key: str = "id") -> list[GivenText]:
    """Return the texts of a file in its order; empty lines are passed over.

    Args:
        path: A UTF-8 file with one JSON object a line.
        text_key: The key of the text.
        id_key: The key of the id, which may be missing.

    Raises:
        DataError: The file cannot be read or holds no text, or a line is no object with a text.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("the file of texts cannot be read", seen=error, allowed="a UTF-8 file of JSON Lines") from error
    texts = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"line {number} of {path} is no JSON", seen=error, allowed="one object a line") from error
        if not isinstance(row, dict) or not isinstance(row.get(text_key), str):
            raise DataError(
                f"line {number} of {path} has no text",
                seen=line[:80],
                allowed=f"an object with a string under {text_key!r}",
                fix="name the key of the text",
            )
        texts.append(GivenText(str(row.get(id_key, number)), row[text_key]))
    if not texts:
        raise DataError("the file holds no text", seen=path, allowed="one JSON object a line")
    return texts
