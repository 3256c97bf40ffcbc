"""Finding the words of evaluation sets in training text.

Owns the index of the sets' word n-grams and the search for them. Must not know how a set's files are read or
what becomes of a hit. Entry points: `build_index`, `EvalIndex`, `Hit`.

Source: Brown et al. 2020, "Language Models are Few-Shot Learners" (arXiv 2005.14165), appendix C: 13-grams of
normalised words, shorter ones for short items.
Differs: a short text is searched for as a whole instead of choosing one n for a data set; n-grams that many
training documents contain are not excused; a document is removed whole or stays, nothing is cut out of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from seqpair.atomic import write_json
from seqpair.data.cleaning.eval_sets import EvalItem
from seqpair.data.cleaning.words import Words, inside_texts, ngram_hashes, words_of

_HASHES, _STARTS, _OWNERS, _FILTER, _ITEMS, _SUMMARY = (
    "hashes.npy",
    "starts.npy",
    "owners.npy",
    "filter.npy",
    "items.parquet",
    "summary.json",
)
_FILTER_BITS_PER_HASH = 16


@dataclass
class SetSummary:
    """What became of one evaluation set in the index.

    Attributes:
        name: The set.
        items, texts: Items and texts read.
        whole_texts: Texts with fewer words than n, searched for as a whole.
        too_short_texts: Texts with too few words to be searched for.
        ngrams: Word n-grams, each once for an item.
    """

    name: str
    items: int = 0
    texts: int = 0
    whole_texts: int = 0
    too_short_texts: int = 0
    ngrams: int = 0


@dataclass(frozen=True)
class Hit:
    """An item of an evaluation set found in a document.

    Attributes:
        eval_set, file, row: The item.
        shared_ngrams, item_ngrams: How many of its n-grams the document contains, and how many it has.
        text: The first shared words as they stand in the document, case and width folded; longer than one
            n-gram where neighbours are shared too.
    """

    eval_set: str
    file: str
    row: int
    shared_ngrams: int
    item_ngrams: int
    text: str

    @property
    def item_frac(self) -> float:
        """Return the share of the item's n-grams that were found."""
        return self.shared_ngrams / self.item_ngrams


class _Found(NamedTuple):
    word: int  # number of the n-gram's first word in the document
    words: int  # how many words it has
    entry: int  # its number in the index


def build_index(items: Iterable[tuple[str, EvalItem]], ngram_words: int, min_words: int, folder: Path) -> None:
    """Write the index of (set, item) pairs into an existing, empty folder.

    Args:
        items: The items with the names of their sets.
        ngram_words: n.
        min_words: A text of at least so many but fewer than n words is one n-gram of its own length.
        folder: Where the files go.
    """
    summaries: dict[str, SetSummary] = {}
    table: dict[str, list[object]] = {"eval_set": [], "file": [], "row": [], "ngrams": []}
    hashes: list[NDArray[np.uint64]] = []
    owners: list[NDArray[np.int32]] = []
    lengths: set[int] = set()
    for name, item in items:
        summary = summaries.setdefault(name, SetSummary(name))
        words = words_of(item.texts)
        counts = np.diff(words.offsets)
        found = _item_hashes(words, counts, ngram_words, min_words)
        lengths.update(int(n) for n in counts if min_words <= n < ngram_words)
        lengths.update({ngram_words} if (counts >= ngram_words).any() else ())
        summary.items += 1
        summary.texts += len(counts)
        summary.whole_texts += int(((counts >= min_words) & (counts < ngram_words)).sum())
        summary.too_short_texts += int((counts < min_words).sum())
        summary.ngrams += len(found)
        if len(found) == 0:
            continue
        hashes.append(found)
        owners.append(np.full(len(found), len(table["row"]), dtype=np.int32))
        for key, value in (("eval_set", name), ("file", item.file), ("row", item.row), ("ngrams", len(found))):
            table[key].append(value)
    all_hashes = np.concatenate(hashes) if hashes else np.zeros(0, dtype=np.uint64)
    all_owners = np.concatenate(owners) if owners else np.zeros(0, dtype=np.int32)
    order = np.lexsort((all_owners, all_hashes))
    unique, starts = np.unique(all_hashes[order], return_index=True)
    for file, array in (
        (_HASHES, unique),
        (_STARTS, np.append(starts, len(all_hashes)).astype(np.int64)),
        (_OWNERS, all_owners[order]),
        (_FILTER, _filter_of(unique)),
    ):
        np.save(folder / file, array)
    pq.write_table(pa.table(table), folder / _ITEMS)
    shown = [asdict(summary) for summary in summaries.values()]
    write_json(folder / _SUMMARY, {"ngram_words": ngram_words, "lengths": sorted(lengths), "sets": shown})


def _item_hashes(words: Words, counts: NDArray[np.int64], ngram_words: int, min_words: int) -> NDArray[np.uint64]:
    """Return the distinct n-grams of an item's texts, short texts whole."""
    found: list[NDArray[np.uint64]] = []
    if (counts >= ngram_words).any():
        chosen, _ = inside_texts(words.offsets, ngram_words)
        found.append(ngram_hashes(words.hashes, [ngram_words])[0][chosen])
    for text in np.flatnonzero((counts >= min_words) & (counts < ngram_words)):
        whole = words.hashes[words.offsets[text] : words.offsets[text + 1]]
        found.append(ngram_hashes(whole, [len(whole)])[0])
    return np.unique(np.concatenate(found)) if found else np.zeros(0, dtype=np.uint64)


def _filter_bits(hashes: int) -> int:
    return int(np.clip(np.ceil(np.log2(max(1, hashes) * _FILTER_BITS_PER_HASH)), 10, 33))


def _filter_of(hashes: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return a bit for every possible beginning of a hash: set if the index has one that begins so."""
    bits = _filter_bits(len(hashes))
    heads = np.unique(hashes >> np.uint64(64 - bits))
    table = np.zeros(1 << (bits - 3), dtype=np.uint8)
    np.bitwise_or.at(table, heads >> np.uint64(3), np.uint8(1) << (heads & np.uint64(7)).astype(np.uint8))
    return table


class EvalIndex:
    """The index, memory-mapped: processes on one machine share it."""

    def __init__(self, folder: Path) -> None:
        """Open what `build_index` wrote."""
        self._hashes, self._starts, self._owners, self._filter = (
            np.load(folder / name, mmap_mode="r") for name in (_HASHES, _STARTS, _OWNERS, _FILTER)
        )
        self._items: dict[str, list[object]] = pq.read_table(folder / _ITEMS).to_pydict()
        summary = json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))
        self.lengths: list[int] = summary["lengths"]
        self.sets = [SetSummary(**entry) for entry in summary["sets"]]
        self._shift = np.uint64(64 - _filter_bits(len(self._hashes)))

    def search(self, words: Words) -> dict[int, list[Hit]]:
        """Return the hits of each text that has any, most shared n-grams first."""
        found: dict[int, list[_Found]] = {}
        if len(self._hashes) == 0:
            return {}
        for n, hashes in zip(self.lengths, ngram_hashes(words.hashes, self.lengths), strict=True):
            places = np.flatnonzero(self._may_have(hashes))
            entries = np.minimum(np.searchsorted(self._hashes, hashes[places]), len(self._hashes) - 1)
            true = self._hashes[entries] == hashes[places]
            places, entries = places[true], entries[true]
            texts = np.searchsorted(words.offsets, places, side="right") - 1
            inside = places + n <= words.offsets[texts + 1]
            for place, entry, text in zip(places[inside], entries[inside], texts[inside], strict=True):
                found.setdefault(int(text), []).append(_Found(int(place), n, int(entry)))
        return {text: self._hits(words, sorted(places)) for text, places in sorted(found.items())}

    def _may_have(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        heads = hashes >> self._shift
        bits = self._filter[heads >> np.uint64(3)] >> (heads & np.uint64(7)).astype(np.uint8)
        return (bits & np.uint8(1)).astype(bool)

    def _hits(self, words: Words, found: list[_Found]) -> list[Hit]:
        """Gather what was found in one document by item."""
        entries: dict[int, set[int]] = {}
        first: dict[int, tuple[int, int]] = {}
        for place in found:
            for owner in self._owners[self._starts[place.entry] : self._starts[place.entry + 1]].tolist():
                entries.setdefault(owner, set()).add(place.entry)
                begin, end = first.get(owner, (place.word, place.word + place.words))
                if place.word <= end:  # it goes on where the first shared words end
                    end = max(end, place.word + place.words)
                first[owner] = (begin, end)
        hits = [
            Hit(
                eval_set=str(self._items["eval_set"][owner]),
                file=str(self._items["file"][owner]),
                row=int(str(self._items["row"][owner])),
                shared_ngrams=len(shared),
                item_ngrams=int(str(self._items["ngrams"][owner])),
                text=words.excerpt(first[owner][0], first[owner][1] - first[owner][0]),
            )
            for owner, shared in entries.items()
        ]
        return sorted(hits, key=lambda hit: (-hit.shared_ngrams, hit.eval_set, hit.file, hit.row))

