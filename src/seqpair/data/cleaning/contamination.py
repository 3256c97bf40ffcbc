"""Finding the words of evaluation sets in training text.

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

from seqpair.data.cleaning.eval_sets import EvalItem
from seqpair.data.cleaning.words import Words, inside_texts, ngram_hashes, words_of
from seqpair.files import write_json

_HASHES, _STARTS, _OWNERS, _FILTER, _ITEMS, _SUMMARY = (
    "hashes.npy",
    "starts.npy",
    "owners.npy",
    "filter.npy",
    "items.parquet",
    "summary.json",
)
_BATCH_CHARACTERS = 1 << 20
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
    builder = _IndexBuilder(ngram_words, min_words)
    for name, item in items:
        builder.add(name, item)
    builder.write(folder)


class _IndexBuilder:
    """Gathers items in batches, so that small ones cost no call of their own."""

    def __init__(self, ngram_words: int, min_words: int) -> None:
        self._ngram_words, self._min_words = ngram_words, min_words
        self._summaries: dict[str, SetSummary] = {}
        self._items: dict[str, list[object]] = {"eval_set": [], "file": [], "row": []}
        self._batch: list[tuple[str, EvalItem]] = []
        self._characters = 0
        self._hashes: list[NDArray[np.uint64]] = []
        self._owners: list[NDArray[np.int32]] = []
        self._counts: list[NDArray[np.int64]] = []
        self._lengths: set[int] = set()

    def add(self, name: str, item: EvalItem) -> None:
        self._batch.append((name, item))
        self._characters += sum(map(len, item.texts))
        if self._characters >= _BATCH_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        """Hash the batch's n-grams, each once for an item; short texts are one n-gram."""
        low, high = self._min_words, self._ngram_words
        words = words_of([text for _, item in self._batch for text in item.texts])
        counts = np.diff(words.offsets)
        text_owners = np.repeat(np.arange(len(self._batch)), [len(item.texts) for _, item in self._batch])
        self._summarise(counts)
        chosen, bounds = inside_texts(words.offsets, high)
        by_length = dict(zip(range(low, high + 1), ngram_hashes(words.hashes, range(low, high + 1)), strict=True))
        hashes, owners = [by_length[high][chosen]], [np.repeat(text_owners, np.diff(bounds))]
        self._lengths.update([high] if len(chosen) else [])
        for n in range(low, high):
            whole = np.flatnonzero(counts == n)
            hashes.append(by_length[n][words.offsets[whole]])
            owners.append(text_owners[whole])
            self._lengths.update([n] if len(whole) else [])
        joined, joined_owners = np.concatenate(hashes), np.concatenate(owners)
        # Sorted by item and hash, repetitions inside one item are neighbours and only the first of them counts.
        order = np.lexsort((joined, joined_owners))
        joined, joined_owners = joined[order], joined_owners[order]
        first = np.ones(len(joined), dtype=bool)
        first[1:] = (joined[1:] != joined[:-1]) | (joined_owners[1:] != joined_owners[:-1])
        found = np.bincount(joined_owners[first], minlength=len(self._batch))
        self._hashes.append(joined[first])
        self._owners.append((joined_owners[first] + len(self._items["row"])).astype(np.int32))
        self._counts.append(found)
        for (name, item), count in zip(self._batch, found.tolist(), strict=True):
            self._summaries[name].ngrams += count
            for key, value in (("eval_set", name), ("file", item.file), ("row", item.row)):
                self._items[key].append(value)
        self._batch, self._characters = [], 0

    def _summarise(self, counts: NDArray[np.int64]) -> None:
        start = 0
        for name, item in self._batch:
            summary = self._summaries.setdefault(name, SetSummary(name))
            own = counts[start : start + len(item.texts)]
            start += len(own)
            summary.items += 1
            summary.texts += len(own)
            summary.whole_texts += int(((own >= self._min_words) & (own < self._ngram_words)).sum())
            summary.too_short_texts += int((own < self._min_words).sum())

    def write(self, folder: Path) -> None:
        if self._batch:
            self._flush()
        hashes = np.concatenate([np.zeros(0, dtype=np.uint64), *self._hashes])
        owners = np.concatenate([np.zeros(0, dtype=np.int32), *self._owners])
        order = np.lexsort((owners, hashes))
        hashes, owners = hashes[order], owners[order]
        # Each hash once, with its owners as a run. Not np.unique, which sorts or hashes what is sorted already.
        starts = np.flatnonzero(np.append(True, hashes[1:] != hashes[:-1])[: len(hashes)])
        unique = hashes[starts]
        for file, array in (
            (_HASHES, unique),
            (_STARTS, np.append(starts, len(hashes)).astype(np.int64)),
            (_OWNERS, owners),
            (_FILTER, _filter_of(unique)),
        ):
            np.save(folder / file, array)
        counts = np.concatenate([np.zeros(0, dtype=np.int64), *self._counts])
        table = {**self._items, "ngrams": counts.tolist()}
        pq.write_table(pa.table(table), folder / _ITEMS)
        sets = [asdict(summary) for summary in self._summaries.values()]
        write_json(
            folder / _SUMMARY, {"ngram_words": self._ngram_words, "lengths": sorted(self._lengths), "sets": sets}
        )


def _filter_bits(hashes: int) -> int:
    # A power of two of bits, so that a probe is a shift; 10 bits make at least whole bytes, 32 are 512 MB.
    return int(np.clip(np.ceil(np.log2(max(1, hashes) * _FILTER_BITS_PER_HASH)), 10, 32))


def _heads(hashes: NDArray[np.uint64], bits: int, probe: int) -> NDArray[np.uint64]:
    """Return some bits of each hash: the first for probe 0, the next for probe 1."""
    return (hashes << np.uint64(probe * bits % 64)) >> np.uint64(64 - bits)


def _filter_of(hashes: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Return a Bloom filter of two probes: nearly all words of a text are not in the index, and it says so fast."""
    bits = _filter_bits(len(hashes))
    table = np.zeros(1 << (bits - 3), dtype=np.uint8)
    for probe in (0, 1):
        heads = _heads(hashes, bits, probe)
        # `at`, because several hashes may set bits of one byte: plain indexing would keep the last of them only.
        np.bitwise_or.at(table, heads >> np.uint64(3), np.uint8(1) << (heads & np.uint64(7)).astype(np.uint8))
    return table


class EvalIndex:
    """The index, memory-mapped: processes on one machine share it."""

    def __init__(self, folder: Path) -> None:
        self._hashes, self._starts, self._owners, self._filter = (
            np.load(folder / name, mmap_mode="r") for name in (_HASHES, _STARTS, _OWNERS, _FILTER)
        )
        self._items: dict[str, list[object]] = pq.read_table(folder / _ITEMS).to_pydict()
        summary = json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))
        self.lengths: list[int] = summary["lengths"]
        self.sets = [SetSummary(**entry) for entry in summary["sets"]]
        self._bits = _filter_bits(len(self._hashes))

    def search(self, words: Words) -> dict[int, list[Hit]]:
        """Return the hits of each text that has any, most shared n-grams first."""
        found: dict[int, list[_Found]] = {}
        if len(self._hashes) == 0:
            return {}
        for n, hashes in zip(self.lengths, ngram_hashes(words.hashes, self.lengths), strict=True):
            # The filter first, probe by probe: the binary search, which misses the cache, is left for one word in many.
            places = np.flatnonzero(self._may_have(hashes, 0))
            places = places[self._may_have(hashes[places], 1)]
            entries = np.minimum(np.searchsorted(self._hashes, hashes[places]), len(self._hashes) - 1)
            true = self._hashes[entries] == hashes[places]
            places, entries = places[true], entries[true]
            # An n-gram that begins in one text and ends in the next is none.
            texts = np.searchsorted(words.offsets, places, side="right") - 1
            inside = places + n <= words.offsets[texts + 1]
            for place, entry, text in zip(places[inside], entries[inside], texts[inside], strict=True):
                found.setdefault(int(text), []).append(_Found(int(place), n, int(entry)))
        return {text: self._hits(words, sorted(places)) for text, places in sorted(found.items())}

    def _may_have(self, hashes: NDArray[np.uint64], probe: int) -> NDArray[np.bool_]:
        heads = _heads(hashes, self._bits, probe)
        bits: NDArray[np.uint8] = self._filter[heads >> np.uint64(3)] >> (heads & np.uint64(7)).astype(np.uint8)
        return (bits & np.uint8(1)).astype(np.bool_)

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
