"""Putting a source's parts together into its two stores, in one pass and in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TextIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqpair.data.cleaning.removal import SourceCleaning
from seqpair.data.prepare.parts import REFUSED, SPLITS, StorePart, moved_line
from seqpair.data.sources.documents import Source, Tally, Unit, default_id
from seqpair.data.store.ids import repeated_hashes, rows_of_hashes
from seqpair.data.store.manifest import DOCUMENTS, SeenFile, Split, StoreManifest
from seqpair.data.store.writer import SplitWriter
from seqpair.data.tokenizer.tokenizer import Tokenizer
from seqpair.errors import DataError
from seqpair.files import replacing_folder, write_json
from seqpair.text import note

ORIGIN = "origin.json"
_MUCH_MORE_HELD_OUT = 0.05
_SUSPECTS_AT_ONCE = 1000


@dataclass
class _Sums:
    """What the parts say of themselves, added up."""

    text_bytes: Counter[Split] = field(default_factory=Counter)
    special_tokens: Counter[Split] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    unknown_tokens: int = 0


def merge_parts(
    source: Source,
    parts: Sequence[tuple[Unit, Path]],
    files: Sequence[SeenFile],
    tokenizer: Tokenizer,
    folder: Path,
    address: str,
    cleaning: SourceCleaning | None = None,
) -> dict[Split, StoreManifest]:
    """Write `folder`/{train,held_out} from a source's parts; the folder appears only when all is well.

    Args:
        source: The source.
        parts: Its units in reading order, each with the folder of its part.
        files: Its files with their hashes, kept in `origin.json`.
        tokenizer: What encoded the text.
        folder: The stores' folder; must not exist.
        address: What the folder's name was made from.
        cleaning: How the source was cleaned; its report is written beside the stores.

    Raises:
        DataError: The source has no usable document, none for training, or one id twice.
        StoreError: A part is damaged.
        DiskFullError: The disk is full; no part of a store remains, the parts do.
    """
    tally, sums = Tally(), _Sums()
    with replacing_folder(folder) as partial:
        writers = {split: SplitWriter(partial / split, tokenizer.vocab_size) for split in SPLITS}
        with writers["train"], writers["held_out"], (partial / REFUSED).open("w", encoding="ascii") as refused:
            for part, rows_before in _located(parts):
                _take(part, rows_before, writers, tally, sums, refused)
            for writer in writers.values():
                writer.close()
        _require_documents(source, tally, sums, writers)
        _require_own_ids(source, [writer.folder for writer in writers.values()])
        manifests = {
            split: writer.finish(
                source=source.spec.name,
                split=split,
                kind=source.spec.kind,
                part=source.spec.part,
                address=address,
                tokenizer_digest=tokenizer.digest,
                text_bytes=sums.text_bytes[split],
                special_tokens=sums.special_tokens[split],
                held_out_frac=source.spec.held_out_frac,
                python_version=source.python_version,
                rejected=dict(sorted(tally.rejected.items())),
                rejected_examples=dict(sorted(tally.examples.items())),
                removed=dict(sorted(sums.removed.items())),
            )
            for split, writer in writers.items()
        }
        write_json(partial / ORIGIN, [[file.label, file.sha256, file.bytes] for file in files])
        if cleaning is not None and cleaning.write_report is not None:
            cleaning.write_report(partial)
    _report(source, tally, sums, manifests, folder)
    return manifests


def _located(parts: Sequence[tuple[Unit, Path]]) -> Iterator[tuple[StorePart, int]]:
    """Yield each part with the rows of its file that come before it."""
    file, rows_before = "", 0
    for unit, folder in parts:
        rows_before = rows_before if unit.file.label == file else 0
        part = StorePart(folder)
        part.verify_rows()  # now: from a damaged row on, everything written after it would be wrong
        yield part, rows_before
        file, rows_before = unit.file.label, rows_before + part.record.unit_rows


def _take(
    part: StorePart, rows_before: int, writers: Mapping[Split, SplitWriter], tally: Tally, sums: _Sums, refused: TextIO
) -> None:
    """Append one part to the stores, the tally and the quarantine file."""
    record = part.record
    for split in SPLITS:
        for chunk in part.tokens(split):
            writers[split].add_tokens(chunk)
    for batch in part.rows():
        for split in SPLITS:
            own = batch.filter(pc.equal(batch.column("held_out"), split == "held_out"))
            if own.num_rows:
                writers[split].add_documents(*_columns(own, rows_before))
    tally.rows += record.rows
    for line in part.refused():
        moved, reason, file, row = moved_line(line, rows_before)
        tally.reject(reason, file, row)
        refused.write(moved)
    sums.text_bytes.update(record.text_bytes)
    sums.special_tokens.update(record.special_tokens)
    sums.removed.update(record.removed)
    sums.unknown_tokens += record.unknown_tokens


def _columns(
    batch: pa.RecordBatch, rows_before: int
) -> tuple[list[str], pa.Array, NDArray[np.int64], NDArray[np.int64]]:
    """Return ids, files, true rows and lengths; an id that is still empty is made from file and row."""
    rows = batch.column("row").to_numpy() + rows_before
    ids: list[str] = batch.column("id").to_pylist()
    if "" in ids:
        files = batch.column("file").to_pylist()
        ids = [own or default_id(file, row) for own, file, row in zip(ids, files, rows.tolist(), strict=True)]
    return ids, batch.column("file"), rows, batch.column("length").to_numpy()


def _require_documents(source: Source, tally: Tally, sums: _Sums, writers: Mapping[Split, SplitWriter]) -> None:
    if writers["train"].documents > 0:
        return
    name, held_out = source.spec.name, writers["held_out"].documents
    if held_out:
        raise DataError(
            f"source {name!r} has no document left for training",
            seen=f"{held_out} documents, all held out by held_out_frac {source.spec.held_out_frac}",
            fix="lower `held_out_frac`, or give the source more documents",
        )
    if sums.removed:
        raise DataError(
            f"source {name!r} has no document left: cleaning took out all that could be read",
            seen=", ".join(f"{count} x {reason}" for reason, count in sorted(sums.removed.items())),
            fix="relax the recipe's cleaning, or leave the source out",
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


def _require_own_ids(source: Source, folders: Sequence[Path]) -> None:
    """Refuse a source in which two documents, in either split, have one id."""
    # Equal ids have equal hashes, and hardly any others do: only the documents behind a repeated hash are read.
    for repeated in repeated_hashes(folders):
        for start in range(0, len(repeated), _SUSPECTS_AT_ONCE):
            suspects = repeated[start : start + _SUSPECTS_AT_ONCE]
            seen: dict[str, str] = {}
            for file, row, document_id in chain.from_iterable(_rows_with(folder, suspects) for folder in folders):
                place = f"{file}:{row + 1}"
                if document_id in seen:
                    raise two_of_one_id(source.spec.name, document_id, seen[document_id], place)
                seen[document_id] = place


def two_of_one_id(source: str, document_id: str, first: str, second: str) -> DataError:
    """Return the error for an id that stands at two places of a source."""
    return DataError(
        f"source {source!r} has two documents of one id",
        seen=f"{document_id!r} at {first} and at {second}",
        fix="choose another `id_field`, or leave it out: ids are then made from file and row",
    )


def _rows_with(folder: Path, suspects: NDArray[np.uint64]) -> Iterator[tuple[str, int, str]]:
    """Yield file, row and id of the documents whose id's hash is among the suspects, row group by row group."""
    rows = rows_of_hashes(folder, suspects)
    with pq.ParquetFile(folder / DOCUMENTS) as table:
        first = 0
        for group in range(table.num_row_groups):
            stop = first + table.metadata.row_group(group).num_rows
            inside = rows[np.searchsorted(rows, first) : np.searchsorted(rows, stop)] - first
            if len(inside):
                chosen = table.read_row_group(group, columns=["file", "row", "id"]).take(inside).to_pydict()
                yield from zip(chosen["file"], chosen["row"], chosen["id"], strict=True)
            first = stop


def _report(source: Source, tally: Tally, sums: _Sums, manifests: Mapping[Split, StoreManifest], folder: Path) -> None:
    """Say what was refused and removed, and what the splits lack."""
    name = source.spec.name
    if tally.rejected:
        note(
            f"source {name!r}: {sum(tally.rejected.values())} of {tally.rows} rows refused: {tally.summary()}; "
            f"all of them are in {folder / REFUSED}"
        )
    if sums.removed:
        reasons = ", ".join(f"{count} x {reason}" for reason, count in sorted(sums.removed.items()))
        note(f"source {name!r}: cleaning took out {sum(sums.removed.values())} documents: {reasons}")
    if sums.unknown_tokens:
        tokens = sum(manifest.tokens for manifest in manifests.values())
        note(
            f"source {name!r}: {sums.unknown_tokens:,} of {tokens:,} tokens are unknown to the tokenizer; "
            "bits per byte are over what is left"
        )
    if source.spec.held_out_frac > 0 and manifests["held_out"].documents == 0:
        note(
            f"source {name!r}: none of its {manifests['train'].documents} documents fell into the held-out share of "
            f"{source.spec.held_out_frac}; it has no held-out loss (raise `held_out_frac` to get one)"
        )
    asked, held_out_bytes = source.spec.held_out_frac, manifests["held_out"].text_bytes
    share = held_out_bytes / max(1, held_out_bytes + manifests["train"].text_bytes)
    if share > asked + max(asked, _MUCH_MORE_HELD_OUT):
        note(
            f"source {name!r}: {100 * share:.1f} % of its bytes are held out, {100 * asked:g} % were asked for: its "
            f"{manifests['held_out'].documents + manifests['train'].documents} documents are few or unequal; smaller "
            "ones (`split` for text files) come nearer"
        )
