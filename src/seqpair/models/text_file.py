"""A user's file of texts, as any table that `data/sources/tables` reads."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from seqpair.data.sources.tables import id_text, table_rows
from seqpair.errors import DataError


class GivenText(NamedTuple):
    """A text and the id its line gives it; the line's number, from 1, where it gives none."""

    id: str
    text: str


def read_texts(path: Path, text_key: str = "text", id_key: str = "id") -> list[GivenText]:
    """Return the texts of a file in its order; empty lines are passed over.

    Args:
        path: A JSON Lines, CSV, TSV or Parquet file; another ending is read as JSON Lines.
        text_key: The key or column of the text.
        id_key: The key or column of the id, which may be missing.

    Raises:
        DataError: The file cannot be read or holds no text, or a row has no text or an id of another kind.
    """
    texts = []
    for where, row in table_rows(path):
        if not isinstance(row.get(text_key), str):
            raise DataError(
                f"{where} has no text",
                seen=f"the keys {', '.join(map(str, row))}" if text_key not in row else str(row[text_key])[:80],
                allowed=f"an object with a string under {text_key!r}",
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
        texts.append(GivenText(name, row[text_key]))
    if not texts:
        raise DataError("the file contains no text", seen=path, allowed="one row per text")
    return texts
