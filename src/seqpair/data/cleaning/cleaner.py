"""Cleaning of a recipe's sources: what it depends on, what `prepare` asks it to remove, and what it reports."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from seqpair.data.cleaning.contamination import EvalIndex, build_index
from seqpair.data.cleaning.duplicates import minhash_version
from seqpair.data.cleaning.eval_sets import eval_files, read_eval_items
from seqpair.data.cleaning.outcome import SUSPICIOUS_FRAC, Decisions, Outcome, report_of, resolve
from seqpair.data.cleaning.removal import Removals, SourceCleaning
from seqpair.data.cleaning.survey import SourceSurvey, SurveyJob, survey
from seqpair.data.cleaning.words import UNICODE_TABLES
from seqpair.data.sources.documents import Source
from seqpair.data.sources.fingerprint import ADDRESS_LETTERS, source_content, store_address
from seqpair.data.store.manifest import SeenFile
from seqpair.data.tokenizer.tokenizer import Tokenizer
from seqpair.files import (
    clear_partial,
    open_lock,
    replacing_file,
    replacing_folder,
    sha256_file,
    sha256_json,
    write_json,
)
from seqpair.recipe.cleaning_spec import CleaningSpec, DecontaminateSpec
from seqpair.recipe.data_spec import SourceSpec
from seqpair.text import note

REPORT, HITS = "cleaning.json", "evaluation_hits.jsonl"
FOLDER = "cleaning"
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


@dataclass(frozen=True)
class Cleaned:
    """What is removed from one source, and why.

    Attributes:
        outcome: What was decided.
        eval_folder: The index of its evaluation sets, if it has any.
    """

    outcome: Outcome
    eval_folder: Path | None

    def write(self, folder: Path) -> None:
        """Write the report and the list of hits into the folder of the source's stores."""
        sets = [asdict(entry) for entry in EvalIndex(self.eval_folder).sets] if self.eval_folder is not None else []
        write_json(folder / REPORT, report_of(self.outcome, sets))
        if self.eval_folder is None:
            return
        found = list(self.outcome.survey.hits())
        places = self.outcome.survey.places([document for document, _ in found])
        with replacing_file(folder / HITS) as partial, partial.open("w", encoding="utf-8") as lines:
            for place, (_, hit) in zip(places, found, strict=True):
                lines.write(json.dumps({"id": place["id"], "place": place["place"], **hit}, ensure_ascii=False) + "\n")


class Cleaner:
    """The cleaning of a recipe's sources; nothing is read until removals are asked for."""

    def __init__(
        self,
        sources: Sequence[SourceSpec],
        plans: Mapping[str, CleaningPlan],
        folder: Path,
        *,
        recipe_folder: Path | None,
        tokenizer_folder: Path,
        workers: int,
    ) -> None:
        """Take what was planned.

        Args:
            sources: The recipe's sources in its order.
            plans: Their plans, from `cleaning_plans`.
            folder: Where surveys and indexes are kept.
            recipe_folder: What relative paths of sources are relative to.
            tokenizer_folder: The study's tokenizer.
            workers: Processes that read; the outcome does not depend on it.
        """
        self._specs = {spec.name: spec for spec in sources}
        self._plans, self._folder, self._workers = plans, folder, workers
        self._recipe_folder, self._tokenizer_folder = recipe_folder, tokenizer_folder
        self._done: dict[str, Cleaned] = {}

    def prepare(self, names: Sequence[str]) -> None:
        """Survey some sources, and those that they are compared with, and decide what is removed.

        Raises:
            DataError: A source or an evaluation set cannot be read, or the MinHash library is missing.
            DiskFullError: The disk is full; what is whole stays.
        """
        wanted = {name for name in names if name in self._plans}
        wanted.update(other for name in sorted(wanted) for other in self._plans[name].before)
        ordered = [name for name in self._plans if name in wanted]
        if not ordered or all(name in self._done for name in ordered):
            return
        with _surveying_alone(self._folder):
            jobs = [self._job(name) for name in ordered]
            survey(jobs, self._workers)
        for name, job, outcome in zip(ordered, jobs, resolve([SourceSurvey(job) for job in jobs]), strict=True):
            self._done[name] = Cleaned(outcome, job.eval_folder)
            _warn_if_suspicious(name, outcome.decisions)

    def of(self, name: str) -> Cleaned:
        """Return what is removed from a source that has rules.

        Raises:
            DataError: As `prepare`.
            DiskFullError: As `prepare`.
        """
        if name not in self._done:
            self.prepare([name])
        return self._done[name]

    def _job(self, name: str) -> SurveyJob:
        plan, spec = self._plans[name], self._specs[name]
        rules = spec.cleaning.decontaminate if spec.cleaning else None
        eval_folder = None
        if plan.eval_address is not None and rules is not None:
            eval_folder = self._index(rules, plan.eval_address)
        return SurveyJob(
            spec,
            self._recipe_folder,
            self._folder / f"{name}-{plan.survey_address[:ADDRESS_LETTERS]}",
            eval_folder,
            self._tokenizer_folder,
        )

    def _index(self, rules: DecontaminateSpec, address: str) -> Path:
        """Return the index of evaluation sets, made if it is missing."""
        folder = self._folder / f"evaluation-{address[:ADDRESS_LETTERS]}"
        if folder.is_dir():
            return folder
        clear_partial(self._folder)
        note(f"indexing {len(rules.against)} evaluation sets: {', '.join(entry.name for entry in rules.against)}")
        items = (
            (entry.name, item)
            for entry in rules.against
            for file in eval_files(entry)
            for item in read_eval_items(entry, file)
        )
        with replacing_folder(folder) as partial:
            build_index(items, rules.ngram_words, rules.min_words, partial)
        return folder


@contextlib.contextmanager
def _surveying_alone(folder: Path) -> Iterator[None]:
    """Let one process at a time survey: shards that start together share the first one's work."""
    folder.mkdir(parents=True, exist_ok=True)
    with open_lock(folder / ".lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"another process is surveying sources in {folder}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _warn_if_suspicious(name: str, decisions: Decisions) -> None:
    """Tell loudly if cleaning removes most of a source."""
    if decisions.frac <= SUSPICIOUS_FRAC:
        return
    reasons = ", ".join(f"{count:,} x {reason}" for reason, count in decisions.counts().items())
    note(
        f"WARNING: cleaning takes out {100 * decisions.frac:.0f} % of source {name!r} ({reasons}). Is that meant? "
        f"Read the examples in {REPORT} beside its stores before you train on the rest"
    )


def recipe_cleaning(
    opened: Sequence[Source],
    files: Mapping[str, Sequence[SeenFile]],
    store_folder: Path,
    tokenizer: Tokenizer,
    tokenizer_folder: Path,
    recipe_folder: Path | None,
    workers: int,
) -> dict[str, SourceCleaning]:
    """Return how the sources are cleaned that have rules, for `prepare`; nothing is read yet.

    Args:
        opened: The recipe's sources in its order.
        files: Their files with their hashes.
        store_folder: The folder of stores.
        tokenizer: The study's tokenizer.
        tokenizer_folder: Where it lies.
        recipe_folder: What relative paths of sources are relative to.
        workers: Processes that survey.

    Raises:
        DataError: An evaluation set's file is missing, or the MinHash library is.
    """
    plans = cleaning_plans(opened, files)
    specs = [source.spec for source in opened]
    cleaner = Cleaner(
        specs,
        plans,
        store_folder / FOLDER,
        recipe_folder=recipe_folder,
        tokenizer_folder=tokenizer_folder,
        workers=workers,
    )
    addresses = {
        source.spec.name: store_address(source, files[source.spec.name], tokenizer.digest, plan.address)
        for source in opened
        if (plan := plans.get(source.spec.name)) is not None
    }
    missing = [
        n for n, address in addresses.items() if not (store_folder / f"{n}-{address[:ADDRESS_LETTERS]}").is_dir()
    ]

    def cleaning_of(name: str) -> SourceCleaning:
        def find(_: Source) -> Removals:
            cleaner.prepare(missing)  # all that are missing in one walk
            return cleaner.of(name).outcome.decisions.removals()

        return SourceCleaning(plans[name].address, find, lambda folder: cleaner.of(name).write(folder))

    return {name: cleaning_of(name) for name in plans}
