"""Sources made of Mosaic Data Shards: text, or token ids as the original's data were published."""

from __future__ import annotations

import os
from collections.abc import Iterator
from glob import glob, has_magic
from pathlib import Path

import numpy as np

from seqpair.data.sources.documents import (
    ContentSource,
    Document,
    SourceFile,
    Tally,
    Unit,
    default_id,
    document_of,
    id_of_record,
)
from seqpair.data.sources.mds_format import INDEX, MdsShard, ShardEntry, packing_of, read_mds_index, read_samples
from seqpair.data.sources.remote import AnyFile, find_remote, is_url, join_url, labels_below, local_path, look_at_url
from seqpair.errors import DataError
from seqpair.recipe.data_spec import SourceSpec


class MdsSource(ContentSource):
    """A source of kind `mds`; one document a sample, one unit a shard."""

    def __init__(self, spec: SourceSpec, recipe_folder: Path | None = None) -> None:
        """Find the folders and read their indexes; the shards are read later.

        Raises:
            DataError: A folder, an index or a shard is missing, or an index is damaged.
        """
        self.spec = spec
        shards = [shard for index in _find_indexes(spec, recipe_folder) for shard in _shards_of(spec, index)]
        if not shards:
            raise DataError(
                f"source {spec.name!r} is empty: its indexes name no shard",
                seen=", ".join(spec.paths),
                fix="correct `paths` in the recipe, or write the shards again",
            )
        labels = labels_below([str(shard.file) for shard in shards])
        self._shards = dict(sorted(zip(labels, shards, strict=True), key=lambda pair: pair[0]))
        self.files = [SourceFile.of(shard.file, label) for label, shard in self._shards.items()]

    def units(self) -> list[Unit]:
        """Return one unit a shard; start and stop count samples."""
        return [Unit(file, 0, self._shards[file.label].entry.samples, file.size_bytes) for file in self.files]

    def read(self, unit: Unit, tally: Tally) -> Iterator[Document]:
        """Yield a shard's documents, sample by sample.

        Raises:
            DataError: The shard lacks a column, or is damaged or cut off.
        """
        spec, label = self.spec, unit.file.label
        names = tuple(dict.fromkeys((*((spec.id_field,) if spec.id_field else ()), *spec.content_fields)))
        before, samples = tally.bytes_done, max(1, unit.stop)
        for row, values in enumerate(read_samples(self._shards[label], names, spec.ids_dtype)):
            tally.rows += 1
            tally.bytes_done = before + unit.size_bytes * (row + 1) // samples
            record = dict(zip(names, values, strict=True))
            if spec.ids_field is None:
                yield from document_of(record, spec, label, row, tally)
                continue
            ids = record.pop(spec.ids_field)
            if not isinstance(ids, np.ndarray):
                raise DataError(
                    f"source {spec.name!r}: the column {spec.ids_field!r} of {unit.file.path} holds no token ids",
                    seen=f"{type(ids).__name__} in the first sample",
                    allowed="an array of whole numbers",
                    fix="name it under `text_field` if it is text; arrays stored as plain bytes need `ids_dtype`",
                )
            given = id_of_record(record, spec, label, row, tally)
            if given is not None:
                yield Document(given or default_id(label, row), "", 0, label, row, ids=ids)


def _find_indexes(spec: SourceSpec, recipe_folder: Path | None) -> list[AnyFile]:
    """Return the indexes that a source's paths stand for.

    A folder stands for its own index (which may cover sub-folders) or, without one, for all those below
    it; an index file for itself.

    Raises:
        DataError: A path has no index.
    """
    if not spec.paths:
        raise DataError(f"source {spec.name!r} names no folder", seen="paths: []", fix="give `paths`: MDS folders")
    found: dict[str, AnyFile] = {}
    for given in spec.paths:
        indexes = _indexes_at(str(local_path(given) or given), recipe_folder)
        if not indexes:
            raise DataError(
                f"source {spec.name!r}: there is no {INDEX} in {given!r} or below it",
                seen=given,
                allowed=f"a folder with {INDEX} and the shards that it names, or with such folders",
                fix="correct `paths` in the recipe; the index is published beside the shards",
            )
        found.update((str(index), index) for index in indexes)
    return [found[name] for name in sorted(found)]


def _indexes_at(given: str, recipe_folder: Path | None) -> list[AnyFile]:
    if is_url(given):
        if not given.endswith(INDEX):
            own = look_at_url(join_url(given, INDEX))
            return [own] if own is not None else list(find_remote(given.rstrip("/") + "/", (f"/{INDEX}",)))
        return [file for file in [look_at_url(given)] if file is not None]
    path = Path(given) if recipe_folder is None else recipe_folder / given
    places = [Path(match) for match in sorted(glob(str(path), recursive=True))] if has_magic(given) else [path]
    found: list[AnyFile] = []
    for place in places:
        if place.is_file() and place.name == INDEX:
            found.append(place.resolve())
        elif (place / INDEX).is_file():
            found.append((place / INDEX).resolve())
        else:
            found.extend(below.resolve() for below in place.rglob(INDEX))
    return found


def _shards_of(spec: SourceSpec, index: AnyFile) -> Iterator[MdsShard]:
    """Yield the shards of an index, each raw where the raw file is there, else packed."""
    for entry in read_mds_index(index):
        if entry.samples == 0:
            continue
        raw = _beside(index, entry.raw_data.basename)
        packed = None if entry.zip_data is None else _beside(index, entry.zip_data.basename)
        if raw is not None:
            yield MdsShard(raw, None, entry)
        elif packed is not None:
            yield MdsShard(packed, packing_of(entry), entry)
        else:
            raise _missing(spec, index, entry)


def _missing(spec: SourceSpec, index: AnyFile, entry: ShardEntry) -> DataError:
    names = [file.basename for file in (entry.zip_data, entry.raw_data) if file is not None]
    return DataError(
        f"source {spec.name!r}: a shard that {index} names is missing",
        seen=f"no {' and no '.join(names)}",
        fix="fetch the missing shard, or the whole folder again",
    )


def _beside(index: AnyFile, name: str) -> AnyFile | None:
    """Return the file of a name beside an index, if it is there."""
    if isinstance(index, Path):
        path = index.parent / name
        return path if path.is_file() and os.access(path, os.R_OK) else None
    return look_at_url(join_url(index.url.removesuffix(INDEX), name))
