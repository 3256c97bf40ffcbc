"""The comparison table: what each member reached, how they differ, and who is ahead, if anyone is.

Differences and verdicts are those of the study's questions, `compare.questions`, as on the page: a table on a terminal
and a page of the same study never disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.markup import escape
from rich.table import Table

from seqpair.compare.questions import DEFAULT, Options, answers_of
from seqpair.compare.values import (
    NOT_COMPARED,
    Comparison,
    Interval,
    metric_words,
)
from seqpair.report.collect import final_model, scores_of_members
from seqpair.report.member import MemberRun, Outcome
from seqpair.report.words import signed, verdict_words

_Asked = Callable[[str, str], Comparison | None]


@dataclass(frozen=True)
class Cell:
    """One member's value on one task.

    Attributes:
        interval: The value with its interval.
        at_chance: Whether the interval includes what guessing gives, or the value is that.
        figures: Other numbers of the same result, by name.
    """

    interval: Interval
    at_chance: bool
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PairDifference:
    """Two members on one task.

    Attributes:
        first, second: Their names, of several seeds those of the sides; the difference is first minus second.
        interval: The paired difference, or None if they are not compared.
        verdict: The name of the member ahead on these runs, `NOT_DECIDED`, `NEITHER_ABOVE_CHANCE`, `NO_BETTER_END`
            or `NOT_COMPARED`.
        reason: Why they are not compared, or empty.
        is_about_training: Whether the verdict says something of other training runs.
        p: p, corrected over the question's tasks; None if there is none.
        method: How interval and p were made.
        seeds: How many runs of each it is of.
        cautions: What a reader must know.
    """

    first: str
    second: str
    interval: Interval | None
    verdict: str
    reason: str = ""
    is_about_training: bool = False
    p: float | None = None
    method: str = ""
    seeds: int = 0
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One task.

    Attributes:
        task, title, suite, metric, unit: What was measured; the suite is empty for a study's own text.
        higher_is_better, is_lean: The direction of the metric, or that neither end is better.
        n: Items.
        chance: What guessing gives, or None.
        baselines: The same metric of simple models on the same items.
        cells: Each member's value; None where the member does not do the task.
        differences: The first member against each other one.
        notes: What a reader must know, each sentence once.
    """

    task: str
    title: str
    suite: str
    metric: str
    unit: str
    higher_is_better: bool
    is_lean: bool
    n: int
    chance: float | None
    baselines: dict[str, float]
    cells: dict[str, Cell | None]
    differences: tuple[PairDifference, ...]
    notes: tuple[str, ...]

    @property
    def measured(self) -> str:
        """Return the metric and its direction in words."""
        return metric_words(self.metric, higher_is_better=self.higher_is_better, is_lean=self.is_lean)


def study_rows(members: Sequence[MemberRun], options: Options = DEFAULT) -> list[Row]:
    """Return the rows of members whose questions nobody has asked yet; see `comparison_rows`."""
    return comparison_rows(members, answers_of(scores_of_members(members), options))


def comparison_rows(
    members: Sequence[MemberRun], answers: Sequence[Comparison], most_pairs: int | None = None
) -> list[Row]:
    """Return the table's rows: first the tasks that several members do, then the others, by name.

    Args:
        members: The members.
        answers: The answers to the study's questions; differences are taken from them.
        most_pairs: With how many others the first member is compared at most; None compares it with all.
    """
    tasks = sorted({task for member in members for task in member.outcomes})
    partners = _partners(members, most_pairs) if members else []
    by_sides = {
        (frozenset((one.first.label, one.second.label)), one.tasks[0].name): one
        for one in answers
        if not one.is_average
    }

    def asked(task: str) -> _Asked:
        return lambda one, two: by_sides.get((frozenset((one, two)), task))

    rows = [_row(task, members, partners, asked(task)) for task in tasks]
    return sorted(rows, key=lambda row: -sum(cell is not None for cell in row.cells.values()))


def _row(task: str, members: Sequence[MemberRun], partners: Sequence[MemberRun], answer: _Asked) -> Row:
    outcomes = {member.name: member.outcomes.get(task) for member in members}
    any_outcome = next(outcome for outcome in outcomes.values() if outcome is not None)
    some = any_outcome.result
    cells = {name: None if outcome is None else _cell(outcome) for name, outcome in outcomes.items()}
    one_seed = len({_label(member) for member in members}) == len(members)
    notes = [outcome.result.note for outcome in outcomes.values() if outcome is not None and outcome.result.note]
    return Row(
        task=task,
        title=any_outcome.title,
        suite=some.suite,
        metric=some.metric,
        unit=some.unit,
        higher_is_better=some.higher_is_better,
        is_lean=some.is_lean,
        n=some.n,
        chance=some.chance,
        baselines=dict(some.baselines),
        cells=cells,
        differences=tuple(
            _difference(
                members[0],
                other,
                (members[0].name, other.name) if one_seed else (_label(members[0]), _label(other)),
                outcomes,
                answer,
            )
            for other in partners
        ),
        notes=tuple(dict.fromkeys(notes)),
    )


def _cell(outcome: Outcome) -> Cell:
    result = outcome.result
    interval = Interval(result.value, *result.interval)
    at_chance = result.chance is not None and interval.contains(result.chance)
    return Cell(interval, at_chance, dict(result.figures))


def _partners(members: Sequence[MemberRun], most_pairs: int | None) -> list[MemberRun]:
    """Return whom the first member is held against: each other member once, not once a seed."""
    first, *others = members
    seen, found = {_label(first)}, []
    for other in others:
        if _label(other) not in seen:
            seen.add(_label(other))
            found.append(other)
    return found[:most_pairs]


def _label(member: MemberRun) -> str:
    """Return the label of the member's side in an answer; of what has no plan, its name."""
    return member.name if member.plan is None else final_model(member, member.plan).label


def _difference(
    first: MemberRun, second: MemberRun, names: tuple[str, str], outcomes: dict[str, Outcome | None], answer: _Asked
) -> PairDifference:
    one, two = outcomes[first.name], outcomes[second.name]
    if one is None or two is None:
        doer = [member.name for member, outcome in ((first, one), (second, two)) if outcome is not None]
        return PairDifference(*names, None, NOT_COMPARED, f"only the {doer[0]} does it" if doer else "neither does it")
    lacking = [name for name, member in zip(names, (first, second), strict=True) if member.plan is None]
    if lacking:
        return PairDifference(*names, None, NOT_COMPARED, f"the {lacking[0]} has no plan, so it is no side of a pair")
    found = answer(_label(first), _label(second))
    if found is None:
        return PairDifference(*names, None, NOT_COMPARED, "no question is about these two")
    if found.difference is None:
        return PairDifference(*names, None, NOT_COMPARED, found.reason)
    is_turned = found.first.label != _label(first)
    interval = found.difference.interval
    if is_turned:
        interval = Interval(-interval.value, -interval.high, -interval.low)
    ahead = {_label(first): names[0], _label(second): names[1]}
    return PairDifference(
        *names,
        interval,
        ahead.get(found.on_these_runs, found.on_these_runs),
        is_about_training=found.is_about_training,
        p=found.difference.p if found.difference.p_adjusted is None else found.difference.p_adjusted,
        method=found.difference.method,
        seeds=found.difference.seeds,
        cautions=found.cautions,
    )


def comparison_table(rows: Sequence[Row], members: Sequence[str], study: str) -> Table:
    """Return the table: task, chance, each member with its interval, paired differences, verdicts."""
    table = Table(title=f"{escape(study)}: the members on the same items, 95 % intervals", title_justify="left")
    table.add_column("task")
    table.add_column("chance", justify="right")
    for member in members:
        table.add_column(escape(member), justify="right")
    for pair in rows[0].differences if rows else ():
        table.add_column(f"{escape(pair.first)} - {escape(pair.second)}", justify="right")
        table.add_column("verdict")
    for row in rows:
        cells = [
            f"{escape(row.title)}\n[dim]{escape(row.measured)}, {row.n} items[/dim]",
            "" if row.chance is None else f"{row.chance:.3f}",
        ]
        for member in members:
            cell = row.cells[member]
            text = "-" if cell is None else f"{cell.interval.value:.3f}\n[dim]{_ends(cell.interval)}[/dim]"
            cells.append(f"{text}\n[dim]at chance[/dim]" if cell is not None and cell.at_chance else text)
        for difference in row.differences:
            interval = difference.interval
            cells.append("-" if interval is None else f"{signed(interval.value)}\n[dim]{_ends(interval)}[/dim]")
            cells.append(escape(verdict_words(difference)))
        table.add_row(*cells)
    return table


def rows_as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows as JSON values."""
    return [asdict(row) for row in rows]


def _ends(interval: Interval) -> str:
    return rf"\[{interval.low:.3f}, {interval.high:.3f}]"
