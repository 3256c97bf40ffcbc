"""The rules that look at one document at a time, in the order in which they are asked; none needs a language.

Source: Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher" (arXiv
2112.11446), appendix A.1 and table A1, for word length, symbols per word, bullets, ellipses, alphabetic words
and all repetition rules; Kocetkov et al. 2022, "The Stack" (arXiv 2211.15533), for line lengths. The fractions
of letters, digits, symbols and broken characters are plain counts of Unicode categories.
Differs: Gopher's demand for two English stop words is left out, as it needs a language. Repetition by
characters counts the characters of words, not of the spaces between them.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqpair.data.cleaning.contamination import EvalIndex, Hit
from seqpair.data.cleaning.words import (
    BROKEN,
    DIGIT,
    LETTER,
    LONE,
    SPACE,
    SYMBOL,
    Words,
    character_classes,
    ngram_hashes,
)
from seqpair.recipe.cleaning_spec import CleaningSpec, DecontaminateSpec, LengthSpec, QualitySpec

_BULLETS = ("\u2022", "\u2023", "\u25e6", "\u25cf", "\u25aa", "\u2043", "- ", "* ")
_ELLIPSES = ("...", "\u2026")
_PARAGRAPH_BREAK = re.compile(r"\n[ \t]*\n\s*")


@dataclass(frozen=True)
class Fault:
    """Why a document is removed.

    Attributes:
        reason: The rule, such as `quality: max_digit_frac`.
        detail: What was measured and what is allowed.
    """

    reason: str
    detail: str


class Measured:
    """One text with everything that rules measure, each worked out when a rule first asks for it."""

    def __init__(self, text: str, hashes: NDArray[np.uint64], word_characters: NDArray[np.int64]) -> None:
        """Take the text and its words.

        Args:
            text: The text as it is.
            hashes: uint64 (W,): the words' hashes.
            word_characters: int64 (W,): the words' lengths in characters.
        """
        self.text, self.hashes, self.word_characters = text, hashes, word_characters

    @functools.cached_property
    def class_counts(self) -> NDArray[np.int64]:
        """How many characters of each class there are."""
        return np.bincount(character_classes(self.text), minlength=LONE + 1)

    @functools.cached_property
    def lines(self) -> list[str]:
        """The lines that are not blank, without the space around them."""
        return [stripped for line in self.text.splitlines() if (stripped := line.strip())]

    @functools.cached_property
    def paragraphs(self) -> list[str]:
        """The parts between blank lines."""
        return [part for part in _PARAGRAPH_BREAK.split(self.text.strip()) if part]

    def share_of(self, *classes: int) -> float:
        """Return the share of some classes among the characters that are not white space."""
        visible = int(self.class_counts.sum() - self.class_counts[SPACE])
        return float(sum(self.class_counts[kind] for kind in classes) / max(1, visible))

    def per_word(self, count: float) -> float:
        """Return a count for each word."""
        return count / max(1, len(self.hashes))


def _alphabetic_words(text: Measured) -> float:
    words = re.findall(r"\S+", text.text)
    return sum(any(character.isalpha() for character in word) for word in words) / max(1, len(words))


def _hash_or_ellipsis(text: Measured) -> float:
    ellipses = sum(text.text.count(mark) for mark in _ELLIPSES)
    return text.per_word(max(text.text.count("#"), ellipses))


def _line_frac(text: Measured, holds: Callable[[str], bool]) -> float:
    return sum(holds(line) for line in text.lines) / max(1, len(text.lines))


def _repeated(parts: list[str], weight: Callable[[str], int]) -> float:
    """Return the weight of the parts that stood before, among all."""
    total = sum(map(weight, parts))
    again = sum(weight(part) * (count - 1) for part, count in Counter(parts).items())
    return again / max(1, total)


_MEASURES: dict[str, Callable[[Measured], float]] = {
    "min_letter_frac": lambda text: text.share_of(LETTER, LONE),
    "max_digit_frac": lambda text: text.share_of(DIGIT),
    "max_symbol_frac": lambda text: text.share_of(SYMBOL, BROKEN),
    "max_broken_frac": lambda text: float(text.class_counts[BROKEN] / max(1, text.class_counts.sum())),
    "min_mean_word_letters": lambda text: text.per_word(int(text.word_characters.sum())),
    "max_mean_word_letters": lambda text: text.per_word(int(text.word_characters.sum())),
    "min_alphabetic_word_frac": _alphabetic_words,
    "max_hash_or_ellipsis_per_word": _hash_or_ellipsis,
    "max_bullet_line_frac": lambda text: _line_frac(text, lambda line: line.startswith(_BULLETS)),
    "max_ellipsis_line_frac": lambda text: _line_frac(text, lambda line: line.endswith(_ELLIPSES)),
    "max_line_characters": lambda text: max(map(len, text.lines), default=0),
    "max_mean_line_characters": lambda text: sum(map(len, text.lines)) / max(1, len(text.lines)),
    "max_repeated_line_frac": lambda text: _repeated(text.lines, lambda _: 1),
    "max_repeated_paragraph_frac": lambda text: _repeated(text.paragraphs, lambda _: 1),
    "max_repeated_line_character_frac": lambda text: _repeated(text.lines, len),
    "max_repeated_paragraph_character_frac": lambda text: _repeated(text.paragraphs, len),
}


def length_fault(text_bytes: int, words: int, spec: LengthSpec) -> Fault | None:
    """Return the first length limit that a text breaks."""
    for field, seen in (
        ("min_bytes", text_bytes),
        ("max_bytes", text_bytes),
        ("min_words", words),
        ("max_words", words),
    ):
        limit = getattr(spec, field)
        if limit is not None and _breaks(field, seen, limit):
            return Fault(f"length: {field}", f"{seen}, {_limit(field, limit)}")
    return None


def quality_fault(text: Measured, spec: QualitySpec) -> Fault | None:
    """Return the first quality rule that a text breaks, in the order of `QualitySpec`."""
    for field, measure in _MEASURES.items():
        limit = getattr(spec, field)
        if limit is not None and _breaks(field, seen := measure(text), limit):
            return Fault(f"quality: {field}", f"{seen:.4g}, {_limit(field, limit)}")
    for field, share, limits in (
        ("max_top_ngram_frac", top_ngram_frac, spec.max_top_ngram_frac),
        ("max_repeated_ngram_frac", repeated_ngram_frac, spec.max_repeated_ngram_frac),
    ):
        for n, limit in sorted(limits.items()):
            if _breaks(field, seen := share(text, n), limit):
                return Fault(f"quality: {field} of {n} words", f"{seen:.4g}, {_limit(field, limit)}")
    return None


def _breaks(field: str, seen: float, limit: float) -> bool:
    return seen < limit if field.startswith("min_") else seen > limit


def _limit(field: str, limit: float) -> str:
    return f"{'at least' if field.startswith('min_') else 'at most'} {limit:g} allowed"


def _ngram_ids(text: Measured, n: int) -> NDArray[np.int64]:
    """Return for each word n-gram a number that equal n-grams share, int64 (W - n + 1,)."""
    return np.unique(ngram_hashes(text.hashes, [n])[0], return_inverse=True)[1].reshape(-1).astype(np.int64)


def top_ngram_frac(text: Measured, n: int) -> float:
    """Return the share of the words' characters that lie in the n-gram that stands most often.

    One that stands once counts nothing. Of several equally frequent ones the longest in characters counts.
    """
    ids = _ngram_ids(text, n)
    if len(ids) == 0:
        return 0.0
    counts = np.bincount(ids)
    if counts.max() < 2:
        return 0.0
    characters = np.convolve(text.word_characters, np.ones(n, dtype=np.int64), mode="valid")
    most = counts[ids] == counts.max()
    return float(counts.max() * characters[most].max() / max(1, int(text.word_characters.sum())))


def repeated_ngram_frac(text: Measured, n: int) -> float:
    """Return the share of the words' characters in n-grams that stood before; a word counts once."""
    ids = _ngram_ids(text, n)
    if len(ids) == 0:
        return 0.0
    again = np.ones(len(ids), dtype=bool)
    again[np.unique(ids, return_index=True)[1]] = False
    covered = np.zeros(len(text.hashes) + 1, dtype=np.int64)
    np.add.at(covered, np.flatnonzero(again), 1)
    np.add.at(covered, np.flatnonzero(again) + n, -1)
    words = np.cumsum(covered[:-1]) > 0
    return float(text.word_characters[words].sum() / max(1, int(text.word_characters.sum())))


@dataclass(frozen=True)
class Finding:
    """What the rules say of one document.

    Attributes:
        fault: Why it is removed; None if it stays.
        hits: The evaluation items found in it that count by the rules, removed for them or not.
    """

    fault: Fault | None = None
    hits: tuple[Hit, ...] = ()


def needs_words(rules: CleaningSpec) -> bool:
    """Return whether any rule looks at words; without one a text is not cut into words at all."""
    by_words = rules.length is not None and (rules.length.min_words is not None or rules.length.max_words is not None)
    near = rules.duplicates is not None and rules.duplicates.near is not None
    return by_words or near or rules.quality is not None or rules.decontaminate is not None


def check_texts(
    texts: Sequence[str], text_bytes: Sequence[int], words: Words, rules: CleaningSpec, index: EvalIndex | None
) -> list[Finding]:
    """Return what the rules say of each of D texts.

    Args:
        texts: The texts.
        text_bytes: Their lengths in UTF-8.
        words: Their words; without words if `needs_words` says so.
        rules: The rules; duplicates are not looked for here.
        index: The evaluation sets of `rules.decontaminate`.
    """
    hits = index.search(words) if index is not None else {}
    found: list[Finding] = []
    for number, (text, size) in enumerate(zip(texts, text_bytes, strict=True)):
        counted: tuple[Hit, ...] = ()
        if rules.decontaminate is not None:
            least = rules.decontaminate.min_item_frac
            counted = tuple(hit for hit in hits.get(number, ()) if hit.item_frac >= least)
        part = slice(int(words.offsets[number]), int(words.offsets[number + 1]))
        fault = length_fault(size, part.stop - part.start, rules.length) if rules.length else None
        if fault is None and rules.quality is not None:
            measured = Measured(text, words.hashes[part], words.ends[part] - words.starts[part])
            fault = quality_fault(measured, rules.quality)
        if fault is None and rules.decontaminate is not None and counted:
            fault = _contaminated(counted, rules.decontaminate)
        found.append(Finding(fault, counted))
    return found


def _contaminated(hits: Sequence[Hit], rules: DecontaminateSpec) -> Fault | None:
    if rules.action == "report":
        return None
    worst = hits[0]
    return Fault(
        f"evaluation text: {worst.eval_set}",
        f"{worst.shared_ngrams} of {worst.item_ngrams} n-grams of {worst.file}:{worst.row}, "
        f"first {worst.text[:200]!r}; {len(hits)} items in all",
    )
