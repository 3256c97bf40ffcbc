"""Sources made of files: plain text, JSON Lines and Parquet.

A row that cannot be used is counted by its reason and skipped; a file that cannot be read is an error.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from seqpair.data.sources.documents import (
    EMPTY_TEXT,
    MOST_DOCUMENT_BYTES,
    TOO_LONG,
    TOO_LONG_FIELD,
    ContentSource,
    Document,
    SourceFile,
    Tally,
    Unit,
    decode,
    default_id,
    document_of,
    file_groups,
    utf8_bytes,
)
from seqpair.data.sources.remote import (
    COMPRESSION_SUFFIXES,
    RemoteFile,
    find_remote,
    is_url,
    labels_below,
    local_path,
    open_stream,
)
from seqpair.data.sources.tables import INVALID_UTF8, MOST_FIELD_BYTES, parse_object, require_single_columns
from seqpair.errors import DataError
from seqpair.recipe.data_spec import SourceSpec
from seqpair.text import checked_text

_PLAIN_SUFFIXES = {
    "text": (".txt", ".text", ".md"),
    "jsonl": (".jsonl", ".ndjson"),
    "parquet": (".parquet",),
    "csv": (".csv", ".tsv"),
    "webdataset": (".tar",),
}
_PARQUET_ROWS = 256
_BOM = b"\xef\xbb\xbf"

LEAST_UNIT_BYTES = 1 << 22
"""Small enough that the last units keep all workers busy, and that a killed run loses a few seconds."""
MOST_UNIT_BYTES = 1 << 26
_UNITS_A_FILE = 512
_SKIPPED_BYTES = 1 << 20
_PIECE_BYTES = 1 << 20


def suffixes_of(kind: str) -> tuple[str, ...]:
    """Return the file-name endings that a folder is searched for."""
    plain = _PLAIN_SUFFIXES[kind]
    if kind == "parquet":
        return plain
    return plain + tuple(suffix + packed for suffix in plain for packed in COMPRESSION_SUFFIXES)


def find_files(spec: SourceSpec, recipe_folder: Path | None = None) -> list[SourceFile]:
    """Return the files of a source, sorted by label.

    A folder stands for all files below it with one of the kind's suffixes, a pattern (`*`, `?`, `**`)
    for the files it matches, a file for itself whatever its suffix; so does a URL. Hidden files and folders
    are skipped.

    Raises:
        DataError: A path does not exist, a pattern or folder holds no file, or no path is given.
    """
    if not spec.paths:
        raise DataError(
            f"source {spec.name!r} names no files", seen="paths: []", fix="give `paths`: files, folders or patterns"
        )
    urls = [given for given in spec.paths if is_url(given) and local_path(given) is None]
    if urls and len(urls) < len(spec.paths):
        raise DataError(
            f"source {spec.name!r} lies partly here and partly elsewhere",
            seen=", ".join(spec.paths),
            allowed="paths alone, or URLs alone",
            fix="make two sources of it",
        )
    if urls:
        return _find_elsewhere(spec, urls)
    found: set[Path] = set()
    for given in spec.paths:
        found.update(_expand(spec, str(local_path(given) or given), recipe_folder))
    shared = Path(os.path.commonpath([path.parent for path in found]))
    return sorted((SourceFile.of(path, path.relative_to(shared).as_posix()) for path in found), key=lambda f: f.label)


def _find_elsewhere(spec: SourceSpec, urls: Sequence[str]) -> list[SourceFile]:
    """Return the files of URLs, labelled by their path below the URLs' common folder, sorted."""
    endings = suffixes_of(spec.kind)
    found: dict[str, RemoteFile] = {}
    for url in urls:
        files = find_remote(url, endings)
        if not files:
            raise DataError(
                f"source {spec.name!r}: no file of kind {spec.kind!r} at {url!r}",
                seen=url,
                allowed="a file, a pattern, or a folder with files that end in " + ", ".join(endings),
                fix="correct `paths` or `kind` in the recipe",
            )
        found.update((file.url, file) for file in files)
    # A label is part of a store's address, which another signature of the same file must not change.
    labelled = zip(labels_below([str(file) for file in found.values()]), found.values(), strict=True)
    return sorted((SourceFile.of(file, label) for label, file in labelled), key=lambda file: file.label)


def _expand(spec: SourceSpec, given: str, recipe_folder: Path | None) -> list[Path]:
    endings = suffixes_of(spec.kind)
    path = Path(given) if recipe_folder is None else recipe_folder / given
    checked_text(str(path), f"source {spec.name!r}: the path of a file")
    if path.is_file():
        return [path.resolve()]
    if path.is_dir():
        inside = (below for below in path.rglob("*") if not _hidden(below.relative_to(path)))
        files = [below for below in inside if below.name.endswith(endings) and _is_text(str(below)) and below.is_file()]
    elif has_magic(given):
        files = [Path(match) for match in glob(str(path), recursive=True) if _is_text(match) and Path(match).is_file()]
    else:
        raise DataError(
            f"source {spec.name!r}: there is no file or folder {given!r}",
            seen=str(path.absolute()) + (": a device, a pipe or a socket" if path.exists() else ""),
            allowed=f"a path that exists, absolute or relative to {recipe_folder or Path.cwd()}",
            fix="correct `paths` in the recipe",
        )
    if not files:
        raise DataError(
            f"source {spec.name!r}: no file of kind {spec.kind!r} in {given!r}",
            seen=str(path.absolute()),
            allowed="files that end in " + ", ".join(endings) + ", with names in UTF-8",
            fix="correct `paths` or `kind` in the recipe; a file named in full may have any ending",
        )
    return [file.resolve() for file in files]


def files_passed_over(spec: SourceSpec, recipe_folder: Path | None = None) -> list[str]:
    """Return the files in a source's folders that are not read: those with other endings or names that are not UTF-8.

    Hidden files are not listed; they are passed over on purpose.
    """
    found = []
    for given in spec.paths if spec.kind in _PLAIN_SUFFIXES else ():
        path = Path(given) if recipe_folder is None else recipe_folder / given
        if path.is_dir():
            endings = suffixes_of(spec.kind)
            inside = (below for below in path.rglob("*") if not _hidden(below.relative_to(path)))
            found += [
                str(below.relative_to(path))
                for below in inside
                if below.is_file() and not (below.name.endswith(endings) and _is_text(str(below)))
            ]
    return sorted(found)


def _is_text(name: str) -> bool:
    """Return whether a file's name is valid text; one that is not could not be written into a store."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


class FoundFiles(ContentSource):
    """A source whose files are found by its paths."""

    def __init__(self, spec: SourceSpec, recipe_folder: Path | None = None) -> None:
        """Find the files; nothing is read yet.

        Raises:
            DataError: As `find_files`.
        """
        self.spec = spec
        self.files = find_files(spec, recipe_folder)


class FileSource(FoundFiles):
    """A source of kind `text`, `jsonl` or `parquet`."""

    def units(self) -> list[Unit]:
        """Return the units: groups of text files, ranges of lines, runs of row groups.

        A packed file of lines, or one elsewhere, is one unit.

        Raises:
            DataError: A file cannot be read.
        """
        if self.spec.kind == "text":
            return file_groups(self.files, LEAST_UNIT_BYTES)
        cut = self._line_units if self.spec.kind == "jsonl" else self._row_group_units
        return [unit for file in self.files for unit in cut(file)]

    def read(self, unit: Unit, tally: Tally) -> Iterator[Document]:
        """Yield a unit's documents, row by row.

        Raises:
            DataError: A file cannot be read, or a Parquet file lacks a column.
        """
        if self.spec.kind == "jsonl":
            yield from self._read_lines(unit, tally)
        elif self.spec.kind == "parquet":
            yield from self._read_row_groups(unit, tally)
        else:
            for file in self.files[unit.start : unit.stop]:
                yield from (
                    _read_text(file, tally) if self.spec.split is None else _split_text(file, self.spec.split, tally)
                )
                tally.bytes_done += file.size_bytes

    def _line_units(self, file: SourceFile) -> list[Unit]:
        """Cut a file of lines after the first line end past each multiple of the unit's size."""
        size = file.size_bytes
        starts = [0]
        if isinstance(file.path, Path) and file.path.suffix not in COMPRESSION_SUFFIXES:
            with open_stream(file.path) as (stream, _):
                step = _unit_bytes(size)
                while starts[-1] + step < size:
                    stream.seek(starts[-1] + step)
                    _skip_line(stream)
                    starts.append(stream.tell())
        starts = [start for start in starts if start < size or start == 0]
        return [Unit(file, start, stop, stop - start) for start, stop in zip(starts, [*starts[1:], size], strict=True)]

    def _read_lines(self, unit: Unit, tally: Tally) -> Iterator[Document]:
        file, relative = unit.file, unit.start > 0
        packed = file.path.suffix in COMPRESSION_SUFFIXES
        with open_stream(file.path) as (stream, raw):
            if not packed:
                stream.seek(unit.start)
            position = unit.start
            for row, (full, whole) in enumerate(_lines(stream, None if packed else unit.stop, MOST_FIELD_BYTES)):
                tally.unit_rows += 1
                tally.bytes_done += raw.tell() - position
                position = raw.tell()
                line = full if row or relative else full.removeprefix(_BOM)
                if not line.strip():
                    continue
                tally.rows += 1
                record = parse_object(line) if whole else TOO_LONG_FIELD
                if isinstance(record, str):
                    tally.reject(record, file.label, row, line)
                else:
                    yield from document_of(
                        record, self.spec, file.label, row, tally, raw=line, row_is_relative=relative
                    )

    def _row_group_units(self, file: SourceFile) -> list[Unit]:
        """Cut a Parquet file into runs of row groups of about a unit's size."""
        with self._parquet(file) as table:
            sizes = [table.metadata.row_group(index).total_byte_size for index in range(table.num_row_groups)]
        step, total = _unit_bytes(sum(sizes)), max(1, sum(sizes))
        units: list[Unit] = []
        start, before, size = 0, 0, 0
        for index, group_bytes in enumerate(sizes):
            size += group_bytes
            if size >= step or index == len(sizes) - 1:
                ends = [file.size_bytes * at // total for at in (before, before + size)]
                units.append(Unit(file, start, index + 1, ends[1] - ends[0]))
                start, before, size = index + 1, before + size, 0
        return units or [Unit(file, 0, 0, file.size_bytes)]

    def _read_row_groups(self, unit: Unit, tally: Tally) -> Iterator[Document]:
        file = unit.file
        columns = list(dict.fromkeys((*self.spec.text_field, *([self.spec.id_field] if self.spec.id_field else []))))
        with self._parquet(file) as table:
            require_single_columns(table.schema_arrow.names, f"source {self.spec.name!r}: {file.path}")
            absent = [name for name in columns if name not in table.schema_arrow.names]
            if absent:
                raise DataError(
                    f"source {self.spec.name!r}: {file.path} has no column {absent[0]!r}",
                    seen=absent[0],
                    allowed=", ".join(table.schema_arrow.names),
                    fix="correct `text_field` or `id_field` in the recipe",
                )
            groups = range(unit.start, unit.stop)
            counts = [table.metadata.row_group(index).num_rows for index in range(unit.stop)]
            row, rows, done, before = sum(counts[: unit.start]), max(1, sum(counts[unit.start :])), 0, tally.bytes_done
            for batch in table.iter_batches(batch_size=_PARQUET_ROWS, row_groups=groups, columns=columns):
                values = {name: column_values(batch.column(name)) for name in columns}
                for index in range(batch.num_rows):
                    tally.rows += 1
                    record = {name: values[name][index] for name in columns}
                    yield from document_of(record, self.spec, file.label, row + index, tally)
                row, done = row + batch.num_rows, done + batch.num_rows
                tally.bytes_done = before + unit.size_bytes * done // rows

    @contextlib.contextmanager
    def _parquet(self, file: SourceFile) -> Iterator[pq.ParquetFile]:
        """Open a Parquet file; whatever is wrong with its bytes is one error, also while it is read."""
        try:
            with contextlib.ExitStack() as stack:
                place = file.path if isinstance(file.path, Path) else stack.enter_context(file.path.open())
                yield stack.enter_context(pq.ParquetFile(place, page_checksum_verification=True))
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DataError(
                f"source {self.spec.name!r}: {file.path} is not a readable Parquet file",
                seen=str(error).splitlines()[0],
                fix="write the file again, or correct `kind` in the recipe",
            ) from error


def _unit_bytes(file_bytes: int) -> int:
    """Return about how large the units of a file are."""
    return min(max(file_bytes // _UNITS_A_FILE, LEAST_UNIT_BYTES), MOST_UNIT_BYTES)


def _read_text(file: SourceFile, tally: Tally) -> Iterator[Document]:
    with open_stream(file.path) as (stream, _):
        data = stream.read(MOST_DOCUMENT_BYTES + 1).removeprefix(_BOM)
    tally.rows += 1
    text = decode(data) if len(data) <= MOST_DOCUMENT_BYTES else None
    if len(data) > MOST_DOCUMENT_BYTES:
        tally.reject(TOO_LONG, file.label, 0, data)
    elif text is None:
        tally.reject(INVALID_UTF8, file.label, 0, data)
    elif not text or text.isspace():
        tally.reject(EMPTY_TEXT, file.label, 0, data)
    else:
        yield Document(file.label, text, utf8_bytes(text), file.label, 0)


def _split_text(file: SourceFile, split: str, tally: Tally) -> Iterator[Document]:
    """Yield a text file's documents: its lines, its paragraphs, or pieces of about a mebibyte; each known by its line.

    A piece ends with a line. A line above the longest document is cut and refused, and with it its paragraph.
    """
    with open_stream(file.path) as (stream, _):
        for row, piece in _pieces(stream, split):
            data = piece.removeprefix(_BOM) if row == 0 else piece
            if not data.strip():
                continue
            tally.rows += 1
            text = decode(data.strip(b"\r\n") if split == "lines" else data)
            if len(data) > MOST_DOCUMENT_BYTES:
                tally.reject(TOO_LONG, file.label, row, data)
            elif text is None:
                tally.reject(INVALID_UTF8, file.label, row, data)
            elif not text.isspace():
                yield Document(default_id(file.label, row), text, utf8_bytes(text), file.label, row)


def _pieces(stream: IO[bytes], split: str) -> Iterator[tuple[int, bytes]]:
    """Yield pieces with the number of the line that each begins with."""
    kept: list[bytes] = []
    first, size = 0, 0
    for row, (line, _) in enumerate(_lines(stream, None, MOST_DOCUMENT_BYTES + 1)):
        if split == "lines":
            yield row, line
            continue
        blank = split == "blank_lines" and not line.strip()
        if kept and (blank or (split == "bytes" and size + len(line) > _PIECE_BYTES)):
            yield first, b"".join(kept)
            kept, size = [], 0
        if not blank:
            first = first if kept else row
            kept.append(line)
            size += len(line)
    if kept:
        yield first, b"".join(kept)


def _lines(stream: IO[bytes], stop: int | None, most: int) -> Iterator[tuple[bytes, bool]]:
    """Yield the lines that begin before `stop`, and whether each is whole: one without end is cut and skipped."""
    while (stop is None or stream.tell() < stop) and (line := stream.readline(most)):
        whole = len(line) < most or line.endswith(b"\n")
        yield line, whole
        if not whole:
            _skip_line(stream)


def _skip_line(stream: IO[bytes]) -> None:
    """Read to just after the next line end, in bounded memory."""
    while (piece := stream.readline(_SKIPPED_BYTES)) and not piece.endswith(b"\n"):
        pass


def column_values(array: pa.Array) -> list[object]:
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
