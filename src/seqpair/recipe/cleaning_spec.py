"""What a recipe says about cleaning: which documents do not become tokens.

Nothing is removed unless a rule is written down.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from seqpair.recipe.sizes import Count

_Frac = Annotated[float, Field(ge=0.0, le=1.0)]
SectionName = Literal["length", "quality", "duplicates", "decontaminate"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LengthSpec(_Section):
    """Length limits, both ends inclusive; a limit that is not given does not apply.

    Attributes:
        min_bytes, max_bytes: Limit on the UTF-8 bytes of a document.
        min_words, max_words: Limit on the words of a document. A word is a run of letters, marks and digits; in scripts
            without spaces every character is one.
    """

    min_bytes: Count | None = None
    max_bytes: Count | None = None
    min_words: Count | None = None
    max_words: Count | None = None

    @model_validator(mode="after")
    def _in_order(self) -> LengthSpec:
        for unit, low, high in (
            ("bytes", self.min_bytes, self.max_bytes),
            ("words", self.min_words, self.max_words),
        ):
            if low is not None and high is not None and low > high:
                raise ValueError(f"min_{unit} {low} is above max_{unit} {high}")
        return self


class QualitySpec(_Section):
    """Quality rules that need no language; each applies only if its threshold is given.

    Attributes:
        min_letter_frac: Share of letters and marks among visible characters.
        max_digit_frac: Share of digits among visible characters.
        max_symbol_frac: Share of visible characters that are neither letter, mark nor digit.
        max_broken_frac: Share of replacement and control characters among all (wrong encodings, binary files).
        min_mean_word_letters, max_mean_word_letters: Mean characters per word.
        min_alphabetic_word_frac: Share of words with at least one letter.
        max_hash_or_ellipsis_per_word: `#` signs or ellipses per word, whichever are more.
        max_bullet_line_frac: Share of lines that begin with a bullet.
        max_ellipsis_line_frac: Share of lines that end in an ellipsis.
        max_line_characters: Characters of the longest line.
        max_mean_line_characters: Mean characters of the lines that are not blank.
        max_repeated_line_frac, max_repeated_paragraph_frac: Share of lines (paragraphs) that repeat an earlier one of
            the document.
        max_repeated_line_character_frac, max_repeated_paragraph_character_frac: Share of characters in such lines
            (paragraphs).
        max_top_ngram_frac: For each n, share of the words' characters in the most frequent word n-gram, such as
            `{2: 0.2, 3: 0.18}`.
        max_repeated_ngram_frac: For each n, share of the words' characters in word n-grams that occurred before.
    """

    min_letter_frac: _Frac | None = None
    max_digit_frac: _Frac | None = None
    max_symbol_frac: _Frac | None = None
    max_broken_frac: _Frac | None = None
    min_mean_word_letters: float | None = Field(default=None, gt=0)
    max_mean_word_letters: float | None = Field(default=None, gt=0)
    min_alphabetic_word_frac: _Frac | None = None
    max_hash_or_ellipsis_per_word: float | None = Field(default=None, ge=0)
    max_bullet_line_frac: _Frac | None = None
    max_ellipsis_line_frac: _Frac | None = None
    max_line_characters: Count | None = None
    max_mean_line_characters: float | None = Field(default=None, gt=0)
    max_repeated_line_frac: _Frac | None = None
    max_repeated_paragraph_frac: _Frac | None = None
    max_repeated_line_character_frac: _Frac | None = None
    max_repeated_paragraph_character_frac: _Frac | None = None
    max_top_ngram_frac: dict[Annotated[int, Field(ge=1, le=32)], _Frac] = {}
    max_repeated_ngram_frac: dict[Annotated[int, Field(ge=1, le=32)], _Frac] = {}

    def __hash__(self) -> int:
        """Hash by content: a mapping has no hash of its own, and sources are looked up by their specs."""
        return hash(self.model_dump_json())


class NearDuplicatesSpec(_Section):
    """When two texts count as nearly the same: the overlap of their sets of word n-grams, estimated by MinHash.

    Attributes:
        similarity: Estimated Jaccard similarity from which the later document is removed.
        ngram_words: Words per n-gram.
        min_words: Do not compare documents with fewer words; `exact` still finds equal ones.
        permutations: Slots of a MinHash signature, four bytes each. The estimate's standard error at similarity s is
            at most sqrt(s * (1 - s) / permutations).
    """

    similarity: float = Field(default=0.8, ge=0.5, le=1.0)
    ngram_words: int = Field(default=5, ge=1, le=32)
    min_words: Count = 20
    permutations: int = Field(default=128, ge=16, le=1024)

    @model_validator(mode="after")
    def _has_ngrams(self) -> NearDuplicatesSpec:
        if self.min_words < self.ngram_words:
            raise ValueError(
                f"min_words {self.min_words} is below ngram_words {self.ngram_words}: such a text has no n-gram"
            )
        return self


class DuplicatesSpec(_Section):
    """Removing documents that were there before, in the order of the recipe's sources; the first one stays.

    Attributes:
        exact: Remove texts whose UTF-8 bytes are equal.
        near: Remove texts that are nearly the same; null removes none of them.
        across_sources: Also compare with the sources that come earlier in the recipe.
    """

    exact: bool = True
    near: NearDuplicatesSpec | None = None
    across_sources: bool = True

    @model_validator(mode="after")
    def _does_something(self) -> DuplicatesSpec:
        if not self.exact and self.near is None:
            raise ValueError("neither 'exact' nor 'near' is asked for; leave 'duplicates' out instead")
        return self


class EvalSetSpec(_Section):
    """An evaluation set that training text must not contain.

    Attributes:
        name: Name of the set in reports.
        paths: Files, folders or patterns, relative to the recipe file. `.jsonl`, `.json`, `.csv` and `.tsv` (also `.gz`
            and `.zst`) and `.zip` of such files are read by their ending; other files are plain text.
        fields: JSON keys or columns (by name or 0-based number) of the text; empty takes every text found.
        plain_items: What an item of a plain text file is.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    paths: tuple[str, ...] = Field(min_length=1)
    fields: tuple[str, ...] = ()
    plain_items: Literal["file", "line"] = "file"


class DecontaminateSpec(_Section):
    """Removing documents that share word n-grams with evaluation sets.

    Attributes:
        against: The evaluation sets.
        ngram_words: Words per n-gram, regardless of case and punctuation.
        min_words: Search for a text shorter than `ngram_words` as a whole if it has at least this number of words;
            shorter ones are only counted.
        min_item_frac: Share of an item's n-grams that a document must contain; at 0 one n-gram is enough.
        action: Whether such a document is removed or only reported.
    """

    against: tuple[EvalSetSpec, ...] = ()
    ngram_words: int = Field(default=13, ge=2, le=64)
    min_words: int = Field(default=8, ge=2, le=64)
    min_item_frac: _Frac = 0.0
    action: Literal["remove", "report"] = "remove"

    @model_validator(mode="after")
    def _fits_together(self) -> DecontaminateSpec:
        if self.min_words > self.ngram_words:
            raise ValueError(f"min_words {self.min_words} is above ngram_words {self.ngram_words}")
        names = [entry.name for entry in self.against]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the evaluation set '{twice[0]}' stands twice")
        return self


class CleaningSpec(_Section):
    """Cleaning of all sources, or of one; a section that is not there removes nothing.

    Attributes:
        length: Limits on length.
        quality: Limits on what the text looks like.
        duplicates: Remove documents that occurred before; only in `data.cleaning`.
        decontaminate: Remove documents that contain text of evaluation sets.
        skip: Sections of `data.cleaning` that do not apply to this source; only in a source.
    """

    length: LengthSpec | None = None
    quality: QualitySpec | None = None
    duplicates: DuplicatesSpec | None = None
    decontaminate: DecontaminateSpec | None = None
    skip: tuple[SectionName, ...] = ()

    @model_validator(mode="after")
    def _skips_what_it_does_not_state(self) -> CleaningSpec:
        both = [name for name in self.skip if getattr(self, name) is not None]
        if both:
            raise ValueError(f"'{both[0]}' is both stated and skipped")
        return self

    @property
    def is_empty(self) -> bool:
        """Return whether there is no rule at all."""
        return not (self.length or self.quality or self.duplicates or self.decontaminate)


_AnySection = TypeVar("_AnySection", bound=_Section)


def effective_cleaning(shared: CleaningSpec | None, own: CleaningSpec | None) -> CleaningSpec | None:
    """Return the rules of one source: those of all sources, with its own laid over them key by key.

    Args:
        shared: `data.cleaning`.
        own: The source's `cleaning`.

    Raises:
        ValueError: The source states `duplicates`, whose parameters all sources share; or evaluation sets are
            missing; or the merged limits contradict each other.
    """
    shared, own = shared or CleaningSpec(), own or CleaningSpec()
    if shared.skip:
        raise ValueError("'skip' stands in a source, and names what of data.cleaning does not apply to it")
    if own.duplicates is not None and own.duplicates != shared.duplicates:
        raise ValueError("'duplicates' is stated in data.cleaning, for all sources; a source can only skip it")

    def kept(section: _AnySection | None, name: SectionName) -> _AnySection | None:
        return None if name in own.skip else section

    merged = CleaningSpec(
        length=_laid_over(kept(shared.length, "length"), own.length),
        quality=_laid_over(kept(shared.quality, "quality"), own.quality),
        duplicates=kept(shared.duplicates, "duplicates"),
        decontaminate=_laid_over(kept(shared.decontaminate, "decontaminate"), own.decontaminate),
        skip=own.skip,
    )
    if merged.decontaminate is not None and not merged.decontaminate.against:
        raise ValueError("'decontaminate' names no evaluation set; list them under 'against'")
    return None if merged.is_empty else merged


def _laid_over(base: _AnySection | None, over: _AnySection | None) -> _AnySection | None:
    if base is None or over is None:
        return over if base is None else base
    return type(base).model_validate({**base.model_dump(exclude_unset=True), **over.model_dump(exclude_unset=True)})
