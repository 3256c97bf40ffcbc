"""One reader for tables of rows: CSV, TSV, JSON Lines, Parquet and CoNLL files, packed or not.

A TSV file is read without quoting, as most are written, and a CSV file with double quotes; a caller may say otherwise.
Sources count the rows that cannot be used; evaluation and fine-tuning refuse the file, since a metric over fewer rows
is another metric.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from seqpair.data.sources.remote import COMPRESSION_SUFFIXES, open_stream
from seqpair.errors import DataError
from seqpair.text import checked_text, decoded_text

Row = dict[str, Any]
Quoting = Literal["double", "none"]
MOST_FIELD_BYTES = 1 << 27
"""A longer line, column or member of an archive is refused."""
BROKEN_ROW = "another number of columns than the header"
INVALID_UTF8 = "invalid UTF-8"
BROKEN_JSON = "broken JSON"


def is_tsv(name: str) -> bool:
    """Return whether a file's name says that tabs part its columns."""
    return ".tsv" in name.lower()


def rows_ending(path: Path) -> str:
    """Return the ending that says how a file of rows is read, without that of its packing; empty if none does."""
    name = path.name.lower()
    for packed in COMPRESSION_SUFFIXES:
        name = name.removesuffix(packed)
    return next((ending for ending in ROW_ENDINGS if name.endswith(ending)), "")


def id_text(value: object) -> str | None:
    """Return an id as text: a non-empty string or a whole number; None for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value else None


def parse_object(line: bytes) -> Row | str:
    """Return a line's JSON object, or the reason why it has none."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return INVALID_UTF8
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return BROKEN_JSON
    return record if isinstance(record, dict) else BROKEN_JSON


def strict_object(text: str, where: str) -> Row:
    """Return a line's JSON object, in which no key stands twice and no text has half of a surrogate pair.

    Args:
        text: The line.
        where: File and line, for messages.

    Raises:
        DataError: The line is something else.
    """
    try:
        value = json.loads(text, object_pairs_hook=lambda pairs: _each_once(pairs, where))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON", seen=error, allowed="one JSON object per line") from error
    if not isinstance(value, dict):
        raise DataError(f"{where} is no JSON object", seen=text[:80], allowed="one JSON object per line")
    if "\\u" in text:  # the only way in which a decoded line can still carry half of a surrogate pair
        _check_texts(value, where)
    return value


def _each_once(pairs: list[tuple[str, Any]], where: str) -> Row:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{where} has two values of one key", seen=repr(twice), fix="keep one of them")
    return found


def _check_texts(value: object, where: str) -> None:
    if isinstance(value, str):
        checked_text(value, where)
    elif isinstance(value, dict):
        for key, inside in value.items():
            checked_text(key, where)
            _check_texts(inside, where)
    elif isinstance(value, list):
        for inside in value:
            _check_texts(inside, where)


def delimited_rows(
    stream: IO[bytes],
    origin: str,
    delimiter: str,
    quoting: Quoting,
    header: Sequence[str] = (),
    check_columns: Callable[[list[str]], None] | None = None,
) -> Iterator[tuple[int, list[str], dict[str, str] | str]]:
    """Yield the rows of a CSV or TSV file: the line a row ends in, the columns' names, and its values by column.

    Bytes that are not UTF-8 come as lone surrogates, so that a caller may refuse one row alone. A row with another
    number of columns than the header gives a reason in place of values. Empty lines are passed over.

    Args:
        stream: The file's bytes; left open.
        origin: What to call the file, for messages.
        delimiter: The character between columns.
        quoting: `double`: a column may stand in double quotes, which may hold delimiters and line ends; `none`: a
            quote is a character as any other.
        header: The columns' names where the first line is a row already.
        check_columns: Called with the columns' names before the first row.

    Raises:
        DataError: The file is no such table, or has two columns of one name.
    """
    csv.field_size_limit(MOST_FIELD_BYTES)
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    if quoting == "none":
        rows = csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    else:
        rows = csv.reader(text, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL, strict=True)
    try:
        columns = [checked_text(name, f"{origin}, line 1") for name in (list(header) or next(rows, []))]
        if len(set(columns)) < len(columns):
            raise DataError(
                f"{origin} has two columns of one name",
                seen=", ".join(columns),
                allowed="a first line with the columns' names, each once",
                fix="rename one of the columns",
            )
        if check_columns is not None:
            check_columns(columns)
        for values in rows:
            if values:
                whole = len(values) == len(columns)
                yield rows.line_num, columns, dict(zip(columns, values, strict=True)) if whole else BROKEN_ROW
    except csv.Error as error:
        raise DataError(
            f"{origin} is not readable as CSV",
            seen=f"line {rows.line_num}: {error}",
            allowed="columns in double quotes where they hold the delimiter, a quote (doubled) or a line end",
            fix="write the file again, or correct `delimiter` or `quoting` (`none`: quotes are text)",
        ) from error
    finally:
        with contextlib.suppress(ValueError):  # whoever opened the stream may have closed it already
            text.detach()


def require_single_columns(names: Sequence[str], origin: str) -> None:
    """Refuse a Parquet file with two columns of one name, which no row can hold by name.

    Raises:
        DataError: It has two.
    """
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise DataError(
            f"{origin} has two columns of one name", seen=", ".join(twice), fix="write the file with each name once"
        )


def table_rows(
    path: Path, header: Sequence[str] = (), columns: Sequence[str] = (), quoting: Quoting | None = None
) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a file, each with where it stands, for messages; a row that does not fit is an error.

    Args:
        path: A file of one of the formats above; another ending is read as JSON Lines.
        header: The columns of a TSV or CSV file whose first line is a row already.
        columns: The columns that every row must have.
        quoting: How a TSV or CSV file is quoted, if not as the formats usually are.

    Raises:
        DataError: The file cannot be read, or a row lacks a column.
    """
    ending = rows_ending(path)
    reader = _READERS.get(ending, _json_rows)
    with _file_faults(path):
        for number, row in reader(path, header, quoting):
            missing = [name for name in columns if name not in row]
            if missing:
                raise DataError(
                    f"{path}, line {number} lacks a column",
                    seen=f"no {', no '.join(missing)}; it has {', '.join(map(str, row))}",
                    allowed=", ".join(columns),
                )
            yield f"{path}, line {number}", row


def require_finite(path: Path) -> None:
    """Refuse a device, and a pipe other than one that the shell has opened: reading it might never end.

    Raises:
        DataError: It is one.
        OSError: There is no such file.
    """
    mode, is_open = path.stat().st_mode, str(path).startswith(("/dev/fd/", "/dev/stdin", "/proc/self/fd/"))
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or (stat.S_ISFIFO(mode) and is_open)):
        raise DataError(
            f"{path} is no file", seen="a device, a pipe or a socket", allowed="a file", fix="write the rows to a file"
        )


@contextlib.contextmanager
def _file_faults(path: Path) -> Iterator[None]:
    try:
        require_finite(path)
        yield
    except FileNotFoundError as error:
        raise DataError("there is no such file", seen=path, fix="check the path") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read", seen=error.strerror, fix="give a file that can be read") from error
    except pa.ArrowException as error:
        raise DataError(
            f"{path} is not a readable Parquet file",
            seen=str(error).splitlines()[0],
            fix="write the file again, or correct its name or `kind`",
        ) from error


_Rows = Iterator[tuple[int, Row]]


def _delimited(path: Path, header: Sequence[str], quoting: Quoting | None) -> _Rows:
    tabs = is_tsv(path.name)
    with open_stream(path) as (stream, _):
        rows = delimited_rows(
            stream, str(path), "\t" if tabs else ",", quoting or ("none" if tabs else "double"), header
        )
        for number, columns, row in rows:
            if isinstance(row, str):
                raise DataError(
                    f"{path}, line {number} has {row}",
                    allowed=f"{len(columns)}: {', '.join(columns)}",
                    fix="quote what holds the delimiter, or write JSON Lines",
                )
            for name, value in row.items():
                checked_text(value, f"{path}, line {number}, column {name!r}")
            yield number, dict(row)


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    with open_stream(path) as (stream, _):
        for number, line in enumerate(iter(lambda: stream.readline(MOST_FIELD_BYTES), b""), 1):
            if len(line) == MOST_FIELD_BYTES and not line.endswith(b"\n"):
                raise DataError(f"{path}, line {number} is longer than 128 MiB", fix="cut it into rows")
            text = decoded_text(line, f"{path}, line {number}")
            yield number, text.removeprefix("\ufeff") if number == 1 else text


def _json_rows(path: Path, _header: Sequence[str], _quoting: Quoting | None) -> _Rows:
    for number, line in _text_lines(path):
        if line.strip():
            yield number, strict_object(line, f"{path}, line {number}")


def _parquet(path: Path, _header: Sequence[str], _quoting: Quoting | None) -> _Rows:
    """Yield the rows, numbered from 1; texts are checked, since Parquet does not promise that they are UTF-8."""
    with pq.ParquetFile(path, page_checksum_verification=True) as table:
        require_single_columns(table.schema_arrow.names, str(path))
        number = 0
        for batch in table.iter_batches(batch_size=256):
            try:
                rows = batch.to_pylist()
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}, a row from {number + 1} to {number + batch.num_rows} is not valid Unicode text",
                    seen=error,
                    fix="write the text as UTF-8",
                ) from error
            for row in rows:
                number += 1
                yield number, row


def _conll(path: Path, _header: Sequence[str], _quoting: Quoting | None) -> _Rows:
    """Yield sentences: one word a line, its tag last, an empty line between sentences."""
    words: list[str] = []
    tags: list[str] = []
    number = 0
    for number, line in _text_lines(path):
        parts = line.split()
        if parts and parts[0] != "-DOCSTART-":
            if len(parts) < 2:
                raise DataError(f"{path}, line {number} has no tag", seen=line.strip(), allowed="a word and its tag")
            words.append(parts[0])
            tags.append(parts[-1])
        elif words:
            yield number - 1, {"words": words, "tags": tags}
            words, tags = [], []
    if words:
        yield number, {"words": words, "tags": tags}


_READERS: dict[str, Callable[[Path, Sequence[str], Quoting | None], _Rows]] = {
    ".tsv": _delimited,
    ".csv": _delimited,
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".parquet": _parquet,
    ".conll": _conll,
}
ROW_ENDINGS = tuple(_READERS)
"""The endings of the files that `table_rows` reads."""
