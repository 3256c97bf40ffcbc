"""What a source's cleaning depends on, as addresses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seqpair.data.cleaning.eval_sets import eval_files
from seqpair.data.cleaning.signatures import minhash_version
from seqpair.data.cleaning.words import UNICODE_TABLES
from seqpair.data.sources.documents import Source
from seqpair.data.sources.fingerprint import source_content
from seqpair.data.store.manifest import SeenFile
from seqpair.files import sha256_file, sha256_json
from seqpair.recipe.cleaning_spec import CleaningSpec, DecontaminateSpec

_CLEANING = 1
"""Raise this when the same rules remove other documents."""


@dataclass(frozen=True)
class CleaningPlan:
    """How one source is cleaned.

    Attributes:
        address: Stands for everything that decides which of its documents are removed.
        survey_address: Stands for what its survey holds.
        eval_address: Stands for the index of its evaluation sets; None without any.
        before: The sources, in order, that its documents are compared with besides itself.
    """

    address: str
    survey_address: str
    eval_address: str | None
    before: tuple[str, ...]


def cleaning_plans(opened: Sequence[Source], files: Mapping[str, Sequence[SeenFile]]) -> dict[str, CleaningPlan]:
    """Return the plans of those sources that have rules, by name.

    Args:
        opened: The recipe's sources in its order: the first of equal documents is the one in the earliest source.
        files: Their files with their hashes.

    Raises:
        DataError: An evaluation set's file is missing, or the MinHash library is.
    """
    plans: dict[str, CleaningPlan] = {}
    compared: list[str] = []
    sets: dict[str, str] = {}
    for source in opened:
        rules, name = source.spec.cleaning, source.spec.name
        if rules is None:
            continue
        eval_address = None if rules.decontaminate is None else _eval_address(rules.decontaminate, sets)
        survey_address = _survey_address(source, files[name], rules, eval_address)
        before = tuple(compared) if rules.duplicates is not None and rules.duplicates.across_sources else ()
        address = sha256_json(
            {
                "survey": survey_address,
                "duplicates": rules.duplicates.model_dump(mode="json") if rules.duplicates else None,
                "compared_with": [plans[other].survey_address for other in before],
            }
        )
        plans[name] = CleaningPlan(address, survey_address, eval_address, before)
        if rules.duplicates is not None:
            compared.append(name)
    return plans


def _survey_address(source: Source, files: Sequence[SeenFile], rules: CleaningSpec, eval_address: str | None) -> str:
    near = rules.duplicates.near if rules.duplicates else None
    content = source_content(source, files)
    del content["held_out_frac"]  # a survey does not know of splits
    return sha256_json(
        {
            "cleaning": _CLEANING,
            "source": content,
            "length": rules.length.model_dump(mode="json") if rules.length else None,
            "quality": rules.quality.model_dump(mode="json") if rules.quality else None,
            "decontaminate": rules.decontaminate.model_dump(mode="json", exclude={"against"})
            if rules.decontaminate
            else None,
            "eval": eval_address,
            "digests": rules.duplicates is not None,
            "near": {**near.model_dump(mode="json", exclude={"similarity"}), "minhash": minhash_version()}
            if near
            else None,
            "unicode": UNICODE_TABLES,
        }
    )


def _eval_address(rules: DecontaminateSpec, known: dict[str, str]) -> str:
    """Return the address of the index; the files of equal rules are hashed once."""
    asked = rules.model_dump_json(include={"against", "ngram_words", "min_words"})
    if asked not in known:
        known[asked] = sha256_json(
            {
                "cleaning": _CLEANING,
                "ngram_words": rules.ngram_words,
                "min_words": rules.min_words,
                "unicode": UNICODE_TABLES,
                "sets": [
                    {
                        **entry.model_dump(mode="json", exclude={"paths"}),
                        "files": [[file.label, sha256_file(file.path)] for file in eval_files(entry)],
                    }
                    for entry in rules.against
                ],
            }
        )
    return known[asked]
