"""Choosing the text a tokenizer is trained on: a fixed sample, spread over the sources.

Owns the sampling rule. Must not know tokenizers or stores. Entry point: `training_texts`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from seqpair.data.documents import Source
from seqpair.data.sources import training_documents
from seqpair.digest import hash64
from seqpair.errors import DataError


def training_texts(sources: Sequence[Source], budget_bytes: int) -> Iterator[str]:
    """Yield training text of about `budget_bytes` UTF-8 bytes in all, never held-out text.

    The sources share the budget evenly; what a small one leaves goes to the larger ones. Within a
    source the documents with the smallest hashes of their ids are taken, so the sample is spread over
    it and depends on nothing but the source. Memory is bounded by the budget. Sources of token ids have no text.

    Raises:
        DataError: No source has text.
    """
    readable = [source for source in sources if source.spec.ids_field is None]
    if not readable:
        raise DataError(
            "a tokenizer cannot be trained on token ids",
            seen="sources with `ids_field` only",
            allowed="a source with text, or the tokenizer that the ids were published with",
            fix="set `data.tokenizer.path`",
        )
    by_size = sorted(readable, key=lambda source: (sum(file.size_bytes for file in source.files), source.spec.name))
    left = budget_bytes
    for index, source in enumerate(by_size):
        share = left // (len(by_size) - index)
        for text in _sample(source, share):
            left -= len(text.encode("utf-8"))
            yield text


def _sample(source: Source, budget_bytes: int) -> list[str]:
    """Return the texts with the smallest id hashes, the last one cut so that the budget is kept."""
    kept: list[tuple[int, str, str, int]] = []  # a heap with the largest hash on top
    total = 0
    for document in training_documents(source):
        heapq.heappush(kept, (-hash64(document.id), document.id, document.text, document.text_bytes))
        total += document.text_bytes
        while kept and total - kept[0][3] >= budget_bytes:
            total -= heapq.heappop(kept)[3]
    ordered = sorted(kept, reverse=True)
    texts = [text for _, _, text, _ in ordered]
    if texts and total > budget_bytes:
        keep_bytes = ordered[-1][3] - (total - budget_bytes)
        texts[-1] = texts[-1].encode("utf-8")[:keep_bytes].decode("utf-8", errors="ignore")
    return texts
