"""Sources made of CSV or TSV files, and of WebDataset tar files.

Values are taken as the characters that are there: `NA`, `007` and an empty column stay text, which loaders that guess
types do not promise. A row that cannot be used is counted; a file that cannot be read is an error.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from itertools import groupby
from typing import IO

from seqpair.data.sources.documents import (
    TOO_LONG_FIELD,
    Document,
    SourceFile,
    Tally,
    Unit,
    document_of,
)
from seqpair.data.sources.remote import open_stream
from seqpair.data.sources.tables import MOST_FIELD_BYTES, Quoting, delimited_rows, is_tsv, parse_object
from seqpair.data.sources.text import FoundFiles
from seqpair.errors import DataError

KEY = "__key__"
"""The name under which a WebDataset sample's key can be taken as the id."""


class RowSource(FoundFiles):
    """A source of kind `csv` or `webdataset`; one document a row or sample, one unit a file."""

    def units(self) -> list[Unit]:
        """Return one unit a file: neither format can be entered in its middle."""
        return [Unit(file, 0, file.size_bytes, file.size_bytes) for file in self.files]

    def read(self, unit: Unit, tally: Tally) -> Iterator[Document]:
        """Yield a file's documents, row by row.

        Raises:
            DataError: The file cannot be read, is cut off, or a CSV file lacks a column.
        """
        rows = self._csv_rows if self.spec.kind == "csv" else self._tar_rows
        before = tally.bytes_done
        with open_stream(unit.file.path) as (stream, raw):
            for row, record in enumerate(rows(unit.file, stream)):
                tally.rows += 1
                tally.bytes_done = before + raw.tell()
                if isinstance(record, str):
                    tally.reject(record, unit.file.label, row)
                else:
                    yield from document_of(record, self.spec, unit.file.label, row, tally)

    def _csv_rows(self, file: SourceFile, stream: IO[bytes]) -> Iterator[dict[str, object] | str]:
        """Yield the rows below the header, as bytes by column; a reason for those with too few or many columns."""
        tabs, quoting = is_tsv(file.path.name), self.spec.quoting
        origin = f"source {self.spec.name!r}: {file.path}"
        quotes: Quoting = quoting or ("none" if tabs else "double")
        rows = delimited_rows(
            stream,
            origin,
            self.spec.delimiter or ("\t" if tabs else ","),
            quotes,
            check_columns=lambda columns: self._require_columns(file, columns),
        )
        for _, _, row in rows:
            if isinstance(row, str):
                yield row
            else:
                yield {name: value.encode("utf-8", "surrogateescape") for name, value in row.items()}

    def _require_columns(self, file: SourceFile, header: list[str]) -> None:
        wanted = (*self.spec.content_fields, *((self.spec.id_field,) if self.spec.id_field else ()))
        absent = [name for name in wanted if name not in header]
        if absent:
            raise DataError(
                f"source {self.spec.name!r}: {file.path} has no column {absent[0]!r}",
                seen=", ".join(header) or "an empty file",
                allowed="a first line with the columns' names, each once",
                fix="correct `text_field`, `id_field` or `delimiter` in the recipe",
            )

    def _tar_rows(self, file: SourceFile, stream: IO[bytes]) -> Iterator[dict[str, object] | str]:
        """Yield the samples: successive members of one name up to its first dot, by the rest of the name."""
        wanted = {"json" if name.startswith("json.") else name for name in self.spec.content_fields}
        if self.spec.id_field is not None:
            wanted.add("json" if self.spec.id_field.startswith("json.") else self.spec.id_field)
        try:
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as archive:
                members = (member for member in archive if member.isfile() and not _base(member.name).startswith("."))
                for key, group in groupby(members, key=lambda member: _key(member.name)):
                    yield self._sample(archive, key, group, wanted)
        except tarfile.TarError as error:
            raise DataError(
                f"source {self.spec.name!r}: {file.path} is not a tar file, or is cut off",
                seen=error,
                fix="fetch or write the file again",
            ) from error

    def _sample(
        self, archive: tarfile.TarFile, key: str, group: Iterator[tarfile.TarInfo], wanted: set[str]
    ) -> dict[str, object] | str:
        record: dict[str, object] = {KEY: key}
        fault: str | None = None
        for member in group:
            ending = _base(member.name).partition(".")[2]
            if ending not in wanted:
                continue
            if member.size > MOST_FIELD_BYTES:
                fault = TOO_LONG_FIELD
                continue
            opened = archive.extractfile(member)
            data = opened.read() if opened is not None else b""
            if ending != "json":
                record[ending] = data
                continue
            inside = parse_object(data)
            if isinstance(inside, str):
                fault = inside
            else:
                record.update((f"json.{name}", value) for name, value in inside.items())
                record["json"] = data
        return fault or record


class _Header(tarfile.TarInfo):
    """A member's header; the library takes a file that ends where one should stand for a whole archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Header:
        """Read the next header.

        Raises:
            tarfile.ReadError: The file ends without the mark of an archive's end.
        """
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if str(error) == "empty header":
                raise tarfile.ReadError("the mark of the end is missing") from error
            raise


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _key(name: str) -> str:
    """Return what the members of one sample share: the path up to the first dot of the last part."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]
