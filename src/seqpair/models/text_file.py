"""A user's texts: any table that `data/sources/tables` reads, plain lines, or what another program writes to us."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from seqpair.data.sources.tables import id_text, require_finite, strict_object, table_rows
from seqpair.errors import DataError
from seqpair.text import checked_text

STANDARD_INPUT = Path("-")
_PLAIN_ENDINGS = (".txt", ".text")


class GivenText(NamedTuple):
    """A text, the id its line gives it (the line's number, from 1, where it gives none), and its second text."""

    id: str
    text: str
    pair: str | None = None


def read_texts(path: Path, text_key: str = "text", id_key: str = "id", pair_key: str = "") -> list[GivenText]:
    """Return the texts of a file in its order; empty lines are passed over.

    Args:
        path: A JSON Lines, CSV, TSV or Parquet file; a `.txt` file has one text per line; `-` is standard input, JSON
            Lines if its first line begins with `{`, otherwise one text per line. Another ending is read as JSON Lines.
        text_key: The key or column of the text.
        id_key: The key or column of the id, which may be missing.
        pair_key: The key or column of a second text; none is read without it.

    Raises:
        DataError: The file cannot be read or holds no text, a row has no text or an id of another kind, or two rows
            have one id.
    """
    texts: list[GivenText] = []
    seen: set[str] = set()
    for where, row in _rows(path, text_key):
        values = {key: row.get(key) for key in (text_key, pair_key) if key}
        for key, value in values.items():
            if not isinstance(value, str):
                raise DataError(
                    f"{where} has no text",
                    seen=f"the keys {', '.join(map(str, row))}" if key not in row else str(value)[:80],
                    allowed=f"an object with a string under {key!r}",
                    fix="name the key of the text",
                )
        number = row.get(id_key, where.rpartition(" ")[2])
        name = id_text(number)
        if name is None:
            raise DataError(
                f"{where}: the id is no string or integer",
                seen=repr(number)[:80],
                allowed="a string that is not empty, or a whole number",
                fix="name another key of the id",
            )
        if name in seen:
            raise DataError(
                f"{where}: its id occurs twice",
                seen=name,
                fix="give each row an id of its own, or name another key of the id: without one, rows are numbered",
            )
        seen.add(name)
        texts.append(GivenText(name, row[text_key], row[pair_key] if pair_key else None))
    if not texts:
        raise DataError("the file contains no text", seen=path, allowed="one row per text")
    return texts


def _rows(path: Path, text_key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if path == STANDARD_INPUT:
        return _line_rows("standard input", sys.stdin, text_key, may_be_json=True)
    if path.suffix.lower() not in _PLAIN_ENDINGS:
        return table_rows(path)
    try:
        require_finite(path)
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("the file cannot be read", seen=f"{path}: {error}", allowed="a file of UTF-8 text") from error
    return _line_rows(str(path), lines, text_key, may_be_json=False)


def _line_rows(
    name: str, lines: Iterable[str], text_key: str, *, may_be_json: bool
) -> Iterator[tuple[str, dict[str, Any]]]:
    is_json = None if may_be_json else False
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\r\n")
        if not text.strip():
            continue
        if is_json is None:
            is_json = text.lstrip().startswith(("{", "[{"))  # an array is refused below: its rows are no lines
        where = f"{name}, line {number}"
        checked_text(text, where)
        yield where, strict_object(text, where) if is_json else {text_key: text}
