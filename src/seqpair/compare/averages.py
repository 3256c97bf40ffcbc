"""Means over tasks: of all tasks of two sides, and of those that are not at chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from seqpair.compare.estimates import average_estimate, value_estimate
from seqpair.compare.families import adjust_family
from seqpair.compare.findings import CROSSING, NOT_DECIDED, Comparison
from seqpair.compare.pairing import ACROSS_SIZES, Paired, pair_sides
from seqpair.compare.questions import DEFAULT, Options, judged, side_of
from seqpair.compare.values import Scores


def averages(
    scores: Sequence[Scores], comparisons: Sequence[Comparison], options: Options = DEFAULT
) -> list[Comparison]:
    """Return, for every pair of sides among comparisons, the mean difference over the tasks they were compared on.

    Beside it stands the mean over those of them that have a chance level and are not at chance, where they are two or
    more and not all. A task is at chance if the interval of the value of both sides taken together includes what
    guessing gives: swapping the sides changes nothing, so choosing favours neither. A mean in which most tasks are at
    chance for both sides gives no verdict. Where both means give one, p is corrected over the two.

    Only tasks whose better direction is up and whose values are shares (chance is known, or all outcomes lie in
    [0, 1]) are averaged: bits and points have no common unit. Tasks with fewer seeds than the others are left out,
    with a caution.
    """
    found = []
    for pair in dict.fromkeys(map(_pair_of, comparisons)):
        own = [one for one in comparisons if _pair_of(one) == pair and one.difference is not None]
        found += _averages(scores, own, options)
    return found


def _pair_of(comparison: Comparison) -> tuple[str, str, str]:
    return comparison.question, comparison.first.label, comparison.second.label


def _averages(scores: Sequence[Scores], own: Sequence[Comparison], options: Options) -> list[Comparison]:
    most = max((one.difference.seeds for one in own if one.difference is not None), default=0)
    kept: list[tuple[Comparison, Paired]] = []
    for one in own:
        task = one.tasks[0]
        if one.difference is None or one.difference.seeds < most or not task.higher_is_better or task.is_lean:
            continue
        sides = [side_of(scores, side.size, side.member, task.name) for side in (one.first, one.second)]
        allowed = (*options.may_differ, *(ACROSS_SIZES if one.question == CROSSING else ()))
        paired = pair_sides(sides[0], sides[1], may_differ=allowed, unpaired=options.unpaired)
        if paired.is_right_or_wrong:
            kept.append((one, paired))
    if len(kept) < 2 or len({paired.seeds for _, paired in kept}) != 1:
        return []
    left_out = [one.tasks[0].name for one in own if one not in [comparison for comparison, _ in kept]]
    cautions = (f"Without {', '.join(left_out)}: other seeds or no share of right answers.",) if left_out else ()
    above = [(one, paired) for one, paired in kept if _is_off_chance(paired, options.level)]
    over_all = mean_over_tasks(kept, options, cautions)
    if over_all.tasks_at_chance and len(above) < 2:
        over_all = replace(over_all, cautions=(*cautions, "Fewer than two tasks are not at chance: no mean of those."))
    if len(above) < 2 or len(above) == len(kept):
        found = [over_all]
    else:
        others = [paired.task.name for _, paired in kept if paired not in [own_pair for _, own_pair in above]]
        why = f"Without {', '.join(others)}: at chance, both sides taken together, or no chance level."
        found = [over_all, replace(mean_over_tasks(above, options, (why,)), without_chance=True)]
    if options.correct and len(found) > 1 and not found[0].is_mostly_at_chance:
        adjusted = adjust_family([one.difference for one in found])
        found = [replace(one, difference=new) for one, new in zip(found, adjusted, strict=True)]
    return [judged(one) for one in found]


def mean_over_tasks(
    kept: Sequence[tuple[Comparison, Paired]], options: Options, cautions: tuple[str, ...]
) -> Comparison:
    """Return the mean difference over tasks, each counting the same; not judged yet.

    Args:
        kept: Each task's comparison and its paired outcomes, all at the same seeds.
        options: How to compare.
        cautions: What a reader must know of the choice of tasks.

    Raises:
        EvaluationError: As `average_estimate`.
    """
    pairs = [paired for _, paired in kept]
    first, second = kept[0][0].first, kept[0][0].second
    return Comparison(
        question=kept[0][0].question,
        tasks=tuple(paired.task for paired in pairs),
        first=replace(first, value=None, not_above_chance=False, seeds=pairs[0].seeds),
        second=replace(second, value=None, not_above_chance=False, seeds=pairs[0].seeds),
        difference=average_estimate(pairs, options.level),
        verdict=NOT_DECIDED,
        on_these_runs=NOT_DECIDED,
        cautions=cautions,
        tasks_at_chance=sum(one.is_without_skill for one, _ in kept),
    )


def _is_off_chance(paired: Paired, level: float) -> bool:
    """Return whether the value of both sides taken together is not what guessing gives; False without a chance level.

    Of independent sides with one spread the mean says nothing of the difference, so the choice does not bend it.
    """
    if paired.task.chance is None:
        return False
    together = (paired.first + paired.second) / 2
    return not value_estimate(together, right_or_wrong=False, level=level).interval.contains(paired.task.chance)
