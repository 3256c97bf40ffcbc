"""What a store says of itself, and what a recipe's data section was made into."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from seqpair.errors import StoreError
from seqpair.files import sha256_json
from seqpair.recipe.data_spec import SourceSpec, TokenizerSpec

STORE_FORMAT = 2
MANIFEST = "manifest.json"
TOKENS, OFFSETS, DOCUMENTS, ID_HASHES, ID_ROWS = (
    "tokens.bin",
    "offsets.i64",
    "documents.parquet",
    "ids.u64",
    "ids-rows.i64",
)
COUNTED_LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8000, 8192)
"""Sequence lengths whose sequence counts every manifest holds, so that a plan opens nothing else."""

Split = Literal["train", "held_out"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileEntry(_Frozen):
    """A file's SHA-256 and size."""

    sha256: str
    bytes: int


class StoreManifest(_Frozen):
    """One split of one source as tokens.

    Attributes:
        format_version: The store format.
        source, split, kind, part: Which text this is.
        digest: Content digest: tokens, offsets, ids and the tokenizer; equal wherever it is made.
        address: What the store was asked to be: source bytes, options and tokenizer.
        tokenizer_digest: `Tokenizer.digest` of the tokenizer it was made with.
        vocab_size: The padded vocabulary, which fixed `dtype`.
        dtype: `uint16` or `uint32`, little-endian.
        documents, tokens, text_bytes: Documents, content tokens, UTF-8 bytes of their text.
        special_tokens: Tokens whose id is special because a text spells a special token out.
        sequences: For common sequence lengths, how many sequences the documents give.
        files: SHA-256 and size of every file.
        held_out_frac: The share held out.
        python_version: The interpreter, for the `python` kind.
        rejected: Rows of the whole source (both splits) that were refused, by reason.
        rejected_examples: The first place of each reason, `file:line`.
        removed: Documents of the whole source that cleaning took out, by reason.
    """

    format_version: int = STORE_FORMAT
    source: str
    split: Split
    kind: str
    part: str | None
    digest: str
    address: str
    tokenizer_digest: str
    vocab_size: int
    dtype: Literal["uint16", "uint32"]
    documents: int
    tokens: int
    text_bytes: int
    special_tokens: int
    sequences: dict[int, int]
    files: dict[str, FileEntry]
    held_out_frac: float
    python_version: str | None
    rejected: dict[str, int]
    rejected_examples: dict[str, str]
    removed: dict[str, int] = {}


class SeenFile(_Frozen):
    """A source file as it was when it was hashed; size and time decide whether it must be hashed again."""

    path: str
    label: str
    bytes: int
    mtime_ns: int
    sha256: str


class PreparedIndex(_Frozen):
    """What one recipe's data section was made into; folders are relative to the folder of stores.

    Attributes:
        format_version: The store format.
        tokenizer: The tokenizer's folder.
        tokenizer_digest: Its digest.
        vocab_size: Its padded vocabulary.
        stores: For each source, the folder that holds its splits.
        files: For each source (and "" for a loaded tokenizer), its files when they were hashed.
    """

    format_version: int = STORE_FORMAT
    tokenizer: str
    tokenizer_digest: str
    vocab_size: int
    stores: dict[str, str]
    files: dict[str, tuple[SeenFile, ...]]


def spec_digest(sources: Sequence[SourceSpec], tokenizer: TokenizerSpec) -> str:
    """Return the digest of a recipe's data section, paths included.

    The sources' order counts where duplicates are removed: the first of equal documents stays.
    """
    compared = any(spec.cleaning is not None and spec.cleaning.duplicates is not None for spec in sources)
    ordered = list(sources) if compared else sorted(sources, key=lambda spec: spec.name)
    return sha256_json(
        {"sources": [spec.model_dump(mode="json") for spec in ordered], "tokenizer": tokenizer.model_dump(mode="json")}
    )


def index_path(sources: Sequence[SourceSpec], tokenizer: TokenizerSpec, store_folder: Path) -> Path:
    """Return where the index of a recipe's data section lies."""
    return store_folder / "prepared" / f"{spec_digest(sources, tokenizer)[:16]}.json"


def read_manifest(folder: Path) -> StoreManifest:
    """Read a store's manifest.

    Raises:
        StoreError: It is missing, is not one, or has a newer format.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise StoreError("there is no store", seen=str(folder), fix="run `seqpair prepare` with the recipe")
    try:
        manifest = StoreManifest.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise StoreError(
            f"the manifest of the store {folder} is not readable",
            seen=error.errors()[0]["msg"],
            fix="delete the store's folder and run `seqpair prepare` again",
        ) from error
    if manifest.format_version != STORE_FORMAT:
        raise StoreError(
            f"the store {folder} has another format",
            seen=manifest.format_version,
            allowed=STORE_FORMAT,
            fix="delete its folder and run `seqpair prepare` again",
        )
    return manifest


def read_index(sources: Sequence[SourceSpec], tokenizer: TokenizerSpec, store_folder: Path) -> PreparedIndex | None:
    """Read the index of a recipe's data section; None if it was never prepared here.

    Raises:
        StoreError: The index is damaged.
    """
    path = index_path(sources, tokenizer, store_folder)
    if not path.is_file():
        return None
    try:
        return PreparedIndex.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise StoreError(
            f"the index {path} is not readable",
            seen=error.errors()[0]["msg"],
            fix="delete it and run `seqpair prepare` again; stores that are there are kept",
        ) from error
