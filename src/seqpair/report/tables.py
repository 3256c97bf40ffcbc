"""The comparison table: what each member reached, how they differ, and who is ahead, if anyone is.

Owns pairing items and the words of the verdict. Must not know files or pages. Entry point:
`comparison_rows`.

A verdict names a member only where the interval of the paired difference excludes zero. Members are
compared on the same items of the same version of a task; anything else is said to be not compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from seqpair.compare.bootstrap import paired_difference
from seqpair.compare.values import FEWEST_ITEMS, Interval
from seqpair.report.collect import MemberRun
from seqpair.report.evaluation_files import Outcome

NOT_DECIDED = "not decided"
BOTH_AT_CHANCE = "both at chance"
NOT_COMPARED = "not compared"


@dataclass(frozen=True)
class Cell:
    """One member's value on one task.

    Attributes:
        interval: The value with its interval.
        at_chance: Whether the interval includes what guessing gives.
        figures: Other numbers of the same result, by name.
    """

    interval: Interval
    at_chance: bool
    figures: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PairDifference:
    """Two members on one task.

    Attributes:
        first, second: Their names; the difference is first minus second.
        interval: The paired difference, or None if they are not compared.
        verdict: The name of the member ahead, `NOT_DECIDED`, `BOTH_AT_CHANCE` or `NOT_COMPARED`.
        reason: Why they are not compared, or empty.
    """

    first: str
    second: str
    interval: Interval | None
    verdict: str
    reason: str = ""


@dataclass(frozen=True)
class Row:
    """One task.

    Attributes:
        task, title, suite, metric, unit: What was measured; the suite is empty for a study's own text.
        higher_is_better: The direction of the metric.
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
    n: int
    chance: float | None
    baselines: dict[str, float]
    cells: dict[str, Cell | None]
    differences: tuple[PairDifference, ...]
    notes: tuple[str, ...]


def comparison_rows(members: Sequence[MemberRun], most_pairs: int | None = None) -> list[Row]:
    """Return the table's rows: first the tasks that several members do, then the others, by name.

    Args:
        members: The members.
        most_pairs: With how many others the first member is compared at most; None compares it with all.
    """
    tasks = sorted({task for member in members for task in member.outcomes})
    rows = [_row(task, members, most_pairs) for task in tasks]
    return sorted(rows, key=lambda row: -sum(cell is not None for cell in row.cells.values()))


def _row(task: str, members: Sequence[MemberRun], most_pairs: int | None) -> Row:
    outcomes = {member.name: member.outcomes.get(task) for member in members}
    any_outcome = next(outcome for outcome in outcomes.values() if outcome is not None)
    some = any_outcome.result
    cells = {name: None if outcome is None else _cell(outcome) for name, outcome in outcomes.items()}
    first, *others = members
    notes = [outcome.result.note for outcome in outcomes.values() if outcome is not None and outcome.result.note]
    return Row(
        task=task,
        title=any_outcome.title,
        suite=some.suite,
        metric=some.metric,
        unit=some.unit,
        higher_is_better=some.higher_is_better,
        n=some.n,
        chance=some.chance,
        baselines=dict(some.baselines),
        cells=cells,
        differences=tuple(_difference(first.name, other.name, outcomes, cells) for other in others[:most_pairs]),
        notes=tuple(dict.fromkeys(notes)),
    )


def _cell(outcome: Outcome) -> Cell:
    result = outcome.result
    interval = Interval(result.value, *result.interval)
    at_chance = result.chance is not None and interval.contains(result.chance)
    return Cell(interval, at_chance, dict(result.figures))


def _difference(
    first: str, second: str, outcomes: dict[str, Outcome | None], cells: dict[str, Cell | None]
) -> PairDifference:
    one, two = outcomes[first], outcomes[second]
    if one is None or two is None:
        doer = [name for name, outcome in ((first, one), (second, two)) if outcome is not None]
        reason = f"only the {doer[0]} does it" if doer else "neither does it"
        return PairDifference(first, second, None, NOT_COMPARED, reason)
    reason = _why_not(one, two)
    if reason:
        return PairDifference(first, second, None, NOT_COMPARED, reason)
    interval = paired_difference(one.values, one.weights, two.values, two.weights)
    cell_one, cell_two = cells[first], cells[second]
    if interval.contains(0.0):
        chance = cell_one is not None and cell_two is not None and cell_one.at_chance and cell_two.at_chance
        verdict = BOTH_AT_CHANCE if chance else NOT_DECIDED
    else:
        verdict = first if (interval.value > 0) == one.result.higher_is_better else second
    return PairDifference(first, second, interval, verdict)


def _why_not(one: Outcome, two: Outcome) -> str:
    """Return why two members' results cannot be paired, or an empty text."""
    if one.result.version != two.result.version:
        return f"made by versions {one.result.version} and {two.result.version} of the task"
    if one.ids != two.ids:
        differing = len(set(one.ids) ^ set(two.ids))
        return f"not made on the same items: {differing} differ"
    if len(one.ids) < FEWEST_ITEMS:
        return f"{len(one.ids)} items are too few for an interval"
    return ""
