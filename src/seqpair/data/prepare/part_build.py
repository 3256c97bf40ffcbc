"""Making one part: a unit is read, cleaned, tokenized and written, in bounded memory."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqpair.data.cleaning.removal import UnitRemovals
from seqpair.data.prepare.parts import PART, PartWriter, TokenArray
from seqpair.data.prepare.published_ids import DocumentEncoder
from seqpair.data.sources.documents import Document, Source, SourceFile, Tally, Unit, is_held_out
from seqpair.data.sources.remote import AnyFile, RemoteFile
from seqpair.data.store.writer import token_dtype
from seqpair.data.tokenizer.tokenizer import Tokenizer
from seqpair.errors import DataError
from seqpair.files import replacing_folder
from seqpair.recipe.data_spec import SourceSpec

_BATCH_BYTES = 1 << 20
_BATCH_DOCUMENTS = 4096
_TOKENIZED_AT_ONCE = 2
NO_TOKENS = "no tokens"

Advance = Callable[[int, int], None]
"""Told how many more bytes were read and tokens written; may raise to stop the work."""


@dataclass(frozen=True)
class PartTask:
    """What a worker needs to make one part.

    Attributes:
        spec: The source.
        recipe_folder: What its relative paths are relative to.
        unit: The unit.
        folder: The part's folder, which must not exist.
        files: The files that the unit reads, as they were when they were hashed.
        removals: What a survey of the whole source found in this unit.
    """

    spec: SourceSpec
    recipe_folder: Path | None
    unit: Unit
    folder: Path
    files: tuple[SourceFile, ...]
    removals: UnitRemovals | None = None


def make_part(task: PartTask, source: Source, tokenizer: Tokenizer, advance: Advance) -> None:
    """Make one part; its folder appears when it is complete.

    Args:
        task: What to make.
        source: The task's source, opened.
        tokenizer: What encodes the text.
        advance: Told of progress.

    Raises:
        DataError: A file cannot be read, or changed since it was hashed.
        DiskFullError: The disk is full; earlier parts remain.
    """
    special = np.zeros(tokenizer.vocab_size, dtype=bool)
    special[tokenizer.special_ids] = True
    dtype = token_dtype(tokenizer.vocab_size)
    if task.folder.is_dir() and not (task.folder / PART).is_file():
        shutil.rmtree(task.folder)
    with replacing_folder(task.folder) as partial, PartWriter(partial, dtype, special) as part:
        tally = Tally(keep=part.refuse)
        bytes_told, tokens_told = 0, 0
        encoder = DocumentEncoder(tokenizer, source.spec.name)
        batches = _batches(_kept(source.read(task.unit, tally), task, part))
        for batch, encoded in _encoded_batches(batches, encoder, dtype):
            read = list(encoder.joined(batch, encoded))
            for document, ids in read:
                if len(ids) == 0:
                    tally.reject(NO_TOKENS, document.file, document.row, document.text.encode("utf-8"))
            kept = [document for document, ids in read if len(ids)]
            held_out = [is_held_out(source.split_key(document), source.spec.held_out_frac) for document in kept]
            part.add(kept, [ids for _, ids in read if len(ids)], held_out)
            advance(tally.bytes_done - bytes_told, part.tokens_written - tokens_told)
            bytes_told, tokens_told = tally.bytes_done, part.tokens_written
        encoder.finish()
        _require_unchanged(task)
        part.finish(tally)
        advance(task.unit.size_bytes - bytes_told, 0)


def _kept(read: Iterator[Document], task: PartTask, part: PartWriter) -> Iterator[Document]:
    """Yield the documents that cleaning leaves."""
    removals = task.removals
    found: dict[int, str] = {}
    if removals is not None:
        found = dict(zip(removals.ordinals.tolist(), removals.reasons, strict=True))
    seen = 0
    for document in read:
        reason = found.get(seen)
        seen += 1
        if reason is None:
            yield document
        else:
            part.remove(reason)
    if removals is not None and seen != removals.documents:
        raise DataError(
            f"source {task.spec.name!r} is not what its survey saw in {task.unit.file.path}",
            seen=f"{seen} documents",
            allowed=f"{removals.documents} documents",
            fix="leave the files alone while they are read, and repeat the command",
        )


def _encoded_batches(
    batches: Iterator[list[Document]], encoder: DocumentEncoder, dtype: str
) -> Iterator[tuple[list[Document], list[TokenArray]]]:
    """Yield each batch with the ids of its texts, while the next ones are read and tokenized.

    The tokenizer's own threads would stand still while a batch is parsed, converted or written: with two batches
    in its hands they do not.
    """
    waiting: deque[tuple[list[Document], Future[list[TokenArray]]]] = deque()
    with ThreadPoolExecutor(_TOKENIZED_AT_ONCE, thread_name_prefix="tokenize") as pool:
        for batch in batches:
            waiting.append((batch, pool.submit(encoder.texts_encoded, batch, dtype)))
            if len(waiting) > _TOKENIZED_AT_ONCE:
                first, encoded = waiting.popleft()
                yield first, encoded.result()
        while waiting:
            first, encoded = waiting.popleft()
            yield first, encoded.result()


def _batches(read: Iterator[Document]) -> Iterator[list[Document]]:
    """Yield documents in batches bounded by their bytes and their number."""
    batch: list[Document] = []
    size = 0
    for document in read:
        batch.append(document)
        size += document.text_bytes if document.ids is None else document.ids.nbytes
        if size >= _BATCH_BYTES or len(batch) >= _BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _require_unchanged(task: PartTask) -> None:
    """Refuse a unit whose files are not those that were hashed: the store's address would be wrong."""
    for file in task.files:
        if isinstance(file.path, RemoteFile):
            path: AnyFile | None = file.path.now()
        else:
            path = file.path if file.path.is_file() else None
        if path is not None and (now := SourceFile.of(path, file.label)) != file:
            raise DataError(
                f"source {task.spec.name!r}: {file.path} changed while it was prepared",
                seen=f"{now.size_bytes} bytes, changed at {now.mtime_ns}",
                allowed=f"{file.size_bytes} bytes, changed at {file.mtime_ns}",
                fix="leave the files alone while they are read, and repeat the command",
            )
