"""The pair stated twice: at the shared setting, and with each member at its own best.

The table of a statement is the study's own: the same tasks, the same items, the same questions. At their own best two
members may differ in more than the objective, which is what the statement is about: so they are compared as no pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seqpair.compare.questions import Options
from seqpair.report.collect import FIRST_MEMBERS, MemberRun, member_views
from seqpair.report.sweep_curves import MemberCurve, Setting
from seqpair.report.sweep_record import SweepRecord, SweepRuns
from seqpair.report.tables import Row, study_rows


@dataclass(frozen=True)
class PairChoice:
    """One statement of the pair.

    Attributes:
        title: What it holds equal, or not.
        settings: Each member's setting in words.
        runs: Each member's run folder; empty if the statement cannot be made.
        reason: Why it cannot be made, or what else to know; may be empty.
    """

    title: str
    settings: dict[str, str]
    runs: dict[str, str]
    reason: str


def choose_pairs(record: SweepRecord, curves: Sequence[MemberCurve]) -> list[PairChoice]:
    """Return the statement at the shared setting and the one at each member's best."""
    at = "" if record.eval_seed is None else f" Both are stated at seed {record.eval_seed}."
    shared = _choice(record, "At the shared setting, the recipe's own", curves, [curve.own for curve in curves])
    best = _choice(record, "Each member at its own best", curves, [curve.best for curve in curves])
    if not shared.runs and any(curve.own is None for curve in curves):
        keys = ", ".join(axis.name for axis in record.axes if not axis.is_seed)
        shared = PairChoice(
            shared.title,
            {},
            {},
            f"The recipe's own setting ({keys}) is not in the grid: add it for that statement.",
        )
    elif shared.runs and shared.runs == best.runs:
        best = PairChoice(best.title, best.settings, best.runs, f"That is the shared setting: one table says both.{at}")
    return [shared, best]


def _choice(
    record: SweepRecord, title: str, curves: Sequence[MemberCurve], settings: Sequence[Setting | None]
) -> PairChoice:
    named = [(curve.member, setting) for curve, setting in zip(curves, settings, strict=True)]
    lacking = [member for member, setting in named if setting is None or setting.value is None]
    if lacking:
        why = "; ".join(
            f"{member} ({setting.failed})" if setting else member for member, setting in named if member in lacking
        )
        return PairChoice(title, {}, {}, f"There is no value of {why} for this statement.")
    seed = record.eval_seed or ""
    return PairChoice(
        title,
        {member: setting.label for member, setting in named if setting is not None},
        {member: setting.runs[seed] for member, setting in named if setting is not None},
        "" if record.eval_seed is None else f"Stated at seed {record.eval_seed}.",
    )


def pair_rows(runs: SweepRuns, choice: PairChoice) -> tuple[list[Row], list[str]]:
    """Return a statement's comparison table and its columns; no rows if nothing was evaluated."""
    names = [name for name in FIRST_MEMBERS if name in choice.runs]
    names += [name for name in choice.runs if name not in FIRST_MEMBERS]
    found = [runs.runs[choice.runs[name], name] for name in names if (choice.runs[name], name) in runs.runs]
    members: list[MemberRun] = [view for run in found for view in member_views(run)]
    return study_rows(members, Options(unpaired=True)), [member.name for member in members]
