"""Writing one split of a source as a store, rows and tokens in turn, in bounded memory.

The folder it writes into is temporary; the caller makes it real only when both splits are complete. The bytes depend
on the documents alone, not on how many were handed over at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from seqpair.data.store.ids import IdIndexWriter
from seqpair.data.store.manifest import (
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
from seqpair.files import hash64, sha256_file, sha256_json, write_text

ROWS_PER_GROUP = 65_536
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
    """

    def __init__(self, folder: Path, vocab_size: int) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.vocab_size = vocab_size
        self.dtype = token_dtype(vocab_size)
        self.documents = self.tokens = 0
        self._token_bytes = np.dtype(self.dtype).itemsize
        self._written_bytes = 0
        self._digests = {name: hashlib.sha256() for name in (TOKENS, OFFSETS)}
        self._ids_digest = hashlib.sha256()
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._sequences = dict.fromkeys(COUNTED_LENGTHS, 0)
        self._index = IdIndexWriter(folder)
        with ExitStack() as stack:
            self._tokens = stack.enter_context((folder / TOKENS).open("wb"))
            self._offsets = stack.enter_context((folder / OFFSETS).open("wb"))
            table = stack.enter_context((folder / DOCUMENTS).open("wb"))
            self._table = stack.enter_context(pq.ParquetWriter(table, _SCHEMA, compression="zstd"))
            stack.enter_context(self._index)
            self._open = stack.pop_all()
        self._write(OFFSETS, np.zeros(1, dtype="<i8").tobytes())

    def __enter__(self) -> SplitWriter:
        """Return the writer; its files are closed when the block ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
        self._open.__exit__(kind, error, trace)

    def add_tokens(self, data: bytes) -> None:
        """Append content tokens, little-endian in `dtype`; any number of bytes, cut anywhere."""
        self._write(TOKENS, data)
        self._written_bytes += len(data)

    def add_documents(
        self, ids: Sequence[str], files: pa.Array, rows: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
    ) -> None:
        """Append the rows of documents; their tokens are appended on their own, before or after, in this order.

        Args:
            ids: Their ids, unique in the source.
            files: The labels of their files, a string array.
            rows: Their 0-based rows there, (n,).
            lengths: Their content tokens, (n,), each at least 1.
        """
        ends = self.tokens + np.cumsum(lengths)
        self._pending.append(pa.table([ids, files, ends - lengths, lengths, rows], schema=_SCHEMA))
        self._pending_rows += len(ids)
        self._write(OFFSETS, ends.astype("<i8").tobytes())
        # Each id with its length before it, so that no other list of ids gives the same bytes.
        encoded = [document_id.encode("utf-8") for document_id in ids]
        self._ids_digest.update(b"".join(part for one in encoded for part in (len(one).to_bytes(8, "little"), one)))
        self._index.add(np.fromiter(map(hash64, ids), dtype=np.uint64, count=len(ids)))
        self.documents += len(ids)
        self.tokens += int(lengths.sum())
        for length in COUNTED_LENGTHS:
            self._sequences[length] += int((-(-lengths // (length - 2))).sum())
        if self._pending_rows >= ROWS_PER_GROUP:
            self._flush(self._pending_rows - self._pending_rows % ROWS_PER_GROUP)

    def _write(self, name: str, data: bytes) -> None:
        (self._tokens if name == TOKENS else self._offsets).write(data)
        self._digests[name].update(data)

    def _flush(self, rows: int) -> None:
        """Write the first pending rows, in groups whose borders do not depend on how the rows came."""
        joined = pa.concat_tables(self._pending)
        for start in range(0, rows, ROWS_PER_GROUP):
            # one chunk a column: the writer's pages follow the chunks
            self._table.write_table(joined.slice(start, min(ROWS_PER_GROUP, rows - start)).combine_chunks())
        self._pending, self._pending_rows = [joined.slice(rows)], joined.num_rows - rows

    def close(self) -> None:
        """Write what is still in memory, the index of ids too, and close the files."""
        if self._pending_rows:
            self._flush(self._pending_rows)
        assert self._written_bytes == self.tokens * self._token_bytes
        self._index.finish()
        self._open.close()

    def finish(self, **about: Any) -> StoreManifest:
        """Write the manifest over the closed files and return it.

        Args:
            **about: The fields of `StoreManifest` that the writer does not know.
        """
        hashes = {name: digest.hexdigest() for name, digest in self._digests.items()}
        for name in (DOCUMENTS, ID_HASHES, ID_ROWS):
            hashes[name] = sha256_file(self.folder / name)
        files = {
            name: FileEntry(sha256=digest, bytes=(self.folder / name).stat().st_size) for name, digest in hashes.items()
        }
        manifest = StoreManifest(
            vocab_size=self.vocab_size,
            dtype="uint16" if self.dtype == "uint16" else "uint32",
            documents=self.documents,
            tokens=self.tokens,
            sequences=dict(self._sequences),
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
