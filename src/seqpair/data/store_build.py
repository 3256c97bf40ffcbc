"""Building one source's stores: reading, tokenizing and writing both splits in one pass.

Owns batching of documents, progress, and the faults only a whole source can have: nothing in it, or
one id twice. Must not know recipes or indexes. Entry point: `build_stores`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from seqpair.atomic import replacing_folder, write_json
from seqpair.data.documents import Document, Source, Tally, documents, is_held_out
from seqpair.data.manifest import DOCUMENTS, SeenFile, Split, StoreManifest
from seqpair.data.store_writer import SplitWriter
from seqpair.data.tokenizer import Tokenizer
from seqpair.errors import DataError
from seqpair.log import Progress, note
from seqpair.units import format_count

_BATCH_BYTES = 1 << 21
_BATCH_DOCUMENTS = 4096
ORIGIN = "origin.json"


def build_stores(
    source: Source, files: Sequence[SeenFile], tokenizer: Tokenizer, folder: Path, address: str
) -> dict[Split, StoreManifest]:
    """Tokenize a source into `folder`/{train,held_out}; the folder appears only when all is well.

    Args:
        source: The source.
        files: Its files with their hashes, kept in `origin.json`.
        tokenizer: What encodes the text.
        folder: The stores' folder; must not exist.
        address: What the folder's name was made from.

    Raises:
        DataError: The source has no usable document, none for training, or one id twice.
        DiskFullError: The disk is full; nothing remains.
    """
    tally = Tally()
    with replacing_folder(folder) as partial:
        splits: tuple[Split, Split] = ("train", "held_out")
        writers = {split: SplitWriter(partial / split, tokenizer.vocab_size, tokenizer.special_ids) for split in splits}
        with writers["train"] as train, writers["held_out"] as held_out:
            _fill(source, tokenizer, tally, train, held_out)
            for writer in writers.values():
                writer.close()
        _require_documents(source, tally, writers)
        _require_own_ids(source, writers)
        manifests = {
            split: writer.finish(
                source=source.spec.name,
                split=split,
                kind=source.spec.kind,
                part=source.spec.part,
                address=address,
                tokenizer_digest=tokenizer.digest,
                held_out_frac=source.spec.held_out_frac,
                python_version=source.python_version,
                rejected=dict(sorted(tally.rejected.items())),
                rejected_examples=dict(sorted(tally.examples.items())),
            )
            for split, writer in writers.items()
        }
        write_json(partial / ORIGIN, [[file.label, file.sha256, file.bytes] for file in files])
    _report(source, tally, manifests)
    return manifests


def _fill(source: Source, tokenizer: Tokenizer, tally: Tally, train: SplitWriter, held_out: SplitWriter) -> None:
    """Read the source once; every document goes to one of the two writers."""
    total = sum(file.size_bytes for file in source.files)
    progress = Progress(f"prepare {source.spec.name}", total, "B")
    for batch in _batches(documents(source, tally)):
        for document, ids in zip(batch, tokenizer.encode([document.text for document in batch]), strict=True):
            if len(ids) == 0:
                tally.reject("no tokens", document.file, document.row)
                continue
            held = is_held_out(source.split_key(document), source.spec.held_out_frac)
            (held_out if held else train).add(document, ids)
        tokens = train.tokens + held_out.tokens
        per_byte = tokens / max(1, tally.bytes_done)
        progress.update(tally.bytes_done, f"{format_count(progress.rate() * per_byte)} tokens/s")
    progress.finish(f"{format_count(train.tokens + held_out.tokens)} tokens")


def _batches(read: Iterator[Document]) -> Iterator[list[Document]]:
    """Yield documents in batches bounded by their bytes and their number."""
    batch: list[Document] = []
    size = 0
    for document in read:
        batch.append(document)
        size += document.text_bytes
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _require_documents(source: Source, tally: Tally, writers: dict[Split, SplitWriter]) -> None:
    if writers["train"].documents > 0:
        return
    name, held_out = source.spec.name, writers["held_out"].documents
    if held_out:
        raise DataError(
            f"source {name!r} has no document left for training",
            seen=f"{held_out} documents, all held out by held_out_frac {source.spec.held_out_frac}",
            fix="lower `held_out_frac`, or give the source more documents",
        )
    if tally.rejected:
        raise DataError(
            f"source {name!r} has no usable document: every row was refused",
            seen=tally.summary(),
            allowed="rows with text in valid UTF-8",
            fix="correct `kind`, `text_field` or `id_field` in the recipe, or the files",
        )
    raise DataError(
        f"source {name!r} is empty: it has no document",
        seen=f"{len(source.files)} files, first {source.files[0].path}",
        fix="correct `paths` in the recipe, or leave the source out",
    )


def _require_own_ids(source: Source, writers: dict[Split, SplitWriter]) -> None:
    """Refuse a source in which two documents, in either split, have one id."""
    hashes = np.concatenate([np.array(writer.id_hashes, dtype=np.uint64) for writer in writers.values()])
    hashes.sort()
    suspects = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if len(suspects) == 0:
        return
    seen: dict[str, str] = {}
    for file, row, document_id in chain.from_iterable(_rows_with(writer, suspects) for writer in writers.values()):
        place = f"{file}:{row + 1}"
        if document_id in seen:
            raise DataError(
                f"source {source.spec.name!r} has two documents of one id",
                seen=f"{document_id!r} at {seen[document_id]} and at {place}",
                fix="choose another `id_field`, or leave it out: ids are then made from file and row",
            )
        seen[document_id] = place


def _rows_with(writer: SplitWriter, suspects: np.ndarray) -> Iterator[tuple[str, int, str]]:
    """Yield file, row and id of the documents whose id's hash is among the suspects."""
    rows = np.flatnonzero(np.isin(np.array(writer.id_hashes, dtype=np.uint64), suspects))
    table = pq.read_table(writer.folder / DOCUMENTS, columns=["file", "row", "id"])
    chosen = pc.take(table, rows).to_pydict()
    yield from zip(chosen["file"], chosen["row"], chosen["id"], strict=True)


def _report(source: Source, tally: Tally, manifests: dict[Split, StoreManifest]) -> None:
    """Say what was refused, and what the splits lack."""
    name = source.spec.name
    if tally.rejected:
        note(f"source {name!r}: {sum(tally.rejected.values())} of {tally.rows} rows refused: {tally.summary()}")
    if source.spec.held_out_frac > 0 and manifests["held_out"].documents == 0:
        note(
            f"source {name!r}: none of its {manifests['train'].documents} documents fell into the held-out share of "
            f"{source.spec.held_out_frac}; it has no held-out loss (raise `held_out_frac` to get one)"
        )
