"""What a report says in words: verdicts, the sentences about each question, and the first sentences of the page."""

from __future__ import annotations

from collections.abc import Sequence

from seqpair.compare.values import (
    EQUAL_SIZE,
    FEWEST_SEEDS,
    LEVEL,
    NATIVE_OR_CROSSED,
    NEITHER_ABOVE_CHANCE,
    NOT_COMPARED,
    NOT_DECIDED,
    PLANNED,
    Comparison,
)
from seqpair.recipe.diff import Difference, pair_identity
from seqpair.report.collect import Study
from seqpair.report.member import MemberRun, first_outcome, tasks_done
from seqpair.text import format_count

_MOST_SENTENCES = 8
_LONGEST_TITLE, _LONGEST_SENTENCE = 100, 1000
_MOST_NAMES, _MOST_NAMES_OF_NOBODY, _MOST_OUTCOMES = 6, 2, 3


def headline_sentences(
    study: Study, answers: Sequence[Comparison], differences: Sequence[Difference] | None
) -> list[str]:
    """Return the first sentences: who wins where, unbeaten baselines, tasks of one member, what was held equal.

    Args:
        study: The study.
        answers: The answers to its questions.
        differences: What the first two members' plans differ in, or None if there are not two plans.
    """
    sentences = [_winners(study, answers), *_baselines(study.members), _equal(study, differences)]
    return [sentence for sentence in sentences if sentence]


def _winners(study: Study, answers: Sequence[Comparison]) -> str:
    """Return who wins where: as asked beforehand, or encoder against decoder at each size, or the first pair."""
    if len(study.members) < 2:
        return f"Only the {study.members[0].name} has run, so there is nothing to compare yet."
    if asked := [one for one in answers if one.question == PLANNED and one.difference is not None]:
        return _winners_as_asked(asked)
    single = [one for one in answers if not one.is_average and one.question != PLANNED]
    pairs = dict.fromkeys((one.first.label, one.second.label) for one in single if one.question == EQUAL_SIZE)
    first = [(one.first.label, one.second.label) for one in single[:1]]
    sentences = [
        summary_sentence([one for one in single if (one.first.label, one.second.label) == pair])
        for pair in (pairs or first)
    ]
    names = " and the ".join(first[0] if first else [member.name for member in study.members[:2]])
    return " ".join(filter(None, sentences)) or f"There is no task yet with results of both the {names}."


def _winners_as_asked(asked: Sequence[Comparison]) -> str:
    """Return the answers to what was asked beforehand, those of equal outcome together."""
    names: dict[str, list[str]] = {}
    for one in asked:
        pair = (one.first.label, one.second.label)
        ahead = one.on_these_runs in pair
        behind = pair[one.on_these_runs == pair[0]]
        outcome = f"the {one.on_these_runs} is ahead of the {behind}" if ahead else one.on_these_runs
        names.setdefault(outcome, []).append(one.name)
    parts = [f"on {listed(those)}: {outcome}" for outcome, those in names.items()]
    rest = f"; {len(parts) - _MOST_OUTCOMES} more below" if len(parts) > _MOST_OUTCOMES else ""
    return f"Asked beforehand, {'; '.join(parts[:_MOST_OUTCOMES])}{rest} ({_scope(asked)})."


def _baselines(members: Sequence[MemberRun]) -> list[str]:
    """Return where a simple model is better than all members, and how a lone member stands to a unigram model."""
    beaten, lone = [], []
    for task in tasks_done(members):
        doers = [(member.name, member.outcomes[task].result) for member in members if task in member.outcomes]
        title, some = first_outcome(task, members).title, doers[0][1]
        values = [result.value for _, result in doers]
        for name, value in some.baselines.items():
            better = value > max(values) if some.higher_is_better else value < min(values)
            if better and len(values) > 1 and not some.is_lean:
                model = name.replace("_", " ")
                beaten.append(f'On "{title}" a simple {model} model does better than all members ({value:.3f}).')
        unigram = some.baselines.get("unigram", 0.0)
        if len(doers) == 1 and unigram > 0:
            against = _against(some.value / unigram, some.higher_is_better)
            lone.append(
                f"{title}: the {doers[0][0]} reaches {some.value:.3f}, {against} a unigram model of the same tokenizer "
                f"({unigram:.3f})."
            )
    return [*beaten, *lone]


def _against(ratio: float, higher_is_better: bool) -> str:
    if higher_is_better:
        return f"{ratio:.1f} times"
    return f"{100 * abs(1 - ratio):.0f} % {'below' if ratio <= 1 else 'above'}"


def _equal(study: Study, differences: Sequence[Difference] | None) -> str:
    undeclared = [difference.path for difference in differences or () if not difference.declared]
    if undeclared:
        return (
            f"This is not a clean pair: the plans also differ in {listed(undeclared)}, which the objective does not "
            "explain."
        )
    if not study.order or len(study.members) < 2:
        return ""
    for check in study.order:
        if check.comparison.parts_at is not None:
            at = check.comparison.parts_at[0]
            return (
                f"This is not a clean pair: the {check.second} read other sequences from {at.phase} step {at.step} on."
            )
    own = [member for member in study.members if member.second_of is None]
    plans = [member.plan for member in own if member.plan is not None]
    tokens = {member.train[-1].tokens if member.train else 0 for member in own}
    # The plans of the first two are compared; of more members each must have been compared by its ledger, too.
    is_whole = all(check.comparison.same and not check.comparison.only_first and not check.comparison.only_second
                   for check in study.order)  # fmt: skip
    if not is_whole or len(study.order) < len(own) - 1 or len(plans) < len(own) or len(tokens) > 1:
        return ""
    if len({pair_identity(plan).fingerprint for plan in plans}) > 1 or len({plan.seed for plan in plans}) > 1:
        return ""
    total = tokens.pop()
    read = f"the same {format_count(total)} tokens" if total else "the same sequences"
    who = "Both" if len(own) == 2 else "All"
    return f"{who} read {read} in the same order, with the same shape, seed and schedule: only the objective differs."


def listed(parts: Sequence[str]) -> str:
    """Return names as a sentence lists them: `a, b and c`."""
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
    parts = []
    for label in (first, second):
        won = [_title(one) for one in compared if one.on_these_runs == label]
        if won:
            parts.append(f"the {label} is ahead on {counted(won)}")
    others = {LEVEL: "level", NOT_DECIDED: "not decided", NEITHER_ABOVE_CHANCE: "neither is above chance"}
    for verdict, words in others.items():
        those = [_title(one) for one in compared if one.on_these_runs == verdict]
        if those and verdict == NOT_DECIDED:
            parts.append(f"{counted_briefly(those)} {'is' if len(those) == 1 else 'are'} {words}")
        elif those:
            parts.append(f"{words} on {counted_briefly(those)}")
    tasks = "the one task" if len(compared) == 1 else f"the {len(compared)} tasks"
    found = listed(parts)
    return f"On {tasks} of both the {first} and the {second}: {found} ({_scope(compared)})."


def _scope(compared: Sequence[Comparison]) -> str:
    """Return what the fewest seeds of these answers allow to say."""
    seeds = min(one.difference.seeds for one in compared if one.difference is not None)
    if seeds >= FEWEST_SEEDS:
        return "this covers other training runs too"
    return f"on these runs; {'one seed says' if seeds == 1 else 'two seeds say'} nothing about other training runs"


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
    p = None if answer.difference is None else answer.difference.tested_p
    return 1.0 if p is None else p


def answer_title(answer: Comparison) -> str:
    """Return what was compared on, with the name of a question that was asked beforehand."""
    if answer.name:
        return f"{answer.name}: {answer.title}"
    return answer.title[:1].upper() + answer.title[1:] if answer.is_average else answer.title


def ahead_words(verdict: str) -> str:
    """Return a verdict in a few words: `4m encoder ahead`, `not decided`."""
    plain = verdict in (LEVEL, NOT_DECIDED, NEITHER_ABOVE_CHANCE, NOT_COMPARED) or verdict.startswith("no ")
    return verdict if plain else f"{verdict} ahead"


def p_words(p: float) -> str:
    """Return a p value in the usual form."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
