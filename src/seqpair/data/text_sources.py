"""Sources made of files: plain text, JSON Lines and Parquet.

Owns how their documents are found and read, one at a time. Must not know tokenizers or stores. A row
that cannot be used is counted by its reason and skipped; a file that cannot be read is an error. Entry
points: `find_files`, `FileSource`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from glob import glob, has_magic
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from seqpair.data.compressed import COMPRESSION_SUFFIXES, open_stream
from seqpair.data.documents import Document, SourceFile, Tally
from seqpair.errors import DataError
from seqpair.recipe.data_spec import SourceSpec

_PLAIN_SUFFIXES = {"text": (".txt", ".text", ".md"), "jsonl": (".jsonl", ".ndjson"), "parquet": (".parquet",)}
_PARQUET_ROWS = 256
_BOM = b"\xef\xbb\xbf"

INVALID_UTF8 = "invalid UTF-8"
NULL_TEXT = "null text"
EMPTY_TEXT = "empty text"
NOT_A_STRING = "text is not a string"
BROKEN_JSON = "broken JSON"
MISSING_FIELD = "missing field"
MISSING_ID = "missing id"


def suffixes_of(kind: str) -> tuple[str, ...]:
    """Return the file-name endings that a folder is searched for."""
    plain = _PLAIN_SUFFIXES[kind]
    if kind == "parquet":
        return plain
    return plain + tuple(suffix + packed for suffix in plain for packed in COMPRESSION_SUFFIXES)


def find_files(spec: SourceSpec, recipe_folder: Path | None = None) -> list[SourceFile]:
    """Return the files of a source, sorted by label.

    A folder stands for all files below it with one of the kind's suffixes, a pattern (`*`, `?`, `**`)
    for the files it matches, a file for itself whatever its suffix. Hidden files and folders are
    skipped.

    Raises:
        DataError: A path does not exist, a pattern or folder holds no file, or no path is given.
    """
    if not spec.paths:
        raise DataError(
            f"source {spec.name!r} names no files", seen="paths: []", fix="give `paths`: files, folders or patterns"
        )
    found: set[Path] = set()
    for given in spec.paths:
        found.update(_expand(spec, given, recipe_folder))
    shared = Path(os.path.commonpath([path.parent for path in found]))
    return sorted((SourceFile.of(path, path.relative_to(shared).as_posix()) for path in found), key=lambda f: f.label)


def _expand(spec: SourceSpec, given: str, recipe_folder: Path | None) -> list[Path]:
    endings = suffixes_of(spec.kind)
    path = Path(given) if recipe_folder is None else recipe_folder / given
    if path.is_file():
        return [path.resolve()]
    if path.is_dir():
        inside = (below for below in path.rglob("*") if not _hidden(below.relative_to(path)))
        files = [below for below in inside if below.name.endswith(endings) and below.is_file()]
    elif has_magic(given):
        files = [Path(match) for match in glob(str(path), recursive=True) if Path(match).is_file()]
    else:
        raise DataError(
            f"source {spec.name!r}: there is no file or folder {given!r}",
            seen=str(path.absolute()),
            allowed=f"a path that exists, absolute or relative to {recipe_folder or Path.cwd()}",
            fix="correct `paths` in the recipe",
        )
    if not files:
        raise DataError(
            f"source {spec.name!r}: no file of kind {spec.kind!r} in {given!r}",
            seen=str(path.absolute()),
            allowed="files that end in " + ", ".join(endings),
            fix="correct `paths` or `kind` in the recipe; a file named in full may have any ending",
        )
    return [file.resolve() for file in files]


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


class FileSource:
    """A source of kind `text`, `jsonl` or `parquet`."""

    def __init__(self, spec: SourceSpec, recipe_folder: Path | None = None) -> None:
        """Find the files; nothing is read yet.

        Raises:
            DataError: As `find_files`.
        """
        self.spec = spec
        self.files = find_files(spec, recipe_folder)
        self.python_version: str | None = None

    def split_key(self, document: Document) -> str:
        """Return the document's text: equal documents fall on the same side of the split."""
        return document.text

    def documents(self, tally: Tally) -> Iterator[Document]:
        """Yield the documents, file by file, row by row.

        Raises:
            DataError: A file cannot be read, or a Parquet file lacks a column.
        """
        readers = {"text": self._read_text, "jsonl": self._read_jsonl, "parquet": self._read_parquet}
        done = 0
        for file in self.files:
            yield from readers[self.spec.kind](file, tally, done)
            done += file.size_bytes
            tally.bytes_done = done

    def _read_text(self, file: SourceFile, tally: Tally, done: int) -> Iterator[Document]:
        with open_stream(file.path) as (stream, _):
            data = stream.read()
        tally.rows += 1
        text = _decode(data.removeprefix(_BOM))
        if text is None:
            tally.reject(INVALID_UTF8, file.label, 0)
        elif not text.strip():
            tally.reject(EMPTY_TEXT, file.label, 0)
        else:
            yield Document(file.label, text, len(text.encode()), file.label, 0)

    def _read_jsonl(self, file: SourceFile, tally: Tally, done: int) -> Iterator[Document]:
        fields = (*self.spec.text_field, *([self.spec.id_field] if self.spec.id_field else []))
        with open_stream(file.path) as (stream, raw):
            for row, line in enumerate(_lines(stream)):
                if not line.strip():
                    continue
                tally.rows += 1
                record = _parse(line)
                if isinstance(record, str):
                    tally.reject(record, file.label, row)
                    continue
                missing = next((name for name in fields if name not in record), None)
                if missing is not None:
                    tally.reject(f"{MISSING_FIELD} {missing!r}", file.label, row)
                    continue
                tally.bytes_done = done + raw.tell()
                yield from self._document(record, file, row, tally)

    def _read_parquet(self, file: SourceFile, tally: Tally, done: int) -> Iterator[Document]:
        columns = list(dict.fromkeys((*self.spec.text_field, *([self.spec.id_field] if self.spec.id_field else []))))
        try:
            with pq.ParquetFile(file.path) as table:
                absent = [name for name in columns if name not in table.schema_arrow.names]
                if absent:
                    raise DataError(
                        f"source {self.spec.name!r}: {file.path} has no column {absent[0]!r}",
                        seen=absent[0],
                        allowed=", ".join(table.schema_arrow.names),
                        fix="correct `text_field` or `id_field` in the recipe",
                    )
                row, rows = 0, max(1, table.metadata.num_rows)
                for batch in table.iter_batches(batch_size=_PARQUET_ROWS, columns=columns):
                    values = {name: _column(batch.column(name)) for name in columns}
                    for index in range(batch.num_rows):
                        tally.rows += 1
                        record = {name: values[name][index] for name in columns}
                        yield from self._document(record, file, row + index, tally)
                    row += batch.num_rows
                    tally.bytes_done = done + file.size_bytes * row // rows
        except pa.ArrowException as error:
            raise DataError(
                f"source {self.spec.name!r}: {file.path} is not a readable Parquet file",
                seen=str(error).splitlines()[0],
                fix="write the file again, or correct `kind` in the recipe",
            ) from error

    def _document(self, record: dict[str, object], file: SourceFile, row: int, tally: Tally) -> Iterator[Document]:
        """Yield the row's document, or count why there is none."""
        texts: list[str] = []
        for name in self.spec.text_field:
            text = _text_of(record[name])
            if text is None or isinstance(text, _Refusal):
                tally.reject(NULL_TEXT if text is None else text.reason, file.label, row)
                return
            texts.append(text)
        joined = "\n\n".join(text for text in texts if text.strip())
        encoded = _encode(joined)
        if not joined.strip():
            tally.reject(EMPTY_TEXT, file.label, row)
        elif encoded is None:
            tally.reject(INVALID_UTF8, file.label, row)
        else:
            document_id = f"{file.label}:{row}"
            if self.spec.id_field is not None:
                given = _id_of(record[self.spec.id_field])
                if given is None:
                    tally.reject(MISSING_ID, file.label, row)
                    return
                document_id = given
            yield Document(document_id, joined, len(encoded), file.label, row)


class _Refusal:
    def __init__(self, reason: str) -> None:
        self.reason = reason


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines of a stream; a byte-order mark before the first is dropped."""
    for row, line in enumerate(stream):
        yield line.removeprefix(_BOM) if row == 0 else line


def _parse(line: bytes) -> dict[str, object] | str:
    """Return a line's JSON object, or the reason why it has none."""
    text = _decode(line)
    if text is None:
        return INVALID_UTF8
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return BROKEN_JSON
    return record if isinstance(record, dict) else BROKEN_JSON


def _decode(data: bytes) -> str | None:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _encode(text: str) -> bytes | None:
    """Return the text's UTF-8 bytes, or None: JSON can smuggle in half of a surrogate pair."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return None


def _text_of(value: object) -> str | None | _Refusal:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        text = _decode(value)
        return _Refusal(INVALID_UTF8) if text is None else text
    return _Refusal(NOT_A_STRING)


def _id_of(value: object) -> str | None:
    """Return an id as text: a non-empty string or a whole number; else None."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, bytes):
        value = _decode(value)
    if isinstance(value, int):
        return str(value)
    return value if isinstance(value, str) and value and _encode(value) is not None else None


def _column(array: pa.Array) -> list[object]:
    """Return a column as Python values, strings as bytes: one bad string must not spoil its batch."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    if pa.types.is_string(kind):
        array = array.view(pa.binary())
    elif pa.types.is_large_string(kind):
        array = array.view(pa.large_binary())
    values: list[object] = array.to_pylist()
    return values
