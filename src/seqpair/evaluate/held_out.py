"""Held-out text as evaluation needs it: fixed sequences, fixed windows, and texts for the export's proof."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqpair.checkpoint.manifest import read_checkpoint_manifest
from seqpair.counter import hash_words, key_words
from seqpair.data.prepared import open_prepared
from seqpair.data.store.store import Store
from seqpair.errors import StoreError

Ids = NDArray[np.int64]
PROOF_TEXTS_A_SOURCE = 6
_PROOF_TOKENS = 1500


@dataclass(frozen=True)
class HeldOutSequence:
    """A piece of a held-out document.

    Attributes:
        id: `source/document#piece` or `source/document@offset`, the same for all members.
        source: The source's name.
        row: The document's row in its store.
        content: Its content ids.
    """

    id: str
    source: str
    row: int
    content: Ids


def _shuffled(count: int, *key: object) -> NDArray[np.int64]:
    """Return [0, count) in an order fixed by the key."""
    return np.argsort(hash_words(key_words("evaluate", *key), np.arange(count, dtype=np.int64)), kind="stable")


def held_out_sequences(
    held_out: Mapping[str, Store], seq_len: int, budget_tokens: int, purpose: str
) -> list[HeldOutSequence]:
    """Return training-like sequences of the held-out documents, the budget shared among the sources.

    Args:
        held_out: The held-out stores by source.
        seq_len: Tokens of a full sequence, specials included.
        budget_tokens: Content tokens to take, all sources together; at least one sequence of each.
        purpose: The task's name and version; another purpose takes another sample.
    """
    found: list[HeldOutSequence] = []
    for source, store in sorted(held_out.items()):
        pieces = store.pieces(seq_len)
        order = _shuffled(pieces.count, purpose, source)
        located = pieces.locate(order)
        ends = np.cumsum(located.stop - located.start)
        taken = min(pieces.count, int(np.searchsorted(ends, budget_tokens / len(held_out))) + 1)
        for place in range(taken):
            row = int(located.rows[place])
            content = store.tokens[int(located.start[place]) : int(located.stop[place])].astype(np.int64)
            found.append(
                HeldOutSequence(f"{source}/{store.document_id(row)}#{located.piece[place]}", source, row, content)
            )
    return found


def held_out_windows(
    held_out: Mapping[str, Store], window_tokens: int, purpose: str
) -> dict[str, list[HeldOutSequence]]:
    """Return all non-overlapping windows of the held-out documents by source, in an order fixed by the purpose.

    A document of n tokens gives n // window_tokens windows from its start.
    """
    found: dict[str, list[HeldOutSequence]] = {}
    for source, store in sorted(held_out.items()):
        counts = np.diff(store.offsets) // window_tokens  # windows of each document
        starts = np.concatenate(([0], np.cumsum(counts)))
        windows = []
        for index in _shuffled(int(starts[-1]), purpose, source):
            row = int(np.searchsorted(starts, index, side="right")) - 1
            offset = int(index - starts[row]) * window_tokens
            content = store.document_tokens(row)[offset : offset + window_tokens].astype(np.int64)
            windows.append(HeldOutSequence(f"{source}/{store.document_id(row)}@{offset}", source, row, content))
        found[source] = windows
    return found


def held_out_texts(checkpoint: Path) -> list[str] | None:
    """Return held-out texts of a checkpoint's study, or `None` if its stores are not at hand.

    Args:
        checkpoint: The checkpoint's folder.

    Raises:
        CheckpointError: The checkpoint's manifest cannot be read.
    """
    plan = read_checkpoint_manifest(checkpoint).plan
    try:
        prepared = open_prepared(plan.sources, plan.tokenizer, Path(plan.store_folder))
    except StoreError:
        return None
    texts = []
    for source, store in sorted(prepared.held_out.items()):
        for row in _shuffled(store.manifest.documents, "proof", source)[:PROOF_TEXTS_A_SOURCE]:
            texts.append(prepared.tokenizer.decode(store.document_tokens(int(row))[:_PROOF_TOKENS]))
    return texts
