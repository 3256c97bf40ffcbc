"""Files named on the command line as sources."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from seqpair.data.sources.documents import Source
from seqpair.data.sources.opening import open_source
from seqpair.errors import DataError
from seqpair.recipe.data_spec import SourceSpec

_ENDINGS = {
    "jsonl": (".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson", ".ndjson.gz", ".ndjson.zst"),
    "parquet": (".parquet",),
}


def sources_of_paths(paths: Sequence[Path], text_field: Sequence[str] = ("text",)) -> list[Source]:
    """Open files and folders as sources, one for each path, named after it; nothing of them is held out.

    Args:
        paths: Files or folders. `.jsonl` and `.parquet` are rows, anything else is one document a file.
        text_field: Where rows hold their text.

    Raises:
        DataError: A path is missing, or a folder holds both rows and other files.
    """
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
        found.append(open_source(spec))
    return found


def _kind(path: Path) -> str:
    if not path.exists():
        raise DataError("there is no file or folder", seen=str(path), fix="mend --from")
    files = [path] if path.is_file() else [below for below in path.rglob("*") if below.is_file()]
    kinds = {kind for kind, endings in _ENDINGS.items() if any(file.name.endswith(endings) for file in files)}
    if len(kinds) > 1:
        raise DataError("a folder holds rows of several kinds", seen=str(path), fix="name the files one by one")
    return kinds.pop() if kinds else "text"
