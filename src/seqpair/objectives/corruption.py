"""Corruption: which tokens are chosen for prediction, and what the model sees in their place.

Owns the draws. Every draw is a hash of (seed, phase, purpose) and of (position, token index within the
sequence's content), so it does not depend on rank, worker, microbatch, layout, device or objective:
all masked members of a study share it, and the number of chosen tokens is known before the first
backward. Must not know objectives or batches. Entry points: `TokenCounters`, `chosen_tokens`,
`corrupted_ids`.

The functions use operators only where it matters, so numpy int64 arrays and torch int64 tensors give
the same bits.

Source: BERT's 80/10/10 (Devlin et al., arXiv 1810.04805, section 3.1). Differs: special tokens are
never chosen and never drawn as a replacement.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from seqpair.counter import MASK_32, as_fraction_threshold, hash_words, key_words

IdArray = Any
"""A numpy int64 array or a torch int64 tensor."""

_TO_MASK = as_fraction_threshold(0.8)
_TO_RANDOM = as_fraction_threshold(0.9)


class TokenCounters(NamedTuple):
    """The address of each token: its sequence's training position and its index in the content.

    Attributes:
        position: (T,) int64, the position of the token's sequence in the phase's order.
        index: (T,) int64, 0 for the first content token of the sequence.
    """

    position: IdArray
    index: IdArray

    def draw(self, seed: int, phase: str, purpose: str) -> IdArray:
        """Return one random 32-bit word a token, (T,) int64."""
        key = key_words(seed, phase, purpose)
        return hash_words(key, self.position & MASK_32, self.position >> 32, self.index)

    def take(self, where: IdArray) -> TokenCounters:
        """Return the addresses at an index or a mask."""
        return TokenCounters(self.position[where], self.index[where])


def chosen_tokens(counters: TokenCounters, seed: int, phase: str, mask_frac: float) -> IdArray:
    """Return (T,) bool: the tokens chosen for prediction, each with probability `mask_frac`.

    The caller leaves special tokens out.
    """
    chosen: IdArray = counters.draw(seed, phase, "mask") < as_fraction_threshold(mask_frac)
    return chosen


def corrupted_ids(
    ids: IdArray, counters: TokenCounters, seed: int, phase: str, mask_id: int, regular_ids: IdArray
) -> IdArray:
    """Return what the model sees of chosen tokens: 80 % the mask, 10 % a random token, 10 % themselves.

    Args:
        ids: (M,) int64, the chosen tokens' ids.
        counters: Their addresses.
        seed: The study's seed.
        phase: The phase's name.
        mask_id: The id of `[MASK]`.
        regular_ids: (R,) int64, the ids a random token is drawn from, uniformly.

    Returns:
        (M,) int64, of the carrier of `ids`.
    """
    kind = counters.draw(seed, phase, "corruption")
    place = (counters.draw(seed, phase, "replacement") * len(regular_ids)) >> 32
    masked = (kind < _TO_MASK) * 1
    random = ((kind >= _TO_MASK) & (kind < _TO_RANDOM)) * 1
    return masked * mask_id + random * regular_ids[place] + (1 - masked - random) * ids
