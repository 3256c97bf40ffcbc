"""A part: one unit of a source, tokenized, as it lies on disk until the store is put together.

A part is a folder: `train.tokens` and `held_out.tokens` (flat, in the store's type), `documents.arrow` (a
stream of rows, both splits in reading order), `refused.jsonl`, and `part.json` with counts and hashes. It
appears whole or not at all. Rows are as their reader gave them, perhaps relative to the unit; whoever merges
counts on.

A line of `refused.jsonl` has `reason`, `file`, `row` (1-based, as in messages), `bytes` (of the whole row where
known) and `text`, or `base64` where the bytes are not UTF-8. Of a long row only the beginning is kept.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from seqpair.data.sources.documents import Document, Refusal, Tally
from seqpair.data.store.manifest import FileEntry, Split
from seqpair.errors import StoreError
from seqpair.files import sha256_file, write_text

PART = "part.json"
ROWS = "documents.arrow"
SPLITS: tuple[Split, Split] = ("train", "held_out")
_LOOKED_UP_TOKENS = 1 << 20
_CHUNK_BYTES = 1 << 20
_SCHEMA = pa.schema(
    [("id", pa.string()), ("file", pa.string()), ("row", pa.int64()), ("length", pa.int64()), ("held_out", pa.bool_())]
)
TokenArray = npt.NDArray[np.integer[Any]]
REFUSED = "refused.jsonl"
_KEPT_ROW_BYTES = 1 << 14


class PartRecord(BaseModel):
    """What a part says of itself.

    Attributes:
        rows, unit_rows: As in `Tally`.
        documents, tokens, text_bytes, special_tokens: Counts by split.
        removed: Documents that cleaning took out, by reason.
        unknown_tokens: Unknown tokens that no text spells out, of a tokenizer that was loaded.
        files: SHA-256 and size of the other files.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    unit_rows: int
    documents: dict[Split, int]
    tokens: dict[Split, int]
    text_bytes: dict[Split, int]
    special_tokens: dict[Split, int]
    removed: dict[str, int]
    unknown_tokens: int = 0
    files: dict[str, FileEntry]


class PartWriter:
    """Writes a part's files into a folder that exists and is empty.

    Args:
        folder: The folder; temporary, the caller makes it real.
        token_dtype: `uint16` or `uint32`.
        special: Which ids count as special where a text spells them out, bool (V,).
    """

    def __init__(self, folder: Path, token_dtype: str, special: npt.NDArray[np.bool_]) -> None:
        self.folder = folder
        self.tokens_written = self.unknown_tokens = 0
        self._dtype = np.dtype(token_dtype).newbyteorder("<")
        self._special = special
        self._counts: dict[str, dict[Split, int]] = {
            name: dict.fromkeys(SPLITS, 0) for name in ("documents", "tokens", "text_bytes", "special_tokens")
        }
        self._removed: dict[str, int] = {}
        self._digests = {split: hashlib.sha256() for split in SPLITS}
        with ExitStack() as stack:
            self._tokens: dict[Split, IO[bytes]] = {
                split: stack.enter_context((folder / _tokens_name(split)).open("wb")) for split in SPLITS
            }
            self._refused = stack.enter_context((folder / REFUSED).open("w", encoding="ascii"))
            self._rows = stack.enter_context(pa.ipc.new_stream(str(folder / ROWS), _SCHEMA))
            self._open = stack.pop_all()

    def __enter__(self) -> PartWriter:
        """Return the writer; its files are closed when the block ends."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files."""
        self._open.__exit__(kind, error, trace)

    def refuse(self, refusal: Refusal) -> None:
        """Keep one refused row."""
        self._refused.write(as_line(refusal))

    def remove(self, reason: str) -> None:
        """Count one document that cleaning took out."""
        self._removed[reason] = self._removed.get(reason, 0) + 1

    def add(self, batch: Sequence[Document], ids: Sequence[TokenArray], held_out: Sequence[bool]) -> None:
        """Append documents; their texts are not kept.

        Args:
            batch: The documents.
            ids: The content of each, (n,), n >= 1.
            held_out: Which of them are held out.
        """
        for split in SPLITS:
            own = [index for index, held in enumerate(held_out) if held == (split == "held_out")]
            if own:
                self._add_tokens(split, [ids[index] for index in own])
                self._counts["documents"][split] += len(own)
                self._counts["text_bytes"][split] += sum(batch[index].text_bytes for index in own)
        columns = [
            pa.array([document.id for document in batch], pa.string()),
            pa.array([document.file for document in batch], pa.string()),
            pa.array([document.row for document in batch], pa.int64()),
            pa.array([len(one) for one in ids], pa.int64()),
            pa.array(held_out, pa.bool_()),
        ]
        self._rows.write_batch(pa.record_batch(columns, schema=_SCHEMA))

    def _add_tokens(self, split: Split, ids: Sequence[TokenArray]) -> None:
        joined = np.concatenate(ids) if len(ids) > 1 else ids[0]
        data = joined.astype(self._dtype, copy=False).tobytes()
        self._tokens[split].write(data)
        self._digests[split].update(data)
        # In pieces: the looked-up booleans of a document of a gigabyte would double the memory.
        for start in range(0, len(joined), _LOOKED_UP_TOKENS):
            looked_up = self._special[joined[start : start + _LOOKED_UP_TOKENS]]
            self._counts["special_tokens"][split] += int(np.count_nonzero(looked_up))
        self._counts["tokens"][split] += len(joined)
        self.tokens_written += len(joined)

    def finish(self, tally: Tally) -> PartRecord:
        """Close the files and write `part.json`."""
        self._open.close()
        files = {
            _tokens_name(split): FileEntry(
                sha256=self._digests[split].hexdigest(), bytes=self._counts["tokens"][split] * self._dtype.itemsize
            )
            for split in SPLITS
        }
        for name in (ROWS, REFUSED):
            path = self.folder / name
            files[name] = FileEntry(sha256=sha256_file(path), bytes=path.stat().st_size)
        counts: dict[str, Any] = dict(self._counts)
        record = PartRecord(
            rows=tally.rows,
            unit_rows=tally.unit_rows,
            removed=dict(sorted(self._removed.items())),
            unknown_tokens=self.unknown_tokens,
            files=files,
            **counts,
        )
        write_text(self.folder / PART, record.model_dump_json() + "\n")
        return record


class StorePart:
    """A finished part.

    Args:
        folder: Its folder.

    Attributes:
        folder: As given.
        record: What it says of itself.

    Raises:
        StoreError: It is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.record = PartRecord.model_validate_json((folder / PART).read_bytes())
        except (OSError, ValidationError) as error:
            raise self._damaged(PART, str(error).splitlines()[0]) from error
        for name, entry in self.record.files.items():
            seen = (folder / name).stat().st_size if (folder / name).is_file() else None
            if seen != entry.bytes:
                raise self._damaged(name, "no file" if seen is None else f"{seen} bytes, not {entry.bytes}")

    def verify_rows(self) -> None:
        """Check the hashes of the small files, before anything is taken from them.

        Raises:
            StoreError: One was changed.
        """
        for name in (ROWS, REFUSED):
            if sha256_file(self.folder / name) != self.record.files[name].sha256:
                raise self._damaged(name, "another SHA-256")

    def tokens(self, split: Split) -> Iterator[bytes]:
        """Yield the bytes of a split's tokens.

        Raises:
            StoreError: After the last, if they are not what was written.
        """
        name, digest = _tokens_name(split), hashlib.sha256()
        with (self.folder / name).open("rb") as handle:
            while chunk := handle.read(_CHUNK_BYTES):
                digest.update(chunk)
                yield chunk
        if digest.hexdigest() != self.record.files[name].sha256:
            raise self._damaged(name, "another SHA-256")

    def rows(self) -> Iterator[pa.RecordBatch]:
        """Yield the documents of both splits in reading order: id (perhaps empty), file, row, length, held_out."""
        with pa.ipc.open_stream(str(self.folder / ROWS)) as stream:
            yield from stream

    def refused(self) -> Iterator[str]:
        """Yield the refused rows as lines of JSON."""
        with (self.folder / REFUSED).open(encoding="ascii") as lines:
            yield from lines

    def _damaged(self, name: str, seen: str) -> StoreError:
        return StoreError(
            f"a finished part is damaged: {self.folder / name}",
            seen=seen,
            fix=f"delete the folder {self.folder} and repeat the command: only this part is made again",
        )


def _tokens_name(split: Split) -> str:
    return f"{split}.tokens"


def as_line(refusal: Refusal) -> str:
    """Return one refused row as a line of JSON."""
    line: dict[str, object] = {"reason": refusal.reason, "file": refusal.file, "row": refusal.row + 1}
    if refusal.raw is not None:
        line["bytes"] = len(refusal.raw)
        kept = refusal.raw[:_KEPT_ROW_BYTES]
        try:
            line["text"] = kept.decode("utf-8")
        except UnicodeDecodeError as error:
            if len(refusal.raw) > _KEPT_ROW_BYTES and error.start >= len(kept) - 3:  # the cut fell inside a character
                line["text"] = kept[: error.start].decode("utf-8")
            else:
                line["base64"] = base64.b64encode(kept).decode("ascii")
    return json.dumps(line, ensure_ascii=True) + "\n"


def moved_line(line: str, rows_before: int) -> tuple[str, str, str, int]:
    """Return a line with its row counted on, and its reason, file and 0-based row.

    Args:
        line: A line of `as_line` whose row is relative to a unit.
        rows_before: The rows of its file before that unit.
    """
    value = json.loads(line)
    value["row"] += rows_before
    text = line if rows_before == 0 else json.dumps(value, ensure_ascii=True) + "\n"
    return text, value["reason"], value["file"], value["row"] - 1
