"""Corruption: which tokens are chosen for prediction, and what the model sees in their place.

Every draw is a hash of (seed, phase, purpose) and of (position, token index within the sequence's content), so it
does not depend on rank, worker, microbatch, layout, device or objective: all masked members of a study share it, and
the number of chosen tokens is known before the first backward.

The functions use operators only where it matters, so numpy arrays (uint32 words, half the memory traffic) and
torch int64 tensors give the same bits. What is common to a sequence's tokens is hashed once a sequence.

Source: BERT's 80/10/10 (Devlin et al., arXiv 1810.04805, section 3.1). Differs: special tokens are
never chosen and never drawn as a replacement.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from seqpair.counter import MASK_32, as_fraction_threshold, begin_hash, end_hash, key_words

IdArray = Any
"""A numpy int64 array or a torch int64 tensor."""
WordArray = Any
"""A numpy uint32 array or a torch int64 tensor with values in [0, 2**32)."""

_TO_MASK = as_fraction_threshold(0.8)
_TO_RANDOM = as_fraction_threshold(0.9)


class TokenCounters(NamedTuple):
    """The address of each token: its sequence's training position and its index in the content.

    Attributes:
        low, high: (S,) words of each sequence's position in the phase's order.
        sequence: (T,) int64, the sequence that each token belongs to.
        index: (T,) words, 0 for the first content token of the sequence.
    """

    low: WordArray
    high: WordArray
    sequence: IdArray
    index: WordArray

    @classmethod
    def of(cls, positions: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> TokenCounters:
        """Return the addresses of all tokens, in numpy, for sequences at some positions, end to end."""
        low, high = (positions & MASK_32).astype(np.uint32), (positions >> 32).astype(np.uint32)
        ends = np.cumsum(lengths)
        index = np.arange(ends[-1] if ends.size else 0, dtype=np.uint32)
        index -= np.repeat((ends - lengths).astype(np.uint32), lengths)
        return cls(low, high, np.repeat(np.arange(lengths.size), lengths), index)

    def draw(self, seed: int, phase: str, purpose: str) -> WordArray:
        """Return one random 32-bit word a token, (T,)."""
        key = key_words(seed, phase, purpose)
        return end_hash(key, begin_hash(key, self.low, self.high).take(self.sequence), self.index)

    def take(self, where: IdArray) -> TokenCounters:
        """Return the addresses of the tokens at an index or a mask."""
        return self._replace(sequence=self.sequence[where], index=self.index[where])


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
        ids: (M,) the chosen tokens' ids: int64, in numpy also uint32.
        counters: Their addresses.
        seed: The study's seed.
        phase: The phase's name.
        mask_id: The id of `[MASK]`.
        regular_ids: (R,) int64, the ids a random token is drawn from, uniformly.

    Returns:
        (M,), of the carrier and dtype of `ids`.
    """
    kind = counters.draw(seed, phase, "corruption")
    seen = ids + (kind < _TO_MASK) * (mask_id - ids)  # may wrap around and come back; no branch on random bits
    random = ((kind >= _TO_MASK) & (kind < _TO_RANDOM)).nonzero()
    random = random[0] if isinstance(random, tuple) else random[:, 0]
    word = counters.take(random).draw(seed, phase, "replacement")
    wide = word.astype(np.int64) if isinstance(word, np.ndarray) else word  # a product needs more than 32 bits
    seen[random] = regular_ids[(wide * len(regular_ids)) >> 32]
    return seen
