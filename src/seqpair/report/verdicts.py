"""The answers to a study's questions as a table and as plain sentences."""

from __future__ import annotations

from collections.abc import Sequence

from seqpair.compare.averages import averages
from seqpair.compare.findings import (
    EQUAL_SIZE,
    NATIVE_OR_CROSSED,
    NEITHER_ABOVE_CHANCE,
    NOT_DECIDED,
    PLANNED,
    Comparison,
)
from seqpair.compare.questions import (
    DEFAULT,
    Options,
    crossings,
    equal_size,
    native_or_crossed,
    other_pairs,
)
from seqpair.compare.values import FEWEST_SEEDS, Scores
from seqpair.report.data_table import Cell, Column, DataTable, estimate_cell, number_cell
from seqpair.report.marks import interval_mark

MOST_OTHER_MEMBERS = 6
_MOST_SENTENCES = 8
_LONGEST_TITLE, _LONGEST_SENTENCE = 100, 1000
_MOST_NAMES, _MOST_NAMES_OF_NOBODY = 6, 2


def answers_of(scores: Sequence[Scores], options: Options = DEFAULT) -> list[Comparison]:
    """Return the answers to all questions, the averages of a question before its tasks.

    Every two members of a size are held against each other only where there are few: among many members of one size
    the named questions remain.
    """
    found: list[Comparison] = []
    by_size: dict[str, set[str]] = {}
    for one in scores:
        by_size.setdefault(one.model.size, set()).add(one.model.member)
    few = max(map(len, by_size.values()), default=0) <= MOST_OTHER_MEMBERS
    for own in (
        equal_size(scores, options=options),
        native_or_crossed(scores, options),
        other_pairs(scores, options) if few else [],
        crossings(scores, options) if few else [],
    ):
        found += [*averages(scores, own, options), *own]
    return found


def differences_table(answers: Sequence[Comparison]) -> DataTable | None:
    """Return the answers: a row for each question, task and pair of sides."""
    columns = [
        Column("Task"), Column("First"), Column("Second"), Column("Difference", True), Column("On these runs"),
        Column("About training"), Column("p", True), Column("Would be seen from", True), Column("Items", True),
        Column("Seeds", True), Column("Question"), Column("Notes"),
    ]  # fmt: skip
    caption = (
        "Differences on the same items, first minus second, with 95 % intervals; p is corrected over a question's "
        "tasks (Holm). With fewer than three seeds an interval is conditional on these runs: it covers other items, "
        "not other training runs, and nothing is said about training. 'Would be seen from': the smallest true "
        "difference that such items and seeds show with 80 % power. What is of all items together (a correlation, F1) "
        "is compared by jackknife pseudo-values, as its notes say. A mean in which most tasks are at chance for both "
        "gives no verdict; not at chance is a task whose value, both sides taken together, is not what guessing gives."
    )
    return DataTable("differences", caption, columns, [_row(one) for one in answers]) if answers else None


def _row(answer: Comparison) -> list[Cell]:
    found = answer.difference
    task = answer.tasks[0]
    title = answer.title
    if answer.name:
        title = f"{answer.name}: {title}"
    elif answer.is_average:
        title = title[:1].upper() + title[1:]
    notes = "; ".join(answer.cautions)
    head = [
        Cell(title, link="" if answer.is_average else task.name),
        Cell(answer.first.label),
        Cell(answer.second.label),
    ]
    if found is None:
        none = Cell("not compared")
        return [*head, Cell(""), none, none, *[Cell("")] * 4, Cell(answer.question), Cell(answer.reason)]
    span = 1.15 * max(abs(found.low), abs(found.high), 1e-9)
    mark = interval_mark(found.interval, span)
    p = found.p if found.p_adjusted is None else found.p_adjusted
    return [
        *head,
        estimate_cell(found.value, found.low, found.high, is_signed=True, mark=mark),
        Cell(_ahead(answer.on_these_runs)),
        Cell(_ahead(answer.verdict)),
        Cell("" if p is None else p_words(p), p),
        number_cell(answer.detectable),
        Cell(f"{found.items:,}", found.items),
        Cell(str(found.seeds), found.seeds),
        Cell(answer.question),
        Cell(notes),
    ]


def p_words(p: float) -> str:
    """Return a p value in the usual form."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _ahead(verdict: str) -> str:
    plain = verdict in (NOT_DECIDED, NEITHER_ABOVE_CHANCE) or verdict.startswith("no ")
    return verdict if plain else f"{verdict} ahead"


def verdict_sentences(answers: Sequence[Comparison]) -> list[tuple[str, list[str]]]:
    """Return (question, sentences): all answers to what was asked beforehand, the plainest ones to other questions."""
    shown = []
    for question in dict.fromkeys(answer.question for answer in answers):
        own = [answer for answer in answers if answer.question == question]
        sentences = [one.sentence for one in own] if question == PLANNED else _plainest(question, own)
        kept = [_cut(sentence) for sentence in sentences if sentence]
        shown.append((question[:1].upper() + question[1:], kept[: 3 * _MOST_SENTENCES]))
    return [(question, sentences) for question, sentences in shown if sentences]


def _plainest(question: str, own: Sequence[Comparison]) -> list[str]:
    """Return what is found for each pair of sides, then single tasks, the surest first."""
    sentences: list[str] = []
    several: list[Comparison] = []
    for pair in dict.fromkeys((one.first.label, one.second.label) for one in own):
        of_pair = [one for one in own if (one.first.label, one.second.label) == pair]
        sentences += [one.sentence for one in of_pair if one.is_average and one.difference is not None]
        tasks = [one for one in of_pair if not one.is_average and one.difference is not None]
        sentences += [summary_sentence(tasks) if len(tasks) > 1 else one.sentence for one in tasks[:1]]
        several += tasks if len(tasks) > 1 else []
    if question in (EQUAL_SIZE, NATIVE_OR_CROSSED):
        sentences += [one.sentence for one in sorted(several, key=_p)[:_MOST_SENTENCES]]
    return sentences


def _cut(sentence: str) -> str:
    return sentence if len(sentence) <= _LONGEST_SENTENCE else f"{sentence[:_LONGEST_SENTENCE]}..."


def _p(answer: Comparison) -> float:
    found = answer.difference
    if found is None:
        return 2.0
    p = found.p if found.p_adjusted is None else found.p_adjusted
    return 1.0 if p is None else p


def summary_sentence(answers: Sequence[Comparison]) -> str:
    """Return one sentence about one pair of sides over its tasks: who is ahead on which; empty without answers."""
    compared = [one for one in answers if one.difference is not None and not one.tasks[0].is_lean]
    if not compared:
        return ""
    first, second = compared[0].first.label, compared[0].second.label
    seeds = min(one.difference.seeds for one in compared if one.difference is not None)
    parts = []
    for label in (first, second):
        won = [_title(one) for one in compared if one.on_these_runs == label]
        if won:
            parts.append(f"the {label} is ahead on {counted(won)}")
    for verdict, words in ((NOT_DECIDED, "not decided"), (NEITHER_ABOVE_CHANCE, "neither is above chance")):
        those = [_title(one) for one in compared if one.on_these_runs == verdict]
        if those and verdict == NOT_DECIDED:
            parts.append(f"{counted_briefly(those)} {'is' if len(those) == 1 else 'are'} {words}")
        elif those:
            parts.append(f"{words} on {counted_briefly(those)}")
    tasks = "the one task" if len(compared) == 1 else f"the {len(compared)} tasks"
    listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
    scope = (
        "over other training runs too"
        if seeds >= FEWEST_SEEDS
        else f"on these runs; {'one seed says' if seeds == 1 else 'two seeds say'} nothing of other training runs"
    )
    return f"Of {tasks} that the {first} and the {second} both do, {listed} ({scope})."


def _title(answer: Comparison) -> str:
    title = answer.title
    return title if len(title) <= _LONGEST_TITLE else f"{title[:_LONGEST_TITLE]}..."


def counted(titles: Sequence[str]) -> str:
    """Return how many tasks, and the first names in quotes."""
    names = ", ".join(f'"{title}"' for title in titles[:_MOST_NAMES]) + (", ..." if len(titles) > _MOST_NAMES else "")
    return f"{'one' if len(titles) == 1 else len(titles)} ({names})"


def counted_briefly(titles: Sequence[str]) -> str:
    """Return how many tasks, and their names where they are few: of those that nobody won the number is enough."""
    return counted(titles) if len(titles) <= _MOST_NAMES_OF_NOBODY else str(len(titles))
