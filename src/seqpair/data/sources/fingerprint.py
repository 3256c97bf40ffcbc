"""What a source's bytes are: hashes of its files, and the addresses that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from seqpair.data.sources.documents import Source, SourceFile, Unit
from seqpair.data.sources.remote import RemoteFile
from seqpair.data.sources.tables import is_tsv
from seqpair.data.store.manifest import STORE_FORMAT, SeenFile
from seqpair.files import sha256_file, sha256_json
from seqpair.recipe.data_spec import TokenizerSpec

ADDRESS_LETTERS = 12
"""Letters of an address in the name of a folder."""

_PREPARATION = 1
"""Raise this when the same source bytes give other documents, so that older stores are not taken."""


def look_at(files: Sequence[SourceFile], before: Sequence[SeenFile]) -> tuple[SeenFile, ...]:
    """Return the files with their hashes; one whose size and time are as before is not hashed again.

    A file elsewhere has no time: it is taken by the server's checksum or entity tag, else hashed each time.
    """
    known = {(seen.path, seen.bytes, seen.mtime_ns): seen.sha256 for seen in before}
    looked: list[SeenFile] = []
    for file in files:
        if isinstance(file.path, RemoteFile):
            digest = _remote_digest(file.path)
        else:
            digest = known.get((str(file.path), file.size_bytes, file.mtime_ns)) or sha256_file(file.path)
        looked.append(
            SeenFile(
                path=str(file.path), label=file.label, bytes=file.size_bytes, mtime_ns=file.mtime_ns, sha256=digest
            )
        )
    return tuple(looked)


def _remote_digest(file: RemoteFile) -> str:
    """Return what stands for a file elsewhere: the server's own checksum or tag, else the hash of its bytes."""
    if file.identity is None:
        return sha256_file(file)
    return sha256_json({"identity": file.identity, "bytes": file.size_bytes})


def file_of(path: Path) -> SourceFile:
    """Return a single file, labelled by its name."""
    return SourceFile.of(path, path.name)


def source_content(source: Source, files: Sequence[SeenFile]) -> dict[str, object]:
    """Return what fixes a source's documents: its files' digests and the options of reading."""
    spec = source.spec
    options = spec.reading_options
    if spec.kind == "csv" and spec.quoting is None and any(is_tsv(file.label.rpartition("/")[2]) for file in files):
        options["tsv"] = "without quotes"  # earlier stores of such files were read with quotes
    is_older = spec.kind in ("jsonl", "parquet", "python") or (spec.kind == "text" and spec.split is None)
    newer = {} if is_older else {"options": options}
    return {
        **newer,
        "preparation": _PREPARATION,
        "kind": spec.kind,
        "part": spec.part,
        "text_field": list(spec.text_field) if spec.kind in ("jsonl", "parquet") else None,
        "id_field": spec.id_field if spec.kind in ("jsonl", "parquet") else None,
        "held_out_frac": spec.held_out_frac,
        "python_version": source.python_version,
        "files": [[file.label, file.sha256] for file in files],
    }


def store_address(
    source: Source, files: Sequence[SeenFile], tokenizer_digest: str, cleaning_digest: str | None = None
) -> str:
    """Return the address of a source's stores: its bytes, its options, the tokenizer and how it is cleaned."""
    return sha256_json(
        {
            "format": STORE_FORMAT,
            "source": source_content(source, files),
            "tokenizer": tokenizer_digest,
            "cleaning": cleaning_digest,
        }
    )


def unit_files(source: Source, unit: Unit) -> list[SourceFile]:
    """Return the files that decide what a unit holds; all of them for a kind that does not say more."""
    if source.spec.kind in ("jsonl", "parquet", "mds", "csv", "webdataset"):
        return [unit.file]
    if source.spec.kind in ("text", "python"):
        return source.files[unit.start : unit.stop]
    return source.files


def part_address(
    source: Source,
    unit: Unit,
    files: Sequence[SeenFile],
    tokenizer_digest: str,
    cleaning_digest: str | None = None,
    removals_digest: str | None = None,
) -> str:
    """Return the address of one unit's part: as the store's, of the unit's own files.

    Where a source changes in one file, the other files' finished parts stay good.
    """
    own = {file.label for file in unit_files(source, unit)}
    seen = [file for file in files if file.label in own]
    start = unit.start if source.spec.kind not in ("text", "python") else 0
    stop = unit.stop if source.spec.kind not in ("text", "python") else len(seen)
    address = store_address(source, seen, tokenizer_digest, cleaning_digest)
    return sha256_json(
        {"store": address, "file": unit.file.label, "start": start, "stop": stop, "removals": removals_digest}
    )


def trained_address(
    sources: Sequence[Source], files: Mapping[str, Sequence[SeenFile]], tokenizer: TokenizerSpec
) -> str:
    """Return the address of a trained tokenizer: all sources and the training options."""
    contents = sorted(
        ([source.spec.name, source_content(source, files[source.spec.name])] for source in sources),
        key=lambda pair: str(pair[0]),
    )
    return sha256_json({"sources": contents, "tokenizer": tokenizer.model_dump(mode="json")})
