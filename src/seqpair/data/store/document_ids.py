"""Document ids of many rows of a store at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqpair.data.store.manifest import DOCUMENTS
from seqpair.data.store.store import Store

Numbers = NDArray[np.int64]

KEPT_BYTES = 256 << 20
"""Ids of one store that are kept in memory; past them, row groups are read again whenever they are asked for."""


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
        ascending = np.argsort(rows, kind="stable")
        groups = np.searchsorted(self._starts, rows[ascending], side="right") - 1
        borders = np.flatnonzero(np.diff(groups)) + 1
        found = [
            self._group(int(groups[first])).take(pa.array(rows[ascending[first:stop]] - self._starts[groups[first]]))
            for first, stop in zip([0, *borders], [*borders, rows.size], strict=True)
        ]
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
