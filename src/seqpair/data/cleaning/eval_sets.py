"""Evaluation sets as items of text, whatever file they lie in."""

from __future__ import annotations

import csv
import io
import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

from seqpair.data.sources.documents import SourceFile
from seqpair.data.sources.remote import COMPRESSION_SUFFIXES, open_stream
from seqpair.errors import DataError
from seqpair.recipe.cleaning_spec import EvalSetSpec

_TABLES = {".csv": ",", ".tsv": "\t"}
_ARCHIVE = ".zip"


@dataclass(frozen=True, slots=True)
class EvalItem:
    """One item of an evaluation set.

    Attributes:
        file: The label of its file; a member of an archive follows after `!`.
        row: Its 1-based line, row or number in the file.
        texts: Its texts; n-grams do not reach from one to the next.
    """

    file: str
    row: int
    texts: tuple[str, ...]


def eval_files(spec: EvalSetSpec) -> list[SourceFile]:
    """Return the files of an evaluation set, sorted by label; a folder stands for all visible files below it.

    Raises:
        DataError: A path does not exist or holds no file.
    """
    found: set[Path] = set()
    for given in spec.paths:
        path = Path(given)
        if path.is_dir():
            below = (file for file in path.rglob("*") if file.is_file())
            files = [file for file in below if not any(part.startswith(".") for part in file.relative_to(path).parts)]
        elif has_magic(given):
            files = [Path(match) for match in glob(given, recursive=True) if Path(match).is_file()]
        else:
            files = [path] if path.is_file() else []
        if not files:
            raise DataError(
                f"the evaluation set {spec.name!r} has no file at {given!r}",
                seen=str(path.absolute()),
                allowed="a file, a folder with files or a pattern that matches some",
                fix="correct its `paths` under `decontaminate.against`, or leave the set out",
            )
        found.update(file.resolve() for file in files)
    shared = Path(os.path.commonpath([path.parent for path in found]))
    return sorted((SourceFile.of(path, path.relative_to(shared).as_posix()) for path in found), key=lambda f: f.label)


def read_eval_items(spec: EvalSetSpec, file: SourceFile) -> Iterator[EvalItem]:
    """Yield the items of one file that have text.

    Raises:
        DataError: The file is not what its ending says, or lacks a named field.
    """
    if file.path.suffix.lower() == _ARCHIVE:
        assert isinstance(file.path, Path), "evaluation sets are files on disk"
        try:
            with zipfile.ZipFile(file.path) as archive:
                for name in sorted(entry.filename for entry in archive.infolist() if not entry.is_dir()):
                    yield from _items(spec, f"{file.label}!{name}", name, archive.read(name))
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise _unreadable(spec, file.label, error) from error
        return
    with open_stream(file.path) as (stream, _):
        data = stream.read()
    name = file.path.name
    for packed in COMPRESSION_SUFFIXES:
        name = name.removesuffix(packed)
    yield from _items(spec, file.label, name, data)


def _items(spec: EvalSetSpec, label: str, name: str, data: bytes) -> Iterator[EvalItem]:
    text = _decode(data)
    ending = Path(name).suffix.lower()
    try:
        if ending in (".jsonl", ".ndjson"):
            rows = ((number, json.loads(line)) for number, line in enumerate(text.split("\n"), 1) if line.strip())
            pairs: Iterable[tuple[int, list[str]]] = ((n, _json_texts(spec, row, label)) for n, row in rows)
        elif ending == ".json":
            pairs = _json_items(spec, json.loads(text), label)
        elif ending in _TABLES:
            pairs = _table_items(spec, text, _TABLES[ending], label)
        elif spec.plain_items == "line":
            pairs = ((number, [line]) for number, line in enumerate(text.splitlines(), 1))
        else:
            pairs = [(1, [text])]
        for number, texts in pairs:
            kept = tuple(part for part in texts if part.strip())
            if kept:
                yield EvalItem(label, number, kept)
    except (ValueError, RecursionError, csv.Error) as error:
        raise _unreadable(spec, label, error) from error


def _unreadable(spec: EvalSetSpec, label: str, error: Exception) -> DataError:
    return DataError(
        f"the evaluation set {spec.name!r} has a file that cannot be read: {label}",
        seen=error,
        fix="mend or fetch the file again, or leave it out of the set's `paths`",
    )


def _decode(data: bytes) -> str:
    """Return the text; old sets are often in Latin-1, in which every byte is a character."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _json_items(spec: EvalSetSpec, value: object, label: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the items of a JSON file: the entries of a list, else every text in it by itself."""
    if isinstance(value, list):
        for number, entry in enumerate(value, 1):
            yield number, _json_texts(spec, entry, label)
    else:
        for number, text in enumerate(_json_texts(spec, value, label), 1):
            yield number, [text]


def _json_texts(spec: EvalSetSpec, value: object, label: str) -> list[str]:
    if not spec.fields:
        return list(_strings(value))
    texts = [text for field in spec.fields for text in _under_key(value, field)]
    if not texts and not (isinstance(value, dict) and any(field in value for field in spec.fields)):
        raise DataError(
            f"the evaluation set {spec.name!r} has an item without {' or '.join(map(repr, spec.fields))}: {label}",
            seen=", ".join(value) if isinstance(value, dict) else type(value).__name__,
            fix="correct `fields` of the set, or leave them out: then every text counts",
        )
    return texts


def _under_key(value: object, key: str) -> Iterator[str]:
    """Yield the texts below every occurrence of a key, however deep."""
    if isinstance(value, dict):
        for name, inside in value.items():
            yield from _strings(inside) if name == key else _under_key(inside, key)
    elif isinstance(value, list):
        for inside in value:
            yield from _under_key(inside, key)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for inside in value.values() if isinstance(value, dict) else value:
            yield from _strings(inside)


def _table_items(spec: EvalSetSpec, text: str, delimiter: str, label: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a table; tab-separated ones are read without quoting, as evaluation sets are written."""
    if delimiter == "\t":
        rows: Iterator[list[str]] = (line.split("\t") for line in text.splitlines())
    else:
        csv.field_size_limit(max(csv.field_size_limit(), len(text) + 1))
        rows = csv.reader(io.StringIO(text, newline=""))
    columns: list[int] | None = None
    for number, row in enumerate(rows, 1):
        if columns is None:
            columns = _columns(spec, row, label)
            if any(not field.isdecimal() for field in spec.fields):
                continue
        yield number, [row[column] for column in columns if column < len(row)] if spec.fields else row


def _columns(spec: EvalSetSpec, header: list[str], label: str) -> list[int]:
    columns = []
    for field in spec.fields:
        column = header.index(field) if field in header else int(field) if field.isdecimal() else -1
        if not 0 <= column < len(header):
            raise DataError(
                f"the evaluation set {spec.name!r} has no column {field!r}: {label}",
                seen=", ".join(name[:40] for name in header),
                allowed="a name in its first line, or a number from 0",
                fix="correct `fields` of the set",
            )
        columns.append(column)
    return columns
