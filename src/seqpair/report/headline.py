"""The first sentences of a report, made from its results."""

from __future__ import annotations

from collections.abc import Sequence

from seqpair.compare.findings import NEITHER_ABOVE_CHANCE, NO_BETTER_END, NOT_COMPARED, NOT_DECIDED
from seqpair.recipe.diff import Difference
from seqpair.report.collect import Study
from seqpair.report.tables import Row
from seqpair.report.verdicts import counted, counted_briefly
from seqpair.text import format_count


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
