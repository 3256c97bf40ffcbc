"""Choosing the text a tokenizer is trained or audited on: a fixed sample, spread over the sources."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import replace

from seqpair.data.sources.documents import Document, Source, Tally
from seqpair.data.sources.opening import training_documents
from seqpair.errors import DataError
from seqpair.files import hash64
from seqpair.text import Progress


def training_texts(sources: Sequence[Source], budget_bytes: int) -> Iterator[str]:
    """Yield training text of about `budget_bytes` UTF-8 bytes in all, never held-out text.

    The sources share the budget evenly; what a small one leaves goes to the larger ones. Sources of token ids
    have no text.

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
        for document in sampled_documents(source, share):
            left -= document.text_bytes
            yield document.text


def sampled_documents(source: Source, budget_bytes: int) -> list[Document]:
    """Return training documents of about `budget_bytes` UTF-8 bytes, never held-out ones.

    Those with the smallest hashes of their ids are taken, so the sample is spread over the source and depends on
    nothing but the source; the last one is cut so that the budget is kept. Memory is bounded by the budget. Documents
    that were published tokenized, without their text, are left out.
    """
    # A heap with the largest hash on top; the count decides between equal ids, which are refused later on.
    kept: list[tuple[int, str, int, Document]] = []
    total, tally = 0, Tally()
    progress = Progress(f"sampling {source.spec.name}", sum(file.size_bytes for file in source.files) / 1e6, "MB")
    for count, document in enumerate(training_documents(source, tally)):
        progress.update(tally.bytes_done / 1e6)
        if not document.text:
            continue
        heapq.heappush(kept, (-hash64(document.id), document.id, count, document))
        total += document.text_bytes
        while kept and total - kept[0][3].text_bytes >= budget_bytes:
            total -= heapq.heappop(kept)[3].text_bytes
    progress.update(tally.bytes_done / 1e6)
    progress.finish(f"{len(kept):,} documents taken")
    documents = [document for *_, document in sorted(kept, key=lambda item: item[:3], reverse=True)]
    if documents and total > budget_bytes:
        keep_bytes = documents[-1].text_bytes - (total - budget_bytes)
        text = documents[-1].text.encode("utf-8")[:keep_bytes].decode("utf-8", errors="ignore")
        documents[-1] = replace(documents[-1], text=text, text_bytes=len(text.encode("utf-8")))
    return documents
