"""Arithmetic of sequences that lie end to end: borders, indices, pieces of work of bounded size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

CHUNK_TOKENS = 1 << 16
"""Tokens that are worked on together: their indices and words stay in a core's cache."""


def borders_of(lengths: Numbers) -> Numbers:
    """Return the (S + 1,) borders of S sequences laid end to end, int64, from 0."""
    borders = np.zeros(lengths.size + 1, dtype=np.int64)
    np.cumsum(lengths, out=borders[1:])
    return borders


def span_numbers(starts: Numbers, lengths: Numbers) -> Numbers:
    """Return the numbers of all spans [start, start + length), one span after another, int64."""
    borders = borders_of(lengths)
    spans = np.repeat(starts - borders[:-1], lengths)
    spans += np.arange(spans.size, dtype=np.int64)
    return spans


def chunks(borders: Numbers, most_tokens: int = CHUNK_TOKENS) -> Iterator[slice]:
    """Yield runs of whole sequences of at most `most_tokens`; a longer sequence is a run by itself.

    Args:
        borders: (S + 1,) from `borders_of`.
        most_tokens: At least 1.

    Yields:
        Slices of [0, S), one after another; together they are all of it.
    """
    first, count = 0, borders.size - 1
    while first < count:
        stop = int(np.searchsorted(borders, borders[first] + most_tokens, side="right")) - 1
        stop = max(stop, first + 1)
        yield slice(first, stop)
        first = stop
