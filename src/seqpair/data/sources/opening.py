"""Opening a source: one named in a recipe by its kind, or files named on the command line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from seqpair.data.sources.documents import Document, Source, Tally, documents, is_held_out
from seqpair.data.sources.hub import HubSource
from seqpair.data.sources.mds import MdsSource
from seqpair.data.sources.python import PythonSource
from seqpair.data.sources.rows import RowSource
from seqpair.data.sources.text import FileSource
from seqpair.errors import DataError
from seqpair.recipe.data_spec import SourceSpec

_ENDINGS = {
    "jsonl": (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson", ".ndjson.gz", ".ndjson.zst"),
    "parquet": (".parquet",),
    "csv": tuple(f"{name}{packed}" for name in (".csv", ".tsv") for packed in ("", ".gz", ".zst")),
}


def open_source(spec: SourceSpec, recipe_folder: Path | None = None) -> Source:
    """Open a source for reading; files are found now and read later.

    Args:
        spec: What the recipe says of it.
        recipe_folder: What relative paths are relative to; by default the current folder.

    Raises:
        DataError: A path is missing, or a kind's own demands are not met.
    """
    if spec.kind == "python":
        return PythonSource(spec)
    if spec.kind == "mds":
        return MdsSource(spec, recipe_folder)
    if spec.kind == "hub":
        return HubSource(spec, recipe_folder)
    if spec.kind in ("csv", "webdataset"):
        return RowSource(spec, recipe_folder)
    return FileSource(spec, recipe_folder)


def training_documents(source: Source, tally: Tally | None = None) -> Iterator[Document]:
    """Yield a source's documents that are not held out; what was refused, and how far it is, go to the tally."""
    for document in documents(source, tally or Tally()):
        if not is_held_out(source.split_key(document), source.spec.held_out_frac):
            yield document


def sources_of_paths(paths: Sequence[Path], text_field: Sequence[str] = ("text",)) -> list[Source]:
    """Open files and folders as sources, one for each path, named after it; nothing of them is held out.

    Args:
        paths: Files or folders. `.jsonl`, `.parquet`, `.csv` and `.tsv` are rows, others are one document per file.
        text_field: Where rows hold their text.

    Raises:
        DataError: A path is missing, empty or there twice, or a folder holds both rows and other files.
    """
    if len({path.resolve() for path in paths}) < len(paths):
        raise DataError("a file or folder is named twice", seen=", ".join(map(str, paths)), fix="name each once")
    found: list[Source] = []
    names: set[str] = set()
    for path in paths:
        bare = re.sub(r"[^A-Za-z0-9_-]+", "-", path.name.split(".")[0]).strip("-_") or "text"
        name = next(
            each for each in (bare, *(f"{bare}-{number}" for number in range(2, len(paths) + 2))) if each not in names
        )
        names.add(name)
        kind = _kind(path)
        options = {} if kind == "text" else {"text_field": tuple(text_field)}
        spec = SourceSpec(name=name, kind=kind, paths=(str(path.absolute()),), held_out_frac=0.0, **options)
        source = open_source(spec)
        if not any(file.size_bytes for file in source.files):
            raise DataError("there is no text", seen=str(path), fix="name a file or folder that contains text")
        found.append(source)
    return found


def _kind(path: Path) -> str:
    if not path.exists():
        raise DataError("there is no file or folder", seen=str(path), fix="check the path")
    files = [path] if path.is_file() else [below for below in path.rglob("*") if below.is_file()]
    kinds = {kind for kind, endings in _ENDINGS.items() if any(file.name.endswith(endings) for file in files)}
    if len(kinds) > 1:
        raise DataError("a folder holds rows of several kinds", seen=str(path), fix="name the files one by one")
    return kinds.pop() if kinds else "text"
