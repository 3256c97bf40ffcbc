"""What a report says in words: verdicts, the sentences about each question, and the first sentences of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seqpair.report.comparison import PairDifference, Row

from collections.abc import Sequence

from seqpair.compare.values import (
    EQUAL_SIZE,
    FEWEST_SEEDS,
    NATIVE_OR_CROSSED,
    NEITHER_ABOVE_CHANCE,
    NO_BETTER_END,
    NOT_COMPARED,
    NOT_DECIDED,
    PLANNED,
    Comparison,
)
from seqpair.recipe.diff import Difference
from seqpair.report.collect import Study
from seqpair.report.data_table import Cell, Column, DataTable, estimate_cell, interval_mark, number_cell
from seqpair.text import format_count

_MOST_SENTENCES = 8
_LONGEST_TITLE, _LONGEST_SENTENCE = 100, 1000
_MOST_NAMES, _MOST_NAMES_OF_NOBODY = 6, 2


def headline_sentences(
    study: Study, rows: Sequence[Row], differences: Sequence[Difference] | None, winners: str = ""
) -> list[str]:
    """Return the sentences: who wins where, which baselines are not beaten, the lone tasks, what was held equal.

    Args:
        study: The study.
        rows: Its comparison table.
        differences: What the first two members' plans differ in, or None if there are not two plans.
        winners: The first sentence, who wins where; empty to make it from the rows.
    """
    sentences = [
        winners or _winners(study, rows),
        *_beaten_by_baselines(rows),
        *_lone_tasks(rows),
        _equal(study, differences),
    ]
    return [sentence for sentence in sentences if sentence]


def _winners(study: Study, rows: Sequence[Row]) -> str:
    if len(study.members) < 2:
        return f"Only the {study.members[0].name} is here, so there is nothing to compare yet."
    verdicts = [(row.title, row.differences[0].verdict) for row in rows if row.differences]
    named = next((row.differences[0] for row in rows if row.differences), None)
    first, second = (named.first, named.second) if named else (study.members[0].name, study.members[1].name)
    shared = [(title, verdict) for title, verdict in verdicts if verdict not in (NOT_COMPARED, NO_BETTER_END)]
    if not shared:
        return f"No task has results of both the {first} and the {second} yet."
    parts = []
    for name in (first, second):
        won = [title for title, verdict in shared if verdict == name]
        if won:
            parts.append(f"the {name} is ahead on {counted(won)}")
    undecided = [title for title, verdict in shared if verdict == NOT_DECIDED]
    if undecided:
        parts.append(f"{counted_briefly(undecided)} {'is' if len(undecided) == 1 else 'are'} not decided")
    chance = [title for title, verdict in shared if verdict == NEITHER_ABOVE_CHANCE]
    if chance:
        parts.append(f"neither is above chance on {counted_briefly(chance)}")
    tasks = "On the one task" if len(shared) == 1 else f"Of the {len(shared)} tasks"
    return f"{tasks} that both members do, {_listed(parts)}."


def _beaten_by_baselines(rows: Sequence[Row]) -> list[str]:
    """Return one sentence for each shared task on which a simple model does better than every member."""
    sentences = []
    for row in (row for row in rows if not row.is_lean):
        values = [cell.interval.value for cell in row.cells.values() if cell is not None]
        for name, value in row.baselines.items():
            better = value > max(values) if row.higher_is_better else value < min(values)
            if better and len(values) > 1:
                model = name.replace("_", " ")
                sentences.append(f'On "{row.title}" a simple {model} model does better than all members ({value:.3f}).')
    return sentences


def _lone_tasks(rows: Sequence[Row]) -> list[str]:
    """Return one sentence for each task that one member does and a unigram model stands beside."""
    sentences = []
    for row in rows:
        doers = [(name, cell) for name, cell in row.cells.items() if cell is not None]
        unigram = row.baselines.get("unigram", 0.0)
        if len(doers) == 1 and unigram > 0:
            name, cell = doers[0]
            against = _against(cell.interval.value / unigram, row.higher_is_better)
            sentences.append(
                f"{row.title}: the {name} reaches {cell.interval.value:.3f}, {against} a unigram model of the same "
                f"tokenizer ({unigram:.3f})."
            )
    return sentences


def _against(ratio: float, higher_is_better: bool) -> str:
    if higher_is_better:
        return f"{ratio:.1f} times"
    return f"{100 * abs(1 - ratio):.0f} % {'below' if ratio <= 1 else 'above'}"


def _equal(study: Study, differences: Sequence[Difference] | None) -> str:
    undeclared = [difference.path for difference in differences or () if not difference.declared]
    if undeclared:
        return (
            f"This is not a clean pair: the plans also differ in {_listed(undeclared)}, which the objective does not "
            "explain."
        )
    if not study.order or len(study.members) < 2:
        return ""
    name, compared = study.order[0].second, study.order[0].comparison
    if compared.parts_at is not None:
        record = compared.parts_at[0]
        return f"This is not a clean pair: the {name} read other sequences from {record.phase} step {record.step} on."
    tokens = study.members[0].train[-1].tokens if study.members[0].train else 0
    read = f"the same {format_count(tokens)} tokens" if tokens else "the same sequences"
    return f"Both read {read} in the same order, with the same shape, seed and schedule: only the objective differs."


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


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


def counted(titles: Sequence[str]) -> str:
    """Return how many tasks, and the first names in quotes."""
    names = ", ".join(f'"{title}"' for title in titles[:_MOST_NAMES]) + (", ..." if len(titles) > _MOST_NAMES else "")
    return f"{'one' if len(titles) == 1 else len(titles)} ({names})"


def counted_briefly(titles: Sequence[str]) -> str:
    """Return how many tasks, and their names where they are few: of those that nobody won the number is enough."""
    return counted(titles) if len(titles) <= _MOST_NAMES_OF_NOBODY else str(len(titles))


def _title(answer: Comparison) -> str:
    title = answer.title
    return title if len(title) <= _LONGEST_TITLE else f"{title[:_LONGEST_TITLE]}..."


def _cut(sentence: str) -> str:
    return sentence if len(sentence) <= _LONGEST_SENTENCE else f"{sentence[:_LONGEST_SENTENCE]}..."


def _p(answer: Comparison) -> float:
    found = answer.difference
    if found is None:
        return 2.0
    p = found.p if found.p_adjusted is None else found.p_adjusted
    return 1.0 if p is None else p


def signed(value: float) -> str:
    """Return a difference with its sign, three decimals."""
    return f"{value:+.3f}"


def verdict_words(difference: PairDifference) -> str:
    """Return a verdict in words."""
    if difference.verdict == NOT_COMPARED:
        return f"{NOT_COMPARED}: {difference.reason}"
    if difference.verdict in (NOT_DECIDED, NEITHER_ABOVE_CHANCE, NO_BETTER_END):
        return difference.verdict
    return f"{difference.verdict} ahead{'' if difference.is_about_training else ' on these runs'}"


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
