"""Texts as words, and words as 64-bit hashes that are the same on every machine.

A text is brought to NFKC and lower case. A word is a run of letters, marks and digits; in scripts that write
no spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) every character is a word of its own. Everything else
separates. All of it is integer arithmetic in numpy, so it depends on the Unicode tables alone.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SYMBOL, LETTER, DIGIT, SPACE, BROKEN, LONE = range(6)
"""Classes of characters: punctuation and symbols; letters and marks; numbers; white space; control and
replacement characters; letters that are words of their own."""

UNICODE_TABLES = unicodedata.unidata_version
"""The version of the tables that decide what a letter is; a part of every cleaned store's address."""

_LONE_RANGES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x31FF),  # CJK radicals, kana, Bopomofo
    (0x3400, 0x9FFF),  # CJK ideographs
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
_REPLACEMENT = 0xFFFD
_POWER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2**64
_NGRAM_POWER = np.uint64(0xD1342543DE82EF95)
_BLOCK_CHARACTERS = 1 << 20
_CODE_POINTS = 0x110000


@dataclass(frozen=True)
class Words:
    """The words of several texts, D of them with W words in all.

    Attributes:
        joined: The folded texts, one after the other.
        hashes: uint64 (W,): each word's hash.
        starts, ends: int64 (W,): where each word lies in `joined`.
        offsets: int64 (D + 1,): text d has the words offsets[d] to offsets[d + 1].
    """

    joined: str
    hashes: NDArray[np.uint64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def excerpt(self, first: int, count: int) -> str:
        """Return the folded text from one word over `count` words."""
        return self.joined[int(self.starts[first]) : int(self.ends[first + count - 1])]


@functools.cache
def _class_table() -> NDArray[np.uint8]:
    """Return the class of every code point, uint8 (0x110000,)."""
    by_category = {"L": LETTER, "M": LETTER, "N": DIGIT, "Z": SPACE, "C": BROKEN}
    table = np.fromiter(
        (by_category.get(unicodedata.category(chr(code))[0], SYMBOL) for code in range(_CODE_POINTS)),
        dtype=np.uint8,
        count=_CODE_POINTS,
    )
    for first, last in _LONE_RANGES:
        part = table[first : last + 1]
        part[part == LETTER] = LONE
    table[[ord(character) for character in "\t\n\v\f\r"]] = SPACE
    for code in range(0x300):  # soft hyphens, joiners and marks of direction are no sign of a broken text
        if unicodedata.category(chr(code)) == "Cf":
            table[code] = SYMBOL
    table[0x200B:0x2010] = SYMBOL
    table[0xFEFF] = SYMBOL
    table[_REPLACEMENT] = BROKEN
    return table


def character_classes(text: str) -> NDArray[np.uint8]:
    """Return the class of each character, uint8 (characters,)."""
    return _class_table()[_codes(text)]


def fold(text: str) -> str:
    """Return a text as it is compared: NFKC, lower case."""
    return (text if text.isascii() else unicodedata.normalize("NFKC", text)).lower()


def words_of(texts: Sequence[str]) -> Words:
    """Return the words of several texts; no word reaches over the end of its text."""
    folded = [fold(text) for text in texts]
    joined = "\n".join(folded)
    codes = _codes(joined)
    classes = _class_table()[codes]
    lone = classes == LONE
    inside = (classes == LETTER) | (classes == DIGIT) | lone
    # A word begins where the character before is outside; a lone character begins one, and so does what follows it.
    begins = inside.copy()
    begins[1:] &= ~inside[:-1] | lone[1:] | lone[:-1]
    stops = inside.copy()
    stops[:-1] &= ~inside[1:] | begins[1:]
    starts, ends = np.flatnonzero(begins), np.flatnonzero(stops) + 1
    text_ends = np.cumsum([len(text) + 1 for text in folded], dtype=np.int64)
    offsets = np.concatenate([[0], np.searchsorted(starts, text_ends)]).astype(np.int64)
    return Words(joined, _hash_words(codes, starts, ends), starts, ends, offsets)


def _codes(text: str) -> NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", errors="replace"), dtype="<u4")


def _hash_words(codes: NDArray[np.uint32], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hash each word: a polynomial over its mixed characters modulo 2**64, all words of a block at once."""
    # With v_i the value of character i and p the base, S_k = sum of v_i p**i over i < k. A word from a to b has the
    # hash (S_b - S_a) / p**a: the same wherever it stands. Overflow is the arithmetic modulo 2**64, in which the odd p
    # has an inverse. So all words of a block cost one cumulative sum, and no loop over words or lengths.
    hashes = np.empty(len(starts), dtype=np.uint64)
    first = 0
    while first < len(starts):
        # Blocks keep the tables of powers small; a word longer than a block is one by itself.
        begin = int(starts[first])
        last = max(first + 1, int(np.searchsorted(ends, begin + _BLOCK_CHARACTERS, side="right")))
        length = int(ends[last - 1]) - begin
        powers, inverses = _powers(max(length, _BLOCK_CHARACTERS))
        values = _value_table()[codes[begin : begin + length]]
        values *= powers[:length]
        sums = np.zeros(length + 1, dtype=np.uint64)
        np.cumsum(values, out=sums[1:])
        low, high = starts[first:last] - begin, ends[first:last] - begin
        hashes[first:last] = (sums[high] - sums[low]) * inverses[low]
        first = last
    return mix64(hashes)  # the low bits of a polynomial modulo 2**64 depend on the low bits of its terms alone


@functools.cache
def _value_table() -> NDArray[np.uint64]:
    """Return a random-looking value for every code point, uint64 (0x110000,)."""
    return mix64(np.arange(1, _CODE_POINTS + 1, dtype=np.uint64))


@functools.lru_cache(maxsize=2)
def _powers(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the first `count` powers of the base and of its inverse modulo 2**64."""
    inverse = np.uint64(pow(int(_POWER), -1, 1 << 64))
    tables = []
    for base in (_POWER, inverse):
        table = np.full(count, base, dtype=np.uint64)
        table[0] = 1
        tables.append(np.cumprod(table, dtype=np.uint64))
    return tables[0], tables[1]


def mix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return well mixed 64-bit words; a bijection.

    Source: the finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
    """
    mixed = values ^ (values >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def ngram_hashes(hashes: NDArray[np.uint64], lengths: Sequence[int]) -> list[NDArray[np.uint64]]:
    """Return the hashes of all word n-grams of several lengths, as if the words were one text.

    Args:
        hashes: uint64 (W,).
        lengths: The n, ascending.

    Returns:
        For each n, uint64 (max(0, W - n + 1),): element i covers the words i to i + n. Equal word sequences
        have equal hashes; n is a part of the hash.
    """
    found: list[NDArray[np.uint64]] = []
    running = hashes.copy()
    wanted = set(lengths)
    for n in range(1, max(lengths, default=0) + 1):
        if n > 1:
            # Horner's rule: the hash of the n-gram at i is that of the (n - 1)-gram at i, times the base, plus a word.
            running = running[: max(0, len(hashes) - n + 1)] * _NGRAM_POWER + hashes[n - 1 :]
        if n in wanted:
            # With n mixed in, a short text that is searched for as a whole never meets an n-gram of another length.
            found.append(mix64(running ^ np.uint64(n)))
    return found


def inside_texts(offsets: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which n-grams of a run of texts lie in one text.

    Returns:
        The numbers of those n-grams, int64 (G,), ascending; and int64 (D + 1,): which of them are each text's.
    """
    # A text of w words has w - n + 1 n-grams; the n - 1 that begin at its end reach into the next text.
    counts = np.maximum(np.diff(offsets) - (n - 1), 0)
    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    chosen = np.arange(bounds[-1], dtype=np.int64) + np.repeat(offsets[:-1] - bounds[:-1], counts)
    return chosen, bounds
