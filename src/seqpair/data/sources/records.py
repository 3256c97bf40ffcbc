"""From a row, whatever its format, to a document or the reason why there is none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from seqpair.data.sources.documents import MOST_DOCUMENT_BYTES, Document, Tally, default_id
from seqpair.recipe.data_spec import SourceSpec
from seqpair.text import format_bytes

INVALID_UTF8 = "invalid UTF-8"
NULL_TEXT = "null text"
EMPTY_TEXT = "empty text"
NOT_A_STRING = "text is not a string"
BROKEN_JSON = "broken JSON"
MISSING_FIELD = "missing field"
MISSING_ID = "missing id"
TOO_LONG = f"longer than {format_bytes(MOST_DOCUMENT_BYTES)}"


class _RefusedError(Exception):
    """Why a row gives no document."""


def document_of(
    record: Mapping[str, object],
    spec: SourceSpec,
    file: str,
    row: int,
    tally: Tally,
    *,
    raw: bytes | None = None,
    row_is_relative: bool = False,
) -> Iterator[Document]:
    """Yield a row's document, or count in the tally why there is none.

    Args:
        record: The row's values by field; strings may be bytes in UTF-8.
        spec: Which fields hold the text and the id.
        file: The label of the row's file.
        row: The row, 0-based.
        tally: Where a refusal is counted.
        raw: The row's bytes for the quarantine; without them the record is written down.
        row_is_relative: Whether `row` counts from where the unit begins.
    """
    try:
        text = _joined_text(record, spec)
        text_bytes = utf8_bytes(text)
        given = None if spec.id_field is None else _id_of(_field(record, spec.id_field))
    except _RefusedError as refused:
        tally.reject(str(refused), file, row, _as_bytes(record) if raw is None else raw)
        return
    made = "" if row_is_relative else default_id(file, row)
    yield Document(given or made, text, text_bytes, file, row, row_is_relative=row_is_relative)


def id_of_record(record: Mapping[str, object], spec: SourceSpec, file: str, row: int, tally: Tally) -> str | None:
    """Return a row's own id, empty if its source has none; None, and counted in the tally, if it is missing."""
    if spec.id_field is None:
        return ""
    try:
        return _id_of(_field(record, spec.id_field))
    except _RefusedError as refused:
        tally.reject(str(refused), file, row, _as_bytes(record))
        return None


def parse_line(line: bytes) -> dict[str, object] | str:
    """Return a line's JSON object, or the reason why it has none."""
    text = decode(line)
    if text is None:
        return INVALID_UTF8
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return BROKEN_JSON
    return record if isinstance(record, dict) else BROKEN_JSON


def decode(data: bytes) -> str | None:
    """Return the bytes as UTF-8 text, or None."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def utf8_bytes(text: str) -> int:
    """Return how many bytes a text has in UTF-8; JSON can smuggle in half of a surrogate pair, which has none."""
    if text.isascii():
        return len(text)
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise _RefusedError(INVALID_UTF8) from error


def _joined_text(record: Mapping[str, object], spec: SourceSpec) -> str:
    texts = []
    for name in spec.content_fields:
        text = _field(record, name)
        if isinstance(text, bytes):
            text = decode(text)
            if text is None:
                raise _RefusedError(INVALID_UTF8)
        if text is None:
            raise _RefusedError(NULL_TEXT)
        if not isinstance(text, str):
            raise _RefusedError(NOT_A_STRING)
        texts.append(text)
    joined = texts[0] if len(texts) == 1 else "\n\n".join(text for text in texts if text.strip())
    if not joined or joined.isspace():
        raise _RefusedError(EMPTY_TEXT)
    return joined


def _field(record: Mapping[str, object], name: str) -> object:
    if name not in record:
        raise _RefusedError(f"{MISSING_FIELD} {name!r}")
    return record[name]


def _id_of(value: object) -> str:
    """Return an id as text: a non-empty string or a whole number."""
    if isinstance(value, bytes):
        value = decode(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise _RefusedError(MISSING_ID)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _RefusedError(MISSING_ID) from error
    return value


def _as_bytes(record: Mapping[str, object]) -> bytes:
    """Return a record for the quarantine: its only value if that is bytes, else JSON."""
    values = list(record.values())
    if len(values) == 1 and isinstance(values[0], bytes):
        return values[0]
    return json.dumps(record, default=_readable, ensure_ascii=True).encode("ascii")


def _readable(value: object) -> str:
    return value.decode("utf-8", errors="backslashreplace") if isinstance(value, bytes) else repr(value)
