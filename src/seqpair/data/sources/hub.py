"""Sources that are Hugging Face data sets: on the hub by name, downloaded or streamed, or in a local folder.

A set on the hub is pinned to a commit, so its address needs no download; a local folder is known by the hashes of its
files.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from seqpair.data.sources.documents import (
    NULL_TEXT,
    ContentSource,
    Document,
    SourceFile,
    Tally,
    Unit,
    default_id,
    document_of,
    id_of_record,
)
from seqpair.data.sources.remote import PINNED, RemoteFile, local_path
from seqpair.data.sources.text import column_values
from seqpair.errors import DataError, needs_extra
from seqpair.recipe.data_spec import SourceSpec

_UNIT_ROWS = 10_000
_BATCH_ROWS = 256


class HubSource(ContentSource):
    """A source of kind `hub`; units are ranges of rows, or the set's own shards where it is streamed."""

    def __init__(self, spec: SourceSpec, recipe_folder: Path | None = None) -> None:
        """Say where the data set is; it is loaded when it is first read.

        Raises:
            DataError: The local folder is missing or empty.
        """
        self.spec = spec
        self._split = spec.split or "train"
        if spec.dataset is not None:
            self._folder: Path | None = None
            pinned = RemoteFile(f"hf://datasets/{spec.dataset}@{spec.revision}", 0, f"{PINNED}{spec.revision}")
            self.files = [SourceFile.of(pinned, spec.dataset)]
        else:
            self._folder = _folder_of(spec, recipe_folder)
            found = sorted(path for path in self._folder.rglob("*") if path.is_file() and _counts(path, self._folder))
            self.files = [SourceFile.of(path, path.relative_to(self._folder).as_posix()) for path in found]
            if not self.files:
                raise DataError(
                    f"source {spec.name!r}: the folder has no files",
                    seen=str(self._folder),
                    fix="correct `paths` in the recipe, or download the data set again",
                )

    def units(self) -> list[Unit]:
        """Return the units; start and stop count shards of a streamed set, else rows.

        Raises:
            DataError: The data set cannot be loaded.
        """
        count = self._data.num_shards if self.spec.stream else self._data.num_rows
        step = 1 if self.spec.stream else _UNIT_ROWS
        size = sum(file.size_bytes for file in self.files)
        edges = [*range(0, count, step), count] if count else [0, 0]
        ends = [size * edge // max(1, count) for edge in edges]
        return [Unit(self.files[0], edges[at], edges[at + 1], ends[at + 1] - ends[at]) for at in range(len(edges) - 1)]

    def read(self, unit: Unit, tally: Tally) -> Iterator[Document]:
        """Yield a unit's documents, row by row.

        Raises:
            DataError: The data set cannot be loaded or read, or lacks a column.
        """
        spec = self.spec
        columns = list(dict.fromkeys((*spec.content_fields, *((spec.id_field,) if spec.id_field else ()))))
        label = f"{self._split}-{unit.start:05d}" if spec.stream else self._split
        row = 0 if spec.stream else unit.start
        with self._faults():
            for table in self._tables(unit):
                self._require_columns(columns, table)
                values = {name: _values(table.column(name), name == spec.ids_field) for name in columns}
                for index in range(table.num_rows):
                    tally.rows += 1
                    record = {name: values[name][index] for name in columns}
                    yield from self._document(record, label, row + index, tally)
                row += table.num_rows

    def _document(self, record: dict[str, object], label: str, row: int, tally: Tally) -> Iterator[Document]:
        if self.spec.ids_field is None:
            yield from document_of(record, self.spec, label, row, tally)
            return
        ids = record.pop(self.spec.ids_field)
        if not isinstance(ids, np.ndarray):
            tally.reject(NULL_TEXT, label, row)
            return
        given = id_of_record(record, self.spec, label, row, tally)
        if given is not None:
            yield Document(given or default_id(label, row), "", 0, label, row, ids=ids)

    def _tables(self, unit: Unit) -> Iterator[pa.Table]:
        if self.spec.stream:
            data = self._data.shard(num_shards=self._data.num_shards, index=unit.start)
            yield from data.with_format("arrow").iter(batch_size=_BATCH_ROWS)
            return
        data = self._data.with_format("arrow")
        for start in range(unit.start, unit.stop, _BATCH_ROWS):
            yield data[start : min(start + _BATCH_ROWS, unit.stop)]

    @cached_property
    def _data(self) -> Any:
        with self._faults():
            library = _library(self.spec)
            if self._folder is not None and (self._folder / "state.json").is_file():
                if not any(self._folder.glob("*.arrow")):  # the library would only say that an index is out of range
                    raise ValueError("the saved set is empty: its folder has no .arrow file")
                return self._of_saved(library.load_from_disk(str(self._folder)))
            if self._folder is not None and (self._folder / "dataset_dict.json").is_file():
                saved = library.load_from_disk(str(self._folder))
                if self._split not in saved:
                    raise ValueError(f"no split {self._split!r}; it has {', '.join(saved)}")
                return self._of_saved(saved[self._split])
            return library.load_dataset(
                str(self._folder) if self._folder is not None else self.spec.dataset,
                name=self.spec.config,
                split=self._split,
                revision=self.spec.revision,
                streaming=self.spec.stream,
            )

    def _of_saved(self, saved: Any) -> Any:
        """Return a saved set, streamed if that was asked for: a memory-mapped file needs no download either way."""
        return saved.to_iterable_dataset(num_shards=max(1, len(saved.cache_files))) if self.spec.stream else saved

    def _require_columns(self, columns: list[str], table: pa.Table) -> None:
        absent = [name for name in columns if name not in table.column_names]
        if absent:
            raise DataError(
                f"source {self.spec.name!r} has no column {absent[0]!r}",
                seen=absent[0],
                allowed=", ".join(table.column_names),
                fix="correct `text_field`, `ids_field` or `id_field` in the recipe",
            )

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Turn what loading raises into one error; builders raise many kinds."""
        try:
            yield
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"source {self.spec.name!r}: the data set {self.spec.dataset or self._folder} cannot be loaded or read",
                seen=_innermost(error),
                allowed="a data set that `datasets.load_dataset` or `load_from_disk` loads",
                fix="correct `dataset`, `paths`, `config`, `split` or `revision` in the recipe, or check the network",
            ) from error


def _innermost(error: BaseException) -> str:
    """Return what began a chain of errors: builders say "an error occurred" and keep the reason inside."""
    while (inside := error.__cause__ or error.__context__) is not None:
        error = inside
    return f"{type(error).__name__}: {str(error).strip() or 'no message'}"


def _library(spec: SourceSpec) -> Any:
    """Return the `datasets` library, without its progress bars."""
    with needs_extra(f"source {spec.name!r} of kind 'hub'", "datasets", DataError):
        import datasets
    datasets.disable_progress_bars()
    return datasets


def _folder_of(spec: SourceSpec, recipe_folder: Path | None) -> Path:
    given = spec.paths[0] if spec.paths else ""
    path = local_path(given) or Path(given)
    path = path if recipe_folder is None else recipe_folder / path
    if not given or not path.is_dir():
        raise DataError(
            f"source {spec.name!r}: there is no folder {given!r}",
            seen=str(path.absolute()),
            allowed="a folder that `save_to_disk` wrote, or one with data files",
            fix="correct `paths` in the recipe; a set on the hub is named by `dataset`",
        )
    return path.resolve()


def _counts(path: Path, folder: Path) -> bool:
    """Return whether a file belongs to the data: hidden ones and the library's own caches do not."""
    inside = path.relative_to(folder)
    return not any(part.startswith(".") for part in inside.parts) and not path.name.startswith("cache-")


def _values(column: pa.ChunkedArray, are_ids: bool) -> list[Any]:
    """Return a column's values: strings as bytes, token ids as int64 arrays, None where there is none."""
    whole = column.combine_chunks()
    array = whole if isinstance(whole, pa.Array) else pa.concat_arrays(whole.chunks)
    if not are_ids:
        return column_values(array)
    if not (pa.types.is_list(array.type) or pa.types.is_large_list(array.type)) or not pa.types.is_integer(
        array.type.value_type
    ):
        raise ValueError(f"the column of token ids holds {array.type}, not lists of whole numbers")
    return [
        None if value.values is None else value.values.to_numpy(zero_copy_only=False).astype(np.int64)
        for value in array
    ]
