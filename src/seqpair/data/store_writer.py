"""Writing one split of a source as a store, document by document, in bounded memory.

Owns the files' layout and the index of ids (16 bytes a document are held in memory for it). Must not
know where documents come from. The folder it writes into is temporary; the caller makes it real only
when both splits are complete. Entry point: `SplitWriter`.
"""

from __future__ import annotations

import hashlib
from array import array
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from seqpair.atomic import write_text
from seqpair.data.catalogue import count_sequences
from seqpair.data.documents import Document
from seqpair.data.manifest import (
    COUNTED_LENGTHS,
    DOCUMENTS,
    ID_HASHES,
    ID_ROWS,
    MANIFEST,
    OFFSETS,
    TOKENS,
    FileEntry,
    StoreManifest,
)
from seqpair.digest import hash64, sha256_file, sha256_json

ROWS_PER_GROUP = 16_384
"""Rows of a row group of documents.parquet: how much is read to name one document."""

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("file", pa.string()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("row", pa.int64()),
    ]
)


def token_dtype(vocab_size: int) -> str:
    """Return the narrowest token type: uint16 while the vocabulary allows, else uint32."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


class SplitWriter:
    """Writes a store's files into a folder that does not exist yet.

    Args:
        folder: The split's folder.
        vocab_size: The padded vocabulary; fixes the token type.
        special_ids: Ids that count as special where a text spells them out.
    """

    def __init__(self, folder: Path, vocab_size: int, special_ids: npt.NDArray[np.int64]) -> None:
        """Make the folder and open the files."""
        folder.mkdir(parents=True)
        self.folder = folder
        self.vocab_size = vocab_size
        self.dtype = token_dtype(vocab_size)
        self._special = np.zeros(vocab_size, dtype=bool)
        self._special[special_ids] = True
        self.documents = self.tokens = self.text_bytes = self.special_tokens = 0
        self.id_hashes = array("Q")
        self._ids_digest = hashlib.sha256()
        self._rows: list[tuple[str, str, int, int, int]] = []
        with ExitStack() as stack:
            self._tokens = stack.enter_context((folder / TOKENS).open("wb"))
            self._offsets = stack.enter_context((folder / OFFSETS).open("wb"))
            table = stack.enter_context((folder / DOCUMENTS).open("wb"))
            self._table = stack.enter_context(pq.ParquetWriter(table, _SCHEMA, compression="zstd"))
            self._open = stack.pop_all()
        self._offsets.write(np.zeros(1, dtype="<i8").tobytes())

    def __enter__(self) -> SplitWriter:
        """Return the writer; its files are closed when the block ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
        self._open.__exit__(kind, error, trace)

    def add(self, document: Document, ids: npt.NDArray[np.int64]) -> None:
        """Append one document; `ids` is its content, int64 (n,), n >= 1."""
        self._tokens.write(ids.astype("<u2" if self.dtype == "uint16" else "<u4").tobytes())
        self._rows.append((document.id, document.file, self.tokens, len(ids), document.row))
        self.documents += 1
        self.tokens += len(ids)
        self.text_bytes += document.text_bytes
        self.special_tokens += int(self._special[ids].sum())
        encoded = document.id.encode("utf-8")
        self.id_hashes.append(hash64(document.id))
        self._ids_digest.update(len(encoded).to_bytes(8, "little") + encoded)
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        ids, files, offsets, lengths, rows = zip(*self._rows, strict=True)
        self._table.write_table(pa.table([ids, files, offsets, lengths, rows], schema=_SCHEMA))
        self._offsets.write((np.array(offsets, dtype="<i8") + np.array(lengths, dtype="<i8")).tobytes())
        self._rows.clear()

    def close(self) -> None:
        """Write what is still in memory, the index of ids too, and close the files."""
        self._flush()
        self._open.close()
        hashes = np.frombuffer(self.id_hashes, dtype=np.uint64) if self.id_hashes else np.empty(0, dtype=np.uint64)
        order = np.argsort(hashes, kind="stable")
        with (self.folder / ID_HASHES).open("wb") as handle:
            handle.write(hashes[order].astype("<u8").tobytes())
        with (self.folder / ID_ROWS).open("wb") as handle:
            handle.write(order.astype("<i8").tobytes())

    def finish(self, **about: Any) -> StoreManifest:
        """Write the manifest over the closed files and return it.

        Args:
            **about: The fields of `StoreManifest` that the writer does not know.
        """
        names = (TOKENS, OFFSETS, DOCUMENTS, ID_HASHES, ID_ROWS)
        paths = {name: self.folder / name for name in names}
        files = {name: FileEntry(sha256=sha256_file(path), bytes=path.stat().st_size) for name, path in paths.items()}
        offsets = np.fromfile(self.folder / OFFSETS, dtype="<i8")
        manifest = StoreManifest(
            vocab_size=self.vocab_size,
            dtype="uint16" if self.dtype == "uint16" else "uint32",
            documents=self.documents,
            tokens=self.tokens,
            text_bytes=self.text_bytes,
            special_tokens=self.special_tokens,
            sequences={length: count_sequences(offsets, length) for length in COUNTED_LENGTHS},
            files=files,
            digest=sha256_json(
                {
                    "tokens": files[TOKENS].sha256,
                    "offsets": files[OFFSETS].sha256,
                    "ids": self._ids_digest.hexdigest(),
                    "tokenizer": about["tokenizer_digest"],
                }
            ),
            **about,
        )
        write_text(self.folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
        return manifest
