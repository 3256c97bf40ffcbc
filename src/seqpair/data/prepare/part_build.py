"""Making one part: a unit is read, cleaned, tokenized (or its published ids checked) and written, in bounded memory."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from seqpair.data.cleaning.removal import UnitRemovals
from seqpair.data.prepare.parts import PART, PartWriter, TokenArray
from seqpair.data.sources.documents import Document, Source, SourceFile, Tally, Unit, batches_of, is_held_out
from seqpair.data.sources.remote import AnyFile, RemoteFile
from seqpair.data.store.writer import token_dtype
from seqpair.data.tokenizer.tokenizer import IdArray, Tokenizer
from seqpair.errors import DataError
from seqpair.files import replacing_folder
from seqpair.recipe.data_spec import SourceSpec

_TOKENIZED_AT_ONCE = 2
NO_TOKENS = "no tokens"
Unknown = Literal["impossible", "refused", "counted"]
Advance = Callable[[int, int], None]
"""Told how many more bytes were read and tokens written; may raise to stop the work."""
_TRIED_DOCUMENTS = 16
_LEAST_DOCUMENTS = 4
_TRIED_TOKENS = 256
_LEAST_TOKENS = 16
_LEAST_EQUAL_FRAC = 0.25
"""Ids of the same tokenizer nearly always come back from their text; those of another nearly never do."""


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
        unknown: What an unknown token is: `impossible` for a tokenizer that was trained here, `refused`, or `counted`.
    """

    spec: SourceSpec
    recipe_folder: Path | None
    unit: Unit
    folder: Path
    files: tuple[SourceFile, ...]
    removals: UnitRemovals | None = None
    unknown: Unknown = "impossible"


def make_part(task: PartTask, source: Source, tokenizer: Tokenizer, advance: Advance) -> None:
    """Make one part; its folder appears when it is complete.

    Args:
        task: What to make.
        source: The task's source, opened.
        tokenizer: What encodes the text.
        advance: Told of progress.

    Raises:
        DataError: A file cannot be read, or changed since it was hashed, or the tokenizer does not know a text.
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
        batches = batches_of(_kept(source.read(task.unit, tally), task, part), 4096)
        for batch, encoded in _encoded_batches(batches, encoder, dtype):
            read = list(encoder.joined(batch, encoded))
            if task.unknown != "impossible":
                part.unknown_tokens += _unknown_tokens(read, tokenizer, task)
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


def _unknown_tokens(read: Sequence[tuple[Document, TokenArray]], tokenizer: Tokenizer, task: PartTask) -> int:
    """Return how many tokens of texts are unknown, those left out that a text spells.

    Raises:
        DataError: There are some, and they are refused.
    """
    found = 0
    for document, ids in read:
        count = int(np.count_nonzero(ids == tokenizer.specials.unk))
        count -= document.text.count(tokenizer.names["unk"]) if count and document.text else count
        if count > 0 and task.unknown == "refused":
            raise unknown_text(
                f"{count} unknown tokens of {len(ids)} in {document.id or 'a document'!r} of {document.file}"
            )
        found += max(0, count)
    return found


def unknown_text(seen: str) -> DataError:
    """Return the error for text that a tokenizer does not hold."""
    return DataError(
        "the tokenizer does not hold the text: the bytes of its ids are not those of the text",
        seen=seen,
        allowed="a tokenizer that gives every text back, so that bits per byte are over the whole text",
        fix="choose another tokenizer or let seqpair train one; or set `data.tokenizer.allow_lost_text: true`",
    )


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


class DocumentEncoder:
    """Turns documents into content ids: encodes text, and checks ids that were published.

    Ids of another tokenizer may all lie inside the vocabulary. So the first documents are decoded and
    encoded again: with the tokenizer that made them they come back, but for rare texts.

    Args:
        tokenizer: The study's tokenizer.
        source: The source's name, for messages.
    """

    def __init__(self, tokenizer: Tokenizer, source: str) -> None:
        self._tokenizer, self._source = tokenizer, source
        self._tried = self._equal = 0

    def texts_encoded(self, documents: Sequence[Document], dtype: str) -> list[TokenArray]:
        """Return the content ids of the documents that have text; needs no state, so threads may call it.

        Args:
            documents: Documents with text, or with published ids.
            dtype: `uint16` or `uint32`.
        """
        texts = [document.text for document in documents if document.ids is None]
        return self._tokenizer.encode_narrow(texts, dtype) if texts else []

    def joined(
        self, documents: Sequence[Document], encoded: Sequence[TokenArray]
    ) -> Iterator[tuple[Document, TokenArray]]:
        """Yield each document with its content ids, (n,); n may be 0. Batches have to come in reading order.

        Documents that came with ids get the bytes of the text that these stand for.

        Args:
            documents: A batch.
            encoded: What `texts_encoded` gave for it.

        Raises:
            DataError: Published ids are outside the vocabulary, or another tokenizer made them.
        """
        made = iter(encoded)
        for document in documents:
            yield (document, next(made)) if document.ids is None else self._published(document, document.ids)

    def finish(self) -> None:
        """Say what the documents tried so far show, at the end of a unit that has few.

        Raises:
            DataError: Another tokenizer made the published ids.
        """
        if self._tried >= _LEAST_DOCUMENTS and self._equal < _LEAST_EQUAL_FRAC * self._tried:
            raise self._other_tokenizer(
                f"{self._equal} of the first {self._tried} documents come back when their text is tokenized again",
                "ids that this study's tokenizer gives",
            )

    def _published(self, document: Document, given: IdArray) -> tuple[Document, IdArray]:
        tokenizer, specials = self._tokenizer, self._tokenizer.specials
        low, high = (int(given.min()), int(given.max())) if len(given) else (0, 0)
        if low < 0 or high >= tokenizer.entries:
            raise self._other_tokenizer(
                f"id {low if low < 0 else high} at {document.place}", f"ids from 0 to {tokenizer.entries - 1}"
            )
        first = 1 if len(given) and given[0] == specials.cls else 0
        last = len(given) - 1 if len(given) > first and given[-1] == specials.sep else len(given)
        ids = given[first:last]
        self._try(ids)
        return replace(document, text_bytes=int(tokenizer.token_bytes[ids].sum())), ids

    def _try(self, ids: IdArray) -> None:
        """Encode the first documents' text again, and count how many come back."""
        if self._tried == _TRIED_DOCUMENTS or len(ids) < _LEAST_TOKENS:
            return
        # Both ends may be cut inside a word or a character, as published chunks are: only the middle is compared.
        part = ids[:_TRIED_TOKENS]
        [again] = self._tokenizer.encode([self._tokenizer.decode(part)])
        middle = part[len(part) // 4 : -(len(part) // 4)]
        windows = np.lib.stride_tricks.sliding_window_view(again, len(middle)) if len(again) >= len(middle) else again
        self._tried += 1
        self._equal += bool(len(again) >= len(middle) and (windows == middle).all(axis=1).any())
        if self._tried == _TRIED_DOCUMENTS:
            self.finish()

    def _other_tokenizer(self, seen: str, allowed: str) -> DataError:
        return DataError(
            f"source {self._source!r}: its token ids were made with another tokenizer",
            seen=seen,
            allowed=allowed,
            fix="set `data.tokenizer.path` to the tokenizer that the ids were published with, or use the text",
        )
