"""What a plan needs to know of a store: counts, and nothing of the store itself.

The caller (the data layer, through the command line) makes these values; without them a plan is an estimate.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StoreStats(BaseModel):
    """Counts of one source's training store.

    Attributes:
        source: The source's name in the recipe.
        digest: The store's content digest.
        documents: Documents.
        tokens: Content tokens (without added specials).
        text_bytes: UTF-8 bytes of the text behind the tokens.
        sequences: For each sequence length in use, how many sequences the documents give.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    digest: str
    documents: int
    tokens: int
    text_bytes: int
    sequences: dict[int, int]

    def mean_tokens(self, seq_len: int) -> float:
        """Return the mean content tokens of a sequence at this sequence length."""
        return self.tokens / self.sequences[seq_len]
