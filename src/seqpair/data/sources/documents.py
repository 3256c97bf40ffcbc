"""Documents: what a row of any format becomes, where it came from, and what was refused on the way."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from seqpair.counter import as_fraction_threshold
from seqpair.data.sources.remote import AnyFile, RemoteFile
from seqpair.data.sources.tables import INVALID_UTF8, MOST_FIELD_BYTES, id_text
from seqpair.files import hash64
from seqpair.recipe.data_spec import SourceSpec
from seqpair.text import format_bytes

MOST_DOCUMENT_BYTES = 1 << 24
"""A longer document is refused and counted: it must fit into memory several times while it is tokenized."""
_BATCH_BYTES = 1 << 20
NULL_TEXT = "null text"
EMPTY_TEXT = "empty text"
NOT_A_STRING = "text is not a string"
MISSING_FIELD = "missing field"
MISSING_ID = "missing id"
ID_OF_ANOTHER_TYPE = "id is no string or integer"
TOO_LONG = f"longer than {format_bytes(MOST_DOCUMENT_BYTES)}"
TOO_LONG_FIELD = f"a line, column or member longer than {format_bytes(MOST_FIELD_BYTES)}"


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a source.

    Attributes:
        id: Its id, unique in the source; empty while it is to be made from a row that is still relative.
        text: Its text; never empty, always encodable as UTF-8. Empty where `ids` are given: they are decoded
            by whoever needs the text.
        text_bytes: The UTF-8 bytes of the text.
        file: The label of the file it came from (see `SourceFile`).
        row: The 0-based line or row in that file; 0 where one file is one document.
        ids: The content ids, int64 (n,), of text that was published tokenized; None where it is to be
            tokenized.
        row_is_relative: Whether `row` counts from where its unit begins, as in the middle of a file of lines.
    """

    id: str
    text: str
    text_bytes: int
    file: str
    row: int
    ids: NDArray[np.int64] | None = None
    row_is_relative: bool = False

    def located(self, rows_before: int) -> Document:
        """Return the document with its true row, and its id where that is made from file and row.

        Args:
            rows_before: The rows of its file before its unit.
        """
        if not self.row_is_relative:
            return self
        row = rows_before + self.row
        return replace(self, id=self.id or default_id(self.file, row), row=row, row_is_relative=False)

    @property
    def place(self) -> str:
        """Return `file:line` (1-based) for messages."""
        return f"{self.file}:{self.row + 1}"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source.

    Attributes:
        path: Where it is, here or elsewhere.
        label: Its path below the folder that all files of the source share: stable when the whole
            source is moved, and unique in the source.
        size_bytes: Its size as stored (compressed, if it is).
        mtime_ns: Its time of change; 0 for one elsewhere.
    """

    path: AnyFile
    label: str
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: AnyFile, label: str) -> SourceFile:
        """Look at a file; one elsewhere was looked at when it was found, and has no time."""
        if isinstance(path, RemoteFile):
            return cls(path, label, path.size_bytes, 0)
        status = path.stat()
        return cls(path, label, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of a source that one worker reads at a time: the resumable piece of work.

    Attributes:
        file: The file it belongs to; for a group of small files the first.
        start: Where it begins, by kind: a byte (lines), a row group (Parquet), the index of a file (groups).
        stop: Where it ends, exclusive.
        size_bytes: Its share of the files' sizes, for progress.
    """

    file: SourceFile
    start: int
    stop: int
    size_bytes: int


class Refusal(NamedTuple):
    """One refused row: why, where (0-based), and its bytes where they are known."""

    reason: str
    file: str
    row: int
    raw: bytes | None


@dataclass
class Tally:
    """What was read and what was refused while a source was read.

    Attributes:
        rows: Rows (or files) seen, refused ones included.
        rejected: How many rows were refused, by reason.
        examples: The first place, `file:line`, of each reason.
        bytes_done: Bytes of the source's files read so far, for progress; a reader adds to it.
        unit_rows: Rows of its file that the unit being read covers, blank lines too; a reader whose rows are
            relative adds to it, and the rows of the file's next unit are counted on from there.
        rows_before: Rows of the file before the unit being read: what its relative rows are counted from.
        keep: Where every refused row goes, if it is to be kept.
        fields: The fields of rows that lacked one, for messages.
    """

    rows: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    bytes_done: int = 0
    unit_rows: int = 0
    rows_before: int = 0
    keep: Callable[[Refusal], None] | None = None
    fields: dict[str, None] = field(default_factory=dict)

    def reject(self, reason: str, file: str, row: int, raw: bytes | None = None) -> None:
        """Count one refused row, and keep the first place of each reason.

        Args:
            reason: Why, in words that are equal for equal faults.
            file: The file's label.
            row: The row, 0-based, as a document would have it.
            raw: Its bytes as they were read, where they are at hand; the whole or the beginning.
        """
        row += self.rows_before
        self.rejected[reason] += 1
        self.examples.setdefault(reason, f"{file}:{row + 1}")
        if self.keep is not None:
            self.keep(Refusal(reason, file, row, raw))

    def summary(self) -> str:
        """Return one line that names the reasons, their counts and first places; empty if none."""
        return "; ".join(
            f"{count} x {reason} (first: {self.examples[reason]})" for reason, count in sorted(self.rejected.items())
        )


class Source(Protocol):
    """A source that can be read again and again, always with the same documents in the same order.

    Opening one is cheap, so that every worker process can do it again.

    Attributes:
        spec: What the recipe says of it.
        files: Its files, in reading order.
        python_version: For the `python` kind, the interpreter whose library it is.
    """

    spec: SourceSpec
    files: list[SourceFile]
    python_version: str | None

    def units(self) -> list[Unit]:
        """Return the units in reading order: a function of the files alone; together they are the source."""

    def read(self, unit: Unit, tally: Tally) -> Iterator[Document]:
        """Yield a unit's documents in order; what cannot be used goes to the tally."""

    def split_key(self, document: Document) -> str:
        """Return the text whose hash decides whether a document is held out."""


class ContentSource:
    """What the sources share whose documents are split by their content, which is all but Python's library."""

    python_version: str | None = None

    def split_key(self, document: Document) -> str:
        """Return a document's text, or a digest of its token ids where it has only those.

        Equal texts fall on the same side of the split, and so do equal ids; a text and its ids need not.
        """
        if document.ids is None:
            return document.text
        return "ids:" + hashlib.sha256(document.ids.astype("<i8").tobytes()).hexdigest()


def documents(source: Source, tally: Tally) -> Iterator[Document]:
    """Yield a source's documents in order, unit after unit, each with its true row."""
    read_bytes, file, rows_before = 0, "", 0
    for unit in source.units():
        rows_before = rows_before if unit.file.label == file else 0
        file, tally.unit_rows, tally.rows_before = unit.file.label, 0, rows_before
        for document in source.read(unit, tally):
            yield document.located(rows_before)
        rows_before += tally.unit_rows
        read_bytes += unit.size_bytes
        tally.bytes_done = read_bytes


def batches_of(documents: Iterable[Document], most_documents: int) -> Iterator[list[Document]]:
    """Yield documents in batches of at most `most_documents`; a batch ends with the document that fills its bytes."""
    batch: list[Document] = []
    size_bytes = 0
    for document in documents:
        batch.append(document)
        size_bytes += document.text_bytes if document.ids is None else document.ids.nbytes
        if size_bytes >= _BATCH_BYTES or len(batch) >= most_documents:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch


def file_groups(files: Sequence[SourceFile], unit_bytes: int) -> list[Unit]:
    """Return units of whole files, each as many as fit into `unit_bytes`, or one; start and stop count files."""
    units: list[Unit] = []
    start, size = 0, 0
    for index, file in enumerate(files):
        if index > start and size + file.size_bytes > unit_bytes:
            units.append(Unit(files[start], start, index, size))
            start, size = index, 0
        size += file.size_bytes
    if start < len(files):
        units.append(Unit(files[start], start, len(files), size))
    return units


def default_id(file: str, row: int) -> str:
    """Return the id of a row that has none of its own."""
    return f"{file}:{row}"


def is_held_out(split_key: str, held_out_frac: float) -> bool:
    """Return whether a document is held out: a function of its key's hash and the share alone.

    Equal keys fall on the same side, and a larger share holds out a superset of a smaller one.
    """
    return hash64(split_key) >> 32 < as_fraction_threshold(held_out_frac)


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
        if text_bytes > MOST_DOCUMENT_BYTES:
            raise _RefusedError(TOO_LONG)
        given = None if spec.id_field is None else _id_of(_field(record, spec.id_field))
    except _RefusedError as refused:
        if str(refused).startswith(MISSING_FIELD):
            tally.fields.update(dict.fromkeys(record))
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
    if value is None or value == "":
        raise _RefusedError(MISSING_ID)
    found = id_text(value)
    if found is None:
        raise _RefusedError(ID_OF_ANOTHER_TYPE)
    try:
        found.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _RefusedError(f"{MISSING_ID}: {INVALID_UTF8}") from error
    return found


def _as_bytes(record: Mapping[str, object]) -> bytes:
    """Return a record for the quarantine: its only value if that is bytes, else JSON."""
    values = list(record.values())
    if len(values) == 1 and isinstance(values[0], bytes):
        return values[0]
    return json.dumps(record, default=_readable, ensure_ascii=True).encode("ascii")


def _readable(value: object) -> str:
    return value.decode("utf-8", errors="backslashreplace") if isinstance(value, bytes) else repr(value)
