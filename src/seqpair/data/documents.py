"""Documents, the files they come from, and what was refused on the way.

Owns the types that every kind of source shares. Must not know formats, tokenizers or stores. Entry
points: `Document`, `SourceFile`, `Tally`, `Source`, `is_held_out`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from seqpair.counter import as_fraction_threshold
from seqpair.digest import hash64
from seqpair.recipe.data_spec import SourceSpec


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a source.

    Attributes:
        id: Its id, unique in the source.
        text: Its text; never empty, always encodable as UTF-8.
        text_bytes: The UTF-8 bytes of the text.
        file: The label of the file it came from (see `SourceFile`).
        row: The 0-based line or row in that file; 0 where one file is one document.
    """

    id: str
    text: str
    text_bytes: int
    file: str
    row: int

    @property
    def place(self) -> str:
        """Return `file:line` (1-based) for messages."""
        return f"{self.file}:{self.row + 1}"


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of a source.

    Attributes:
        path: Where it is.
        label: Its path below the folder that all files of the source share: stable when the whole
            source is moved, and unique in the source.
        size_bytes: Its size as stored (compressed, if it is).
        mtime_ns: Its time of change.
    """

    path: Path
    label: str
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path, label: str) -> SourceFile:
        """Look at a file on disk."""
        status = path.stat()
        return cls(path, label, status.st_size, status.st_mtime_ns)


@dataclass
class Tally:
    """What was read and what was refused while a source was read.

    Attributes:
        rows: Rows (or files) seen, refused ones included.
        rejected: How many rows were refused, by reason.
        examples: The first place, `file:line`, of each reason.
        bytes_done: Bytes of the source's files read so far, for progress.
    """

    rows: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    bytes_done: int = 0

    def reject(self, reason: str, file: str, row: int) -> None:
        """Count one refused row (0-based) and keep the first place of each reason."""
        self.rejected[reason] += 1
        self.examples.setdefault(reason, f"{file}:{row + 1}")

    def summary(self) -> str:
        """Return one line that names the reasons, their counts and first places; empty if none."""
        return "; ".join(
            f"{count} x {reason} (first: {self.examples[reason]})" for reason, count in sorted(self.rejected.items())
        )


class Source(Protocol):
    """A source that can be read again and again, always with the same documents in the same order.

    Attributes:
        spec: What the recipe says of it.
        files: Its files, in reading order.
        python_version: For the `python` kind, the interpreter whose library it is.
    """

    spec: SourceSpec
    files: list[SourceFile]
    python_version: str | None

    def documents(self, tally: Tally) -> Iterator[Document]:
        """Yield the documents in order; what cannot be used goes to the tally."""

    def split_key(self, document: Document) -> str:
        """Return the text whose hash decides whether a document is held out."""


def is_held_out(split_key: str, held_out_frac: float) -> bool:
    """Return whether a document is held out: a function of its key's hash and the share alone.

    Equal keys fall on the same side, and a larger share holds out a superset of a smaller one.
    """
    return hash64(split_key) >> 32 < as_fraction_threshold(held_out_frac)
