"""The unigram model of a study's tokenizer: the baseline that knows only how often each token occurs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from seqpair.data.store.store import Store
from seqpair.data.tokenizer.tokenizer import Tokenizer

MOST_TOKENS_A_SOURCE = 50_000_000
_CHUNK_TOKENS = 1 << 22


class UnigramModel:
    """Token frequencies of the training stores, with one added to every entry.

    p(t) = (count(t) + 1) / (tokens + entries)

    Attributes:
        bits: (entries,) float64, -log2 p of every entry.
        most_frequent: The most frequent entry.
    """

    def __init__(self, counts: NDArray[np.int64]) -> None:
        smoothed = counts.astype(np.float64) + 1.0
        self.bits: NDArray[np.float64] = np.log2(smoothed.sum()) - np.log2(smoothed)
        self.most_frequent = int(np.argmax(counts))

    @classmethod
    def of(cls, train: Mapping[str, Store], tokenizer: Tokenizer) -> UnigramModel:
        """Count the training stores' tokens: of each source all, at most the first 50 million."""
        counts = np.zeros(tokenizer.entries, dtype=np.int64)
        for store in train.values():
            tokens = store.tokens[:MOST_TOKENS_A_SOURCE]
            for first in range(0, len(tokens), _CHUNK_TOKENS):
                counts += np.bincount(tokens[first : first + _CHUNK_TOKENS], minlength=tokenizer.entries)
        return cls(counts)
