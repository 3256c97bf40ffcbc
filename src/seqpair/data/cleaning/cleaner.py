"""Cleaning of a recipe's sources: what `prepare` asks for removals, and what it writes beside the stores.

Owns the folder `cleaning/` among the stores (surveys and indexes of evaluation sets, each by its address) and
when they are made. Must not know how stores are written. Entry points: `Cleaner`, `Cleaned`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from seqpair.atomic import TEMPORARY_PREFIX, replacing_file, replacing_folder, write_json
from seqpair.data.cleaning.address import CleaningPlan
from seqpair.data.cleaning.contamination import EvalIndex, build_index
from seqpair.data.cleaning.eval_sets import eval_files, read_items
from seqpair.data.cleaning.outcome import SUSPICIOUS_FRAC, Outcome, Removals, report_of, resolve
from seqpair.data.cleaning.survey import SourceSurvey, SurveyJob, survey
from seqpair.log import note
from seqpair.recipe.cleaning_spec import DecontaminateSpec
from seqpair.recipe.data_spec import SourceSpec

REPORT, HITS = "cleaning.json", "evaluation_hits.jsonl"
_ADDRESS_LETTERS = 12


@dataclass(frozen=True)
class Cleaned:
    """What is removed from one source, and the report on it.

    Attributes:
        removals: Which documents.
        outcome: How that was decided.
        eval_folder: The index of its evaluation sets, if it has any.
    """

    removals: Removals
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
        jobs = [self._job(name) for name in ordered]
        survey(jobs, self._workers)
        for name, job, outcome in zip(ordered, jobs, resolve([SourceSurvey(job) for job in jobs]), strict=True):
            self._done[name] = Cleaned(outcome.removals, outcome, job.eval_folder)

    def of(self, name: str) -> Cleaned | None:
        """Return what is removed from a source; None if it has no rules.

        Raises:
            DataError: As `prepare`.
            DiskFullError: As `prepare`.
        """
        if name not in self._plans:
            return None
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
            self._folder / f"{name}-{plan.survey_address[:_ADDRESS_LETTERS]}",
            eval_folder,
            self._tokenizer_folder,
        )

    def _index(self, rules: DecontaminateSpec, address: str) -> Path:
        """Return the index of evaluation sets, made if it is missing."""
        folder = self._folder / f"evaluation-{address[:_ADDRESS_LETTERS]}"
        if folder.is_dir():
            return folder
        self._folder.mkdir(parents=True, exist_ok=True)
        for stale in self._folder.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(stale)
        note(f"indexing {len(rules.against)} evaluation sets: {', '.join(entry.name for entry in rules.against)}")
        items = (
            (entry.name, item)
            for entry in rules.against
            for file in eval_files(entry)
            for item in read_items(entry, file)
        )
        with replacing_folder(folder) as partial:
            build_index(items, rules.ngram_words, rules.min_words, partial)
        return folder


def say_what_is_removed(name: str, cleaned: Cleaned) -> None:
    """Tell what cleaning removes from a source, loudly if it is most of it."""
    removals = cleaned.removals
    total = len(removals.codes)
    parts = [f"{count:,} {reason}" for reason, count in removals.counts().items()]
    if parts:
        note(
            f"source {name!r}: cleaning removes {sum(removals.counts().values()):,} of {total:,} documents: "
            + "; ".join(parts)
        )
    if removals.frac > SUSPICIOUS_FRAC:
        note(
            f"WARNING: cleaning removes {100 * removals.frac:.0f} % of source {name!r}. Is that meant? "
            f"Read the examples in {REPORT} beside its stores before you train on the rest"
        )
