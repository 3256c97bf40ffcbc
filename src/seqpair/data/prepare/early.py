"""A first look at every source before any long work: its fields, its ids, its types, and what a tokenizer loses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from seqpair.data.prepare.merge import two_of_one_id
from seqpair.data.prepare.part_build import unknown_text
from seqpair.data.sources.documents import (
    ID_OF_ANOTHER_TYPE,
    MISSING_FIELD,
    MISSING_ID,
    NOT_A_STRING,
    Document,
    Source,
    Tally,
)
from seqpair.data.sources.text import files_passed_over
from seqpair.data.tokenizer.tokenizer import Tokenizer
from seqpair.errors import DataError
from seqpair.text import note

FIRST_ROWS = 100
_SAMPLED_DOCUMENTS = 64
_NAMED_FILES = 5
_FAULTS_OF_FIELDS = (MISSING_FIELD, MISSING_ID, ID_OF_ANOTHER_TYPE, NOT_A_STRING)


def look_early(sources: Sequence[Source], recipe_folder: Path | None, *, may_download: bool = True) -> None:
    """Read the first rows of every source, and name the files that are passed over.

    Args:
        sources: The opened sources.
        recipe_folder: What their paths are relative to.
        may_download: Whether data sets of the hub may be fetched for it.

    Raises:
        DataError: None of a source's first rows has the fields that the recipe names, or two have one id.
    """
    for source in sources:
        passed = files_passed_over(source.spec, recipe_folder)
        if passed:
            named = ", ".join(passed[:_NAMED_FILES]) + (", ..." if len(passed) > _NAMED_FILES else "")
            note(
                f"source {source.spec.name!r}: {len(passed)} files in its folders are not read, because their names "
                f"do not end as those of kind {source.spec.kind!r} or are not UTF-8: {named}"
            )
        if source.spec.kind != "python" and (may_download or source.spec.dataset is None):
            _look_at_rows(source)


def _look_at_rows(source: Source) -> None:
    tally, places = Tally(), dict[str, str]()
    units = source.units()
    for document in source.read(units[0], tally) if units else ():
        if document.id and document.id in places:
            raise two_of_one_id(source.spec.name, document.id, places[document.id], document.place)
        places[document.id] = document.place
        if tally.rows >= FIRST_ROWS:
            break
    if tally.rejected and not places and all(reason.startswith(_FAULTS_OF_FIELDS) for reason in tally.rejected):
        raise DataError(
            f"source {source.spec.name!r}: none of its first {tally.rows} rows can be used",
            seen=tally.summary(),
            allowed=f"the fields that are there: {', '.join(tally.fields)}"
            if tally.fields
            else "text, and ids that are strings or whole numbers",
            fix="correct `text_field` or `id_field` in the recipe",
        )


def require_nothing_lost(sources: Sequence[Source], tokenizer: Tokenizer, *, allowed: bool) -> None:
    """Compare on a sample of every source the bytes of its ids with those of its text, and count unknown tokens.

    A text that spells a special token is left out, because such a token may take the space beside it.

    Args:
        sources: The opened sources; those of token ids have no text to compare.
        tokenizer: A tokenizer that was loaded.
        allowed: Whether losing text is reported only.

    Raises:
        DataError: Text is lost, and not allowed to be.
    """
    sizes = np.array([len(piece) for piece in tokenizer.pieces])
    for source in sources:
        texts = [document.text for document in _sample(source) if document.text]
        lost = unknown = total = 0
        for text, ids in zip(texts, tokenizer.encode(texts), strict=True):
            if any(name in text for name in tokenizer.names.values()):
                continue
            size = len(tokenizer.normalized(text).encode("utf-8"))
            total += size
            unknown += int(np.count_nonzero(ids == tokenizer.specials.unk))
            lost += abs(size - int(sizes[ids[~np.isin(ids, tokenizer.special_ids)]].sum()))
        if not lost and not unknown:
            continue
        said = f"of {total:,} bytes of source {source.spec.name!r}, {lost:,} are lost; {unknown:,} unknown tokens"
        if not allowed:
            raise unknown_text(said)
        note(f"the tokenizer does not hold the text: {said}; bits per byte are over what is left")


def _sample(source: Source) -> list[Document]:
    """Return the first documents of a source's first, middle and last unit."""
    units = source.units()
    chosen = sorted({0, len(units) // 2, len(units) - 1}) if units else []
    found: list[Document] = []
    for index in chosen:
        found += islice(source.read(units[index], Tally()), _SAMPLED_DOCUMENTS)
    return found
