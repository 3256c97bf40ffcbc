"""The trigram model of a study's training text: what grammar tests give to somebody who knows short strings of words.

Interpolated with fixed weights (Jelinek and Mercer 1980), over words in small letters and punctuation:

    p3(w | u v) = 0.6 c(u v w) / c(u v) + 0.4 p2(w | v)     p2(w | v) = 0.6 c(v w) / c(v) + 0.4 p1(w)

and p1(w) = (c(w) + 1) / (words + words of the tests + 1). A context that never occurred gives all its weight to the
shorter one. A sentence begins after a full stop, and its end is not scored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from seqpair.data.prepared import Prepared

WEIGHT = 0.6
MOST_TOKENS_A_SOURCE = 10_000_000
"""Of each source at most the first documents with this many tokens are counted, which takes a minute at most."""
_DOCUMENTS_AT_ONCE = 500
_WORDS = re.compile(r"\w+(?:'\w+)?|[^\w\s]")
_START = "."
Keys = NDArray[np.int64]


def trigram_log_probabilities(prepared: Prepared, sentences: Sequence[str]) -> list[float]:
    """Return log P of each sentence, in nats, by the trigram model of a study's training stores.

    Args:
        prepared: The study's tokenizer and stores.
        sentences: The sentences.
    """
    return log_probabilities(_documents(prepared), sentences)


def log_probabilities(documents: Iterator[str], sentences: Sequence[str]) -> list[float]:
    """Return log P of each sentence, in nats, by the trigram model of some documents."""
    said = [[_START, *_WORDS.findall(sentence.lower())] for sentence in sentences]
    # Only words of the sentences need a number of their own, and only their n-grams are counted.
    ids = {word: number for number, word in enumerate(sorted({word for own in said for word in own}), 1)}
    base = len(ids) + 1
    rows = [np.array([ids[word] for word in own], dtype=np.int64) for own in said]
    wanted = [np.unique(np.concatenate([_grams(row, order, base) for row in rows])) for order in (1, 2, 3)]
    counts = [np.zeros(len(own), dtype=np.int64) for own in wanted]
    words = 0
    for text in documents:
        stream = np.array([ids.get(word, 0) for word in _WORDS.findall(text.lower())], dtype=np.int64)
        words += len(stream)
        for order, (keys, count) in enumerate(zip(wanted, counts, strict=True), 1):
            found, times = np.unique(_grams(stream, order, base), return_counts=True)
            place = np.searchsorted(keys, found).clip(max=max(0, len(keys) - 1))
            here = keys[place] == found if len(keys) else np.zeros(0, dtype=bool)
            np.add.at(count, place[here], times[here])

    def count_of(row: Keys, order: int) -> NDArray[np.float64]:
        grams = _grams(row, order, base)
        return counts[order - 1][np.searchsorted(wanted[order - 1], grams)].astype(np.float64)

    totals = []
    for row in rows:
        one, two, three = (count_of(row, order) for order in (1, 2, 3))
        p = (one + 1) / (words + base)
        for order, (more, context) in enumerate(((two, one[:-1]), (three, two[:-1])), 1):
            share = np.divide(more, context, out=np.zeros(len(more)), where=context > 0)
            weight = np.where(context > 0, WEIGHT, 0.0)
            # The first `order` words have no context of this length, so they keep what the shorter one gives.
            p[order:] = weight * share + (1 - weight) * p[order:]
        totals.append(float(np.log(p[1:]).sum()))
    return totals


def _grams(row: Keys, order: int, base: int) -> Keys:
    """Return the n-grams of a row as numbers, (n - order + 1,)."""
    size = max(0, len(row) - order + 1)
    keys = np.zeros(size, dtype=np.int64)
    for place in range(order):
        keys = keys * base + row[place : place + size]
    return keys


def _documents(prepared: Prepared) -> Iterator[str]:
    """Yield the training documents, some hundred joined at a time."""
    for store in prepared.train.values():
        last = int(np.searchsorted(store.offsets, MOST_TOKENS_A_SOURCE, side="right"))
        rows = range(min(store.manifest.documents, last))
        for start in range(0, len(rows), _DOCUMENTS_AT_ONCE):
            chunk = rows[start : start + _DOCUMENTS_AT_ONCE]
            yield "\n.\n".join(prepared.tokenizer.decode(store.document_tokens(row)) for row in chunk)
