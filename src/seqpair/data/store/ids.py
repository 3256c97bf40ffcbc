"""The ids of a store's documents: by row, and sorted by hash so that a document is found and repeated ids are seen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqpair.data import Numbers
from seqpair.data.store.manifest import DOCUMENTS, ID_HASHES, ID_ROWS
from seqpair.data.store.store import Store

SORTED_AT_ONCE = 1 << 21
"""Hashes that are sorted in memory; more are first spread over files by their upper bits."""
_SPOOL = "ids-unsorted"
_BUCKET_BITS = 8
_PAIR = np.dtype([("hash", "<u8"), ("row", "<i8")])
MOST_SEEN = 1 << 26
"""Hashes that are kept to find repeated ids early, half a gibibyte; all ids are compared when a store is complete."""
KEPT_BYTES = 256 << 20
"""Ids of one store that are kept in memory; past them, row groups are read again whenever they are asked for."""


class IdIndexWriter:
    """Collects the hashes of ids in the order of rows and writes them sorted.

    Args:
        folder: The split's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._waiting: list[NDArray[np.void]] = []
        self._waiting_rows = self._rows = 0
        self._buckets: list[BinaryIO] = []
        self._open = ExitStack()

    def __enter__(self) -> IdIndexWriter:
        """Return the writer; what it spread over files is closed when the block ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
        self._open.__exit__(kind, error, trace)

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Append the hashes of the next rows, (n,)."""
        pairs = np.empty(len(hashes), dtype=_PAIR)
        pairs["hash"] = hashes
        pairs["row"] = np.arange(self._rows, self._rows + len(hashes))
        self._rows += len(hashes)
        self._waiting.append(pairs)
        self._waiting_rows += len(hashes)
        if self._waiting_rows >= SORTED_AT_ONCE:
            self._spread()

    def finish(self) -> None:
        """Write the two files; equal hashes stay in the order of their rows."""
        if self._buckets:
            self._spread()
            self._open.close()
        with (self._folder / ID_HASHES).open("wb") as hashes, (self._folder / ID_ROWS).open("wb") as rows:
            for pairs in self._sorted_pairs():
                hashes.write(pairs["hash"].tobytes())
                rows.write(pairs["row"].tobytes())
        shutil.rmtree(self._folder / _SPOOL, ignore_errors=True)

    def _taken(self) -> NDArray[np.void]:
        pairs = np.concatenate(self._waiting) if self._waiting else np.empty(0, dtype=_PAIR)
        self._waiting, self._waiting_rows = [], 0
        return pairs

    def _spread(self) -> None:
        """Append what waits to the files of its upper bits."""
        if not self._buckets:
            (self._folder / _SPOOL).mkdir()
            names = [self._folder / _SPOOL / f"{index:03d}" for index in range(1 << _BUCKET_BITS)]
            self._buckets = [self._open.enter_context(name.open("wb")) for name in names]
        pairs = self._taken()
        # Bucket i holds the hashes whose upper bits are i, so buckets sorted one by one are sorted together.
        buckets = (pairs["hash"] >> np.uint64(64 - _BUCKET_BITS)).astype(np.int64)
        order = np.argsort(buckets, kind="stable")
        borders = np.searchsorted(buckets[order], np.arange(len(self._buckets) + 1))
        for index, handle in enumerate(self._buckets):
            handle.write(pairs[order[borders[index] : borders[index + 1]]].tobytes())

    def _sorted_pairs(self) -> Iterator[NDArray[np.void]]:
        if not self._buckets:
            pairs = self._taken()
            yield pairs[np.argsort(pairs["hash"], kind="stable")]
            return
        for index in range(len(self._buckets)):
            pairs = np.fromfile(self._folder / _SPOOL / f"{index:03d}", dtype=_PAIR)
            yield pairs[np.argsort(pairs["hash"], kind="stable")]


class SeenHashes:
    """Tells as ids come in whether one of them was there before; it never misses one of the first `MOST_SEEN`.

    The hashes lie in sorted arrays of which each is at least twice as long as the next, so that adding n in all costs
    O(n log n) and looking one up O(log^2 n).
    """

    def __init__(self) -> None:
        self._runs: list[NDArray[np.uint64]] = []

    def add(self, hashes: NDArray[np.uint64]) -> bool:
        """Add hashes, (n,); return whether two of them are equal, or one equals an earlier one."""
        new = np.sort(hashes)
        found = bool((new[1:] == new[:-1]).any())
        for run in self._runs:
            places = np.searchsorted(run, new)
            found |= bool((run[np.minimum(places, len(run) - 1)] == new).any())
        if len(new) and sum(map(len, self._runs)) < MOST_SEEN:
            self._runs.append(new)
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            self._runs.append(np.sort(np.concatenate([self._runs.pop(), self._runs.pop()])))
        return found


def repeated_hashes(folders: Sequence[Path]) -> Iterator[NDArray[np.uint64]]:
    """Yield the hashes that occur more than once in the indexes of several folders together, some at a time."""
    files = [folder / ID_HASHES for folder in folders]
    total = sum(file.stat().st_size // 8 for file in files)
    windows = max(1, -(-total // SORTED_AT_ONCE))
    # Hashes are uniform: windows of equal width hold about equally many of each sorted file.
    edges = [(1 << 64) * index // windows for index in range(1, windows)]
    borders = [[0, *(_first_at_least(file, edge) for edge in edges), file.stat().st_size // 8] for file in files]
    for index in range(windows):
        hashes = np.concatenate(
            [
                np.fromfile(file, dtype="<u8", count=border[index + 1] - border[index], offset=border[index] * 8)
                for file, border in zip(files, borders, strict=True)
            ]
        )
        hashes.sort()
        repeated = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
        if len(repeated):
            yield repeated


def rows_of_hashes(folder: Path, wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the rows, ascending, whose ids have one of some hashes (ascending)."""
    path = folder / ID_HASHES
    if path.stat().st_size == 0:
        return np.empty(0, dtype=np.int64)
    hashes, rows = np.memmap(path, dtype="<u8", mode="r"), np.memmap(folder / ID_ROWS, dtype="<i8", mode="r")
    starts, stops = np.searchsorted(hashes, wanted, side="left"), np.searchsorted(hashes, wanted, side="right")
    found = [rows[start:stop] for start, stop in zip(starts, stops, strict=True)]
    return np.sort(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)


def _first_at_least(file: Path, edge: int) -> int:
    if file.stat().st_size == 0:
        return 0
    return int(np.searchsorted(np.memmap(file, dtype="<u8", mode="r"), np.uint64(edge)))


class DocumentIds:
    """The ids of a store's documents, by row.

    Row groups are kept until `kept_bytes` are full and then no longer: order after order they are asked for in
    turn, where dropping the oldest would keep none of them.

    Args:
        store: The store.
        kept_bytes: The most that is kept.
    """

    def __init__(self, store: Store, kept_bytes: int = KEPT_BYTES) -> None:
        self._file = pq.ParquetFile(store.folder / DOCUMENTS, memory_map=True)
        metadata = self._file.metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts: Numbers = np.cumsum([0, *counts], dtype=np.int64)
        self._kept: dict[int, Any] = {}
        self._room_bytes = kept_bytes

    def take(self, rows: Numbers) -> Any:
        """Return the ids of some rows, in the order asked for.

        Args:
            rows: (S,) int64, each a row of the store.

        Returns:
            A pyarrow string array of S ids.

        Raises:
            IndexError: A row is outside the store.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size == 0:
            return pa.array([], type=pa.string())
        if rows.min() < 0 or rows.max() >= self._starts[-1]:
            raise IndexError(f"rows [{rows.min()}, {rows.max()}] are not all in [0, {self._starts[-1]})")
        # By ascending row each row group is decoded once, however the rows are mixed.
        ascending = np.argsort(rows, kind="stable")
        groups = np.searchsorted(self._starts, rows[ascending], side="right") - 1
        borders = np.flatnonzero(np.diff(groups)) + 1
        found = [
            self._group(int(groups[first])).take(pa.array(rows[ascending[first:stop]] - self._starts[groups[first]]))
            for first, stop in zip([0, *borders], [*borders, rows.size], strict=True)
        ]
        # The inverse of the sort brings the ids back into the order asked for.
        back = np.empty_like(ascending)
        back[ascending] = np.arange(rows.size)
        return pa.concat_arrays(found).take(pa.array(back))

    def _group(self, group: int) -> Any:
        if group in self._kept:
            return self._kept[group]
        ids = pa.concat_arrays(self._file.read_row_group(group, columns=["id"]).column("id").chunks)
        if ids.nbytes <= self._room_bytes:
            self._room_bytes -= ids.nbytes
            self._kept[group] = ids
        return ids
