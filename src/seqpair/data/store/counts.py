"""What a plan needs of prepared stores, from small files only, and the plan that follows from it.

Imports neither torch nor tokenizers nor pyarrow, so that `seqpair plan` stays quick.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from seqpair.data.store.manifest import OFFSETS, StoreManifest, read_index, read_manifest
from seqpair.recipe.data_spec import SourceSpec, TokenizerSpec
from seqpair.recipe.plan import Plan, StoreStats
from seqpair.recipe.resolve import resolve_plans
from seqpair.recipe.schema import Recipe

_ROWS_AT_ONCE = 1 << 20


class PreparedStats(NamedTuple):
    """What a plan needs of prepared data: the training stores' counts and the padded vocabulary."""

    stats: dict[str, StoreStats]
    vocab_size: int


def stats_for(
    sources: Sequence[SourceSpec], tokenizer: TokenizerSpec, store_folder: Path, seq_lens: Iterable[int]
) -> PreparedStats | None:
    """Return the counts of a recipe's training stores; None if they are not (all) prepared.

    Raises:
        StoreError: An index or a manifest is damaged.
    """
    index = read_index(sources, tokenizer, store_folder)
    if index is None:
        return None
    lengths = sorted(set(seq_lens))
    stats: dict[str, StoreStats] = {}
    for spec in sources:
        folder = store_folder / index.stores[spec.name] / "train"
        if not folder.is_dir():
            return None
        stats[spec.name] = manifest_stats(read_manifest(folder), folder, lengths)
    return PreparedStats(stats, index.vocab_size)


def manifest_stats(manifest: StoreManifest, folder: Path, seq_lens: Iterable[int]) -> StoreStats:
    """Return a store's counts; a sequence length that the manifest does not hold is counted from the offsets."""
    sequences: dict[int, int] = {}
    for seq_len in seq_lens:
        known = manifest.sequences.get(seq_len)
        if known is None:
            offsets = np.memmap(folder / OFFSETS, dtype="<i8", mode="r")
            known = count_sequences(np.asarray(offsets), seq_len)
        sequences[seq_len] = known
    return StoreStats(
        source=manifest.source,
        digest=manifest.digest,
        documents=manifest.documents,
        tokens=manifest.tokens,
        text_bytes=manifest.text_bytes,
        sequences=sequences,
    )


def count_sequences(offsets: npt.NDArray[np.int64], seq_len: int) -> int:
    """Return how many sequences documents give: the sum over documents of ceil(n / (seq_len - 2)).

    Args:
        offsets: Token offsets of the documents, int64 (documents + 1,).
        seq_len: Tokens of a full sequence, specials included; at least 3.
    """
    total = 0
    for start in range(0, len(offsets) - 1, _ROWS_AT_ONCE):
        lengths = np.diff(offsets[start : start + _ROWS_AT_ONCE + 1])
        total += int((-(-lengths // (seq_len - 2))).sum())
    return total


def plan_member(recipe: Recipe, member: str) -> Plan:
    """Resolve a recipe for one member, with the real counts where its stores are prepared.

    Raises:
        RecipeError: The member is unknown, or the recipe cannot be resolved.
        StoreError: A manifest is damaged.
    """
    return plan_members(recipe, [member])[member]


def plan_members(recipe: Recipe, members: Sequence[str]) -> dict[str, Plan]:
    """Resolve a recipe for several members as `plan_member` does; the stores' counts are read once."""
    stats, vocab_size = counts_of(recipe) or (None, None)
    return resolve_plans(recipe, members, stats, vocab_size)


def counts_of(recipe: Recipe) -> PreparedStats | None:
    """Return the counts of a recipe's training stores at its phases' lengths; None if they are not prepared.

    Raises:
        StoreError: An index or a manifest is damaged.
    """
    data = recipe.data
    seq_lens = [phase.seq_len for phase in recipe.phases]
    return stats_for(data.sources, data.tokenizer, Path(data.stores), seq_lens)
