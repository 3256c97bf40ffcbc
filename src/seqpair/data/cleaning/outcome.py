"""From surveys to what is removed: the reasons of every document, and the report on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqpair.data.cleaning.duplicates import DIGEST_WORDS, EXACT, NEAR, SignatureParts, bands_of, find_duplicates
from seqpair.data.cleaning.removal import Removals
from seqpair.data.cleaning.survey import SourceSurvey

EXACT_REASON, NEAR_REASON = "duplicate: equal text", "duplicate: similar text"
SUSPICIOUS_FRAC = 0.5
_EXAMPLES = 5


@dataclass(frozen=True)
class Decisions:
    """Which documents of a source are removed.

    Attributes:
        reasons: The reasons, by number; number 0 is no reason.
        codes: uint16 (documents,): each document's reason in reading order.
        unit_starts: int64 (units + 1,): the first document of each unit.
    """

    reasons: tuple[str, ...]
    codes: NDArray[np.uint16]
    unit_starts: NDArray[np.int64]

    def removals(self) -> Removals:
        """Return them in the form that preparation takes."""
        ordinals = np.flatnonzero(self.codes)
        return Removals(np.diff(self.unit_starts), ordinals, self.reasons, self.codes[ordinals])

    def counts(self) -> dict[str, int]:
        """Return how many documents each reason removes, by reason, the most frequent first."""
        counts = np.bincount(self.codes, minlength=len(self.reasons)).tolist()
        removed = {reason: count for reason, count in zip(self.reasons[1:], counts[1:], strict=True) if count}
        return dict(sorted(removed.items(), key=lambda item: (-item[1], item[0])))

    @property
    def frac(self) -> float:
        """Return the share of documents that is removed."""
        return float(np.count_nonzero(self.codes) / max(1, len(self.codes)))


@dataclass(frozen=True)
class Outcome:
    """What cleaning does to one source.

    Attributes:
        survey: Its survey.
        decisions: What is removed.
        partners: int64 (documents,): for duplicates the document that stays, numbered through `compared`; else -1.
        similarity: float32 (documents,): the estimate for near duplicates.
        compared: The surveys that partners are numbered through; the last is its own.
    """

    survey: SourceSurvey
    decisions: Decisions
    partners: NDArray[np.int64]
    similarity: NDArray[np.float32]
    compared: tuple[SourceSurvey, ...]


def resolve(surveys: Sequence[SourceSurvey]) -> list[Outcome]:
    """Decide which documents of several sources are removed.

    Duplicates are looked for in one walk through all sources that are compared with each other. What is removed
    from a source depends on those before it alone, so leaving out later ones changes nothing.

    Args:
        surveys: The sources' surveys in the recipe's order; those that one is compared with must be among them.
    """
    outcomes = {survey.job.folder: _by_rules(survey) for survey in surveys}
    together = [survey for survey in surveys if survey.job.rules.duplicates is not None]
    spec = together[0].job.rules.duplicates if together else None
    for group in [together] if spec is not None and spec.across_sources else [[survey] for survey in together]:
        outcomes.update(_without_duplicates(group, [outcomes[survey.job.folder] for survey in group]))
    return [outcomes[survey.job.folder] for survey in surveys]


def _by_rules(survey: SourceSurvey) -> Outcome:
    """Return what the rules on single documents remove."""
    codes, names = _codes(survey.column("reason"))
    nobody = np.full(survey.documents, -1, dtype=np.int64)
    decisions = Decisions(tuple(names), codes, survey.unit_starts)
    return Outcome(survey, decisions, nobody, np.zeros(survey.documents, dtype=np.float32), (survey,))


def _without_duplicates(group: Sequence[SourceSurvey], ruled: Sequence[Outcome]) -> dict[Path, Outcome]:
    """Return the outcomes of sources that are compared with each other, duplicates removed too."""
    spec = group[0].job.rules.duplicates
    assert spec is not None
    near = spec.near is not None
    found = find_duplicates(
        np.concatenate([survey.digests() for survey in group]).reshape(-1, DIGEST_WORDS),
        np.concatenate([outcome.decisions.codes == 0 for outcome in ruled]),
        np.concatenate([np.asarray(survey.column("comparable").to_numpy(), dtype=bool) for survey in group]),
        SignatureParts([part for survey in group for part in survey.signature_parts()] if near else []),
        spec,
    )
    outcomes: dict[Path, Outcome] = {}
    start = 0
    for place, (survey, outcome) in enumerate(zip(group, ruled, strict=True)):
        mine = slice(start, start + survey.documents)
        start += survey.documents
        kind, codes, names = found.kind[mine], outcome.decisions.codes.copy(), list(outcome.decisions.reasons)
        for which, name in ((EXACT, EXACT_REASON), (NEAR, NEAR_REASON)):
            names.append(name)
            codes[kind == which] = len(names) - 1  # duplicates are sought among those that no rule removed
        outcomes[survey.job.folder] = Outcome(
            survey,
            Decisions(tuple(names), codes, survey.unit_starts),
            found.partner[mine],
            found.similarity[mine],
            tuple(group[: place + 1]),
        )
    return outcomes


def _codes(column: Any) -> tuple[NDArray[np.uint16], list[str]]:
    """Return a column of reasons as numbers, and the reasons; 0 is no reason."""
    names = sorted(str(name) for name in column.unique().to_pylist() if name is not None)
    number: dict[str | None, int] = {name: place for place, name in enumerate(names, 1)}
    number[None] = 0
    codes = np.fromiter((number[value] for value in column.to_pylist()), dtype=np.uint16, count=len(column))
    return codes, ["", *names]


def report_of(outcome: Outcome, eval_sets: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the report on one source as a JSON value: counts by reason with the first examples of each.

    Args:
        outcome: What was decided.
        eval_sets: What became of each evaluation set in the index, as `SetSummary`.
    """
    survey, decisions = outcome.survey, outcome.decisions
    sizes = np.asarray(survey.column("text_bytes").to_numpy(), dtype=np.int64)
    removed: dict[str, Any] = {}
    for code, reason in enumerate(decisions.reasons):
        rows = np.flatnonzero(decisions.codes == code)
        if code and len(rows):
            removed[reason] = {
                "documents": len(rows),
                "bytes": int(sizes[rows].sum()),
                "examples": _examples(outcome, rows[:_EXAMPLES]),
            }
    spec = survey.job.rules.duplicates
    report: dict[str, Any] = {
        "source": survey.job.spec.name,
        "rules": _rules(survey),
        "documents": survey.documents,
        "bytes": int(sizes.sum()),
        "removed_documents": int(np.count_nonzero(decisions.codes)),
        "removed_bytes": int(sizes[decisions.codes != 0].sum()),
        "removed_frac": round(decisions.frac, 6),
        "suspicious": decisions.frac > SUSPICIOUS_FRAC,
        "removed": dict(sorted(removed.items(), key=lambda item: -item[1]["documents"])),
    }
    if spec is not None:
        report["compared_with"] = [other.job.spec.name for other in outcome.compared]
        if spec.near is not None:
            bands, rows_a_band = bands_of(spec.near.permutations, spec.near.similarity)
            report["near"] = {"bands": bands, "rows_a_band": rows_a_band}
            report["near"]["too_short_to_compare"] = survey.column("comparable").to_pylist().count(False)
    if eval_sets:
        report["evaluation_sets"] = list(eval_sets)
    return report


def _rules(survey: SourceSurvey) -> dict[str, Any]:
    """Return the rules without the places of evaluation sets, which are another machine's matter."""
    places: Any = {"decontaminate": {"against": {"__all__": {"paths"}}}}
    return survey.job.rules.model_dump(mode="json", exclude_none=True, exclude=places)


def _examples(outcome: Outcome, rows: NDArray[np.int64]) -> list[dict[str, Any]]:
    examples = outcome.survey.places(rows.tolist())
    for example, row in zip(examples, rows.tolist(), strict=True):
        partner = int(outcome.partners[row])
        if partner >= 0:
            example["kept"] = _partner(outcome, partner)
            example["detail"] = f"estimated similarity {float(outcome.similarity[row]):.3f}"
    return examples


def _partner(outcome: Outcome, number: int) -> dict[str, Any]:
    for survey in outcome.compared:
        if number < survey.documents:
            place = survey.places([number])[0]
            return {"source": survey.job.spec.name, **{key: place[key] for key in ("id", "place", "excerpt")}}
        number -= survey.documents
    raise AssertionError("a partner is one of the compared documents")
