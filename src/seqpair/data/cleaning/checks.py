"""All rules that look at one document at a time, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from seqpair.data.cleaning.contamination import EvalIndex, Hit
from seqpair.data.cleaning.quality import Fault, Measured, length_fault, quality_fault
from seqpair.data.cleaning.words import Words
from seqpair.recipe.cleaning_spec import CleaningSpec, DecontaminateSpec


@dataclass(frozen=True)
class Finding:
    """What the rules say of one document.

    Attributes:
        fault: Why it is removed; None if it stays.
        hits: The evaluation items found in it that count by the rules, removed for them or not.
    """

    fault: Fault | None = None
    hits: tuple[Hit, ...] = field(default=())


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
