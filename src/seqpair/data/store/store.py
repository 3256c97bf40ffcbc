"""A store: one split of one source as memory-mapped tokens."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from seqpair.data.store.counts import manifest_stats
from seqpair.data.store.manifest import DOCUMENTS, ID_HASHES, ID_ROWS, OFFSETS, TOKENS, StoreManifest, read_manifest
from seqpair.data.store.pieces import PieceIndex
from seqpair.errors import StoreError
from seqpair.files import file_digest, hash64
from seqpair.recipe.plan import StoreStats


class Store:
    """One split of one source; open it with `Store.open`.

    Attributes:
        folder: Where it lies.
        manifest: What it says of itself.
        tokens: Content tokens of all documents end to end, uint16 or uint32 (tokens,), read-only.
        offsets: Token offsets of the documents, int64 (documents + 1,), read-only.
    """

    def __init__(self, folder: Path, manifest: StoreManifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.tokens = _mapped(folder / TOKENS, "<u2" if manifest.dtype == "uint16" else "<u4")
        self.offsets: npt.NDArray[np.int64] = _mapped(folder / OFFSETS, "<i8")
        self._hashes: npt.NDArray[np.uint64] = _mapped(folder / ID_HASHES, "<u8")
        self._rows: npt.NDArray[np.int64] = _mapped(folder / ID_ROWS, "<i8")
        self._table: pq.ParquetFile | None = None
        self._group_starts: npt.NDArray[np.int64] = np.zeros(1, dtype=np.int64)
        self._group: tuple[int, Any] = (-1, None)
        self._pieces: dict[int, PieceIndex] = {}

    @classmethod
    def open(cls, folder: Path, *, verify: bool = False) -> Store:
        """Open a store; the sizes of its files are always checked, with `verify` also their SHA-256.

        Raises:
            StoreError: The store is missing, damaged, of another format, or was changed.
        """
        manifest = read_manifest(folder)
        for name, entry in manifest.files.items():
            path = folder / name
            seen = path.stat().st_size if path.is_file() else None
            if seen != entry.bytes:
                raise _changed(path, "no file" if seen is None else f"{seen} bytes", f"{entry.bytes} bytes")
            if verify and (digest := file_digest(path)) != entry.sha256:
                raise _changed(path, f"SHA-256 {digest}", f"SHA-256 {entry.sha256}")
        return cls(folder, manifest)

    def require_tokenizer(self, digest: str) -> None:
        """Check that the store was made with this tokenizer.

        Raises:
            StoreError: It was made with another one.
        """
        if self.manifest.tokenizer_digest != digest:
            raise StoreError(
                f"the store {self.folder} is a store made with another tokenizer",
                seen=f"tokenizer {self.manifest.tokenizer_digest[:12]}",
                allowed=f"tokenizer {digest[:12]}",
                fix="run `seqpair prepare` with this recipe, or use the tokenizer that the store was made with",
            )

    def document_tokens(self, row: int) -> npt.NDArray[np.integer[Any]]:
        """Return a document's content tokens, a view of `tokens`.

        Raises:
            IndexError: There is no such row.
        """
        self._require_row(row)
        return self.tokens[self.offsets[row] : self.offsets[row + 1]]

    def document_id(self, row: int) -> str:
        """Return a document's id.

        Raises:
            IndexError: There is no such row.
        """
        self._require_row(row)
        if self._table is None:
            self._table = pq.ParquetFile(self.folder / DOCUMENTS, memory_map=True)
            metadata = self._table.metadata
            counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            self._group_starts = np.cumsum([0, *counts], dtype=np.int64)
        group = int(np.searchsorted(self._group_starts, row, side="right")) - 1
        if self._group[0] != group:  # one small column: starting threads for it costs more than reading it
            self._group = (group, self._table.read_row_group(group, columns=["id"], use_threads=False).column("id"))
        document_id: str = self._group[1][row - int(self._group_starts[group])].as_py()
        return document_id

    def row_of(self, document_id: str) -> int:
        """Return the row of a document.

        Raises:
            StoreError: The store has no document of this id.
        """
        wanted = np.uint64(hash64(document_id))
        for index in range(int(np.searchsorted(self._hashes, wanted)), len(self._hashes)):
            if self._hashes[index] != wanted:
                break
            row = int(self._rows[index])
            if self.document_id(row) == document_id:
                return row
        manifest = self.manifest
        raise StoreError(
            f"the store of {manifest.source!r} ({manifest.split}) has no document of this id",
            seen=repr(document_id),
            allowed=f"ids such as {self.document_id(0)!r}" if manifest.documents else "none: it is empty",
            fix="look the id up in documents.parquet; it may be in another source or split",
        )

    def pieces(self, seq_len: int) -> PieceIndex:
        """Return the index of this store's sequences at a sequence length; kept beside the store."""
        if seq_len not in self._pieces:
            self._pieces[seq_len] = PieceIndex.open(self.folder, self.offsets, seq_len)
        return self._pieces[seq_len]

    def stats(self, seq_lens: Iterable[int]) -> StoreStats:
        """Return the counts that a plan is made from."""
        return manifest_stats(self.manifest, self.folder, seq_lens)

    def _require_row(self, row: int) -> None:
        if not 0 <= row < self.manifest.documents:
            raise IndexError(f"row {row} is outside the store's {self.manifest.documents} documents")


def _mapped(path: Path, dtype: str) -> npt.NDArray[Any]:
    """Map a flat file; an empty file, which cannot be mapped, is an empty array."""
    if path.stat().st_size == 0:
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r")


def _changed(path: Path, seen: str, allowed: str) -> StoreError:
    return StoreError(
        f"a changed store: {path} is not as it was written",
        seen=seen,
        allowed=allowed,
        fix=f"delete the folder {path.parent.parent} and run `seqpair prepare` again",
    )
