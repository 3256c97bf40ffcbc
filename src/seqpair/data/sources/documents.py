"""Documents, the files they come from, and what was refused on the way."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from seqpair.counter import as_fraction_threshold
from seqpair.data.sources.remote import AnyFile, RemoteFile
from seqpair.files import hash64
from seqpair.recipe.data_spec import SourceSpec

MOST_DOCUMENT_BYTES = 1 << 30
"""A longer document is refused: it must fit into memory several times while it is tokenized."""


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
    """

    rows: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    bytes_done: int = 0
    unit_rows: int = 0
    rows_before: int = 0
    keep: Callable[[Refusal], None] | None = None

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
