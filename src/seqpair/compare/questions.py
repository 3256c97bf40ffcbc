"""The questions of a study, asked of all its scores at once, and the means over tasks that summarise each of them.

A question's answers are a family: p is corrected over all of its tasks at one pair of sides. What cannot be compared
is an answer too, with the reason; only `compare` itself raises.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from seqpair.compare.estimates import adjust_family, average_estimate, difference_estimate, effect_sizes, value_estimate
from seqpair.compare.pairing import ACROSS_SIZES, Paired, pair_sides
from seqpair.compare.power import detectable_difference, spread_of
from seqpair.compare.values import (
    CROSSING,
    ELSEWHERE,
    EQUAL_SIZE,
    FEWEST_ITEMS,
    FEWEST_SEEDS,
    LEVEL,
    MOSTLY_AT_CHANCE,
    NATIVE_OR_CROSSED,
    NEITHER_ABOVE_CHANCE,
    NO_BETTER_END,
    NO_TRAINING_VERDICT,
    NOT_COMPARED,
    NOT_DECIDED,
    TWO_MEMBERS,
    Comparison,
    Estimate,
    Model,
    Scores,
    Side,
    Task,
)
from seqpair.errors import EvaluationError

MOST_OTHER_MEMBERS = 6


@dataclass(frozen=True)
class Options:
    """How to compare.

    Attributes:
        level: Of intervals; 1 - level is the error rate of a family.
        may_differ: Parts of the pairs' identity that may differ.
        unpaired: Compare what is no pair too, with a caution.
        correct: Whether p is corrected over a question's tasks.
    """

    level: float = 0.95
    may_differ: tuple[str, ...] = ()
    unpaired: bool = False
    correct: bool = True


DEFAULT = Options()


def answers_of(scores: Sequence[Scores], options: Options = DEFAULT) -> list[Comparison]:
    """Return the answers to all questions, the averages of a question before its tasks.

    Every two members of a size are compared only where there are few; among many members of one size the named
    questions remain.
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
        with_elsewhere(scores, options),
    ):
        found += [*averages(scores, own, options), *own]
    return found


def compare(question: str, first: Sequence[Scores], second: Sequence[Scores], options: Options = DEFAULT) -> Comparison:
    """Compare two sides on one task.

    Args:
        question: Which question it answers.
        first: One member's scores at its seeds.
        second: The other member's.
        options: How.

    Raises:
        EvaluationError: They cannot be compared; see `pair_sides`. Or there are fewer than ten items, or the task's
            value is not a mean over its items and has no pseudo-values, as where it is undefined.
    """
    own = next((scores for scores in [*first, *second] if scores.value is not None), None)
    if own is not None:
        raise EvaluationError(
            own.why_not or f"the value of {own.task.name} is not a mean over its items, so items cannot be paired",
            seen=f"{own.task.metric} of the {own.model.label}, seed {own.model.seed}",
            fix="compare a task whose metric is a mean, or evaluate it again with this version",
        )
    paired = pair_sides(first, second, may_differ=options.may_differ, unpaired=options.unpaired)
    if len(paired.ids) < FEWEST_ITEMS:
        raise EvaluationError(f"{len(paired.ids)} items are too few for an interval", allowed=f"{FEWEST_ITEMS} or more")
    difference = difference_estimate(paired, options.level)
    sides = _sides(first, second, paired, options.level)
    found = Comparison(
        question=question,
        tasks=(paired.task,),
        first=sides[0],
        second=sides[1],
        difference=difference,
        verdict=NOT_DECIDED,
        on_these_runs=NOT_DECIDED,
        effects=effect_sizes(paired),
        detectable=_detectable(paired, options.level),
        cautions=_cautions(paired),
    )
    return judged(replace(found, at_chance=found.is_without_skill and _is_at_chance(paired, options.level)))


def equal_size(
    scores: Sequence[Scores], first: str = "encoder", second: str = "decoder", options: Options = DEFAULT
) -> list[Comparison]:
    """Ask at each size whether the encoder or the decoder is better, on every task that both do.

    Args:
        scores: All scores of the study.
        first: The member that differences are of.
        second: The member that is taken from it.
        options: How.
    """
    wanted = [(size, first, size, second) for size in sizes_of(scores)]
    return _answers(EQUAL_SIZE, scores, wanted, options)


def native_or_crossed(scores: Sequence[Scores], options: Options = DEFAULT) -> list[Comparison]:
    """Ask at each size whether a member trained from scratch beats the one turned into its kind by continued training.

    The crossed member is one that does not start from scratch; its native counterpart is the member `encoder` or
    `decoder` of the same attention direction.
    """
    wanted = []
    for size in sizes_of(scores):
        models = _models(scores, size)
        natives = {models[name].direction: name for name in ("encoder", "decoder") if name in models}
        for name, model in models.items():
            crossed = model.identity is not None and not model.identity.from_scratch
            if crossed and model.direction in natives:
                wanted.append((size, natives[model.direction], size, name))
    return _answers(NATIVE_OR_CROSSED, scores, wanted, options)


def other_pairs(scores: Sequence[Scores], options: Options = DEFAULT) -> list[Comparison]:
    """Ask of every two members of a size that no other question is about, such as `biphasic` and `encoder`."""
    asked = {frozenset({"encoder", "decoder"})}
    asked |= {frozenset({one.first.member, one.second.member}) for one in native_or_crossed(scores, options)}
    wanted = [
        (size, one, size, two)
        for size in sizes_of(scores)
        for one, two in combinations(_models(scores, size), 2)
        if frozenset({one, two}) not in asked
    ]
    return _answers(TWO_MEMBERS, scores, wanted, options)


def crossings(scores: Sequence[Scores], options: Options = DEFAULT) -> list[Comparison]:
    """Ask of every smaller model whether it beats a larger one of another member; the smaller is the first side.

    Sizes are ordered by their parameters without the embedding. Shape and optimiser may differ between sizes; the
    family is all tasks of one pair of models.
    """
    allowed = replace(options, may_differ=tuple(dict.fromkeys([*options.may_differ, *ACROSS_SIZES])))
    wanted = [
        (small, one, large, two)
        for small, large in combinations(sizes_of(scores), 2)
        for one in _models(scores, small)
        for two in _models(scores, large)
        if one != two
    ]
    return _answers(CROSSING, scores, wanted, allowed)


def with_elsewhere(scores: Sequence[Scores], options: Options = DEFAULT) -> list[Comparison]:
    """Ask of every member whether it beats each model from elsewhere, and of every two of those which is better.

    More than the objective differs, and there is one run of a model from elsewhere: with three seeds and more of the
    member, the verdict is about other seeds of the member.
    """
    outside = list(dict.fromkeys((one.model.size, one.model.member) for one in scores if one.model.is_elsewhere))
    wanted = [(size, name, *other) for size in sizes_of(scores) for name in _models(scores, size) for other in outside]
    wanted += [(*one, *two) for one, two in combinations(outside, 2)]
    return _answers(ELSEWHERE, scores, wanted, replace(options, unpaired=True))


def _answers(
    question: str, scores: Sequence[Scores], wanted: Iterable[tuple[str, str, str, str]], options: Options
) -> list[Comparison]:
    """Return a question's answers for pairs of (size, member, size, member), each corrected over its tasks."""
    found: list[Comparison] = []
    for first_size, first, second_size, second in wanted:
        own = []
        for task in _tasks(scores):
            sides = side_of(scores, first_size, first, task), side_of(scores, second_size, second, task)
            if sides[0] and sides[1]:
                own.append(_answer(question, sides[0], sides[1], options))
        if options.correct:
            own = corrected(own)
        found += own
    return found


def corrected(answers: Sequence[Comparison]) -> list[Comparison]:
    """Return a family's answers with p corrected over those that are not at chance, and judged anew."""
    adjusted = adjust_family([None if one.at_chance else one.difference for one in answers])
    pairs = zip(answers, adjusted, strict=True)
    return [judged(one if new is None else replace(one, difference=new)) for one, new in pairs]


def _answer(question: str, first: Sequence[Scores], second: Sequence[Scores], options: Options) -> Comparison:
    try:
        return compare(question, first, second, options)
    except EvaluationError as fault:
        reason = fault.what + (f" ({str(fault).splitlines()[1].strip()})" if "\n" in str(fault) else "")
        bare = [
            Side(
                side[0].model.member,
                side[0].model.size,
                side[0].model.direction,
                tuple(sorted(scores.model.seed for scores in side)),
                None,
                None,
            )
            for side in (first, second)
        ]
        return Comparison(question, (first[0].task,), bare[0], bare[1], None, NOT_COMPARED, NOT_COMPARED, reason=reason)


def judged(comparison: Comparison) -> Comparison:
    """Return a comparison with the verdict that its difference allows."""
    difference = comparison.difference
    if difference is None:
        return comparison
    if comparison.is_mostly_at_chance:
        return replace(comparison, verdict=MOSTLY_AT_CHANCE, on_these_runs=MOSTLY_AT_CHANCE)
    if comparison.tasks[0].is_lean:
        word = NO_BETTER_END
    elif comparison.is_without_skill:
        word = NEITHER_ABOVE_CHANCE
    elif comparison.is_level:
        word = LEVEL
    elif difference.decides:
        better = comparison.tasks[0].higher_is_better == (difference.value > 0)
        word = comparison.first.label if better else comparison.second.label
    else:
        word = NOT_DECIDED
    return replace(
        comparison, verdict=word if difference.is_about_training else NO_TRAINING_VERDICT, on_these_runs=word
    )


def _sides(first: Sequence[Scores], second: Sequence[Scores], paired: Paired, level: float) -> tuple[Side, Side]:
    made = []
    for side, outcomes in ((first, paired.first), (second, paired.second)):
        value = value_estimate(outcomes, right_or_wrong=paired.is_right_or_wrong, level=level, clusters=paired.clusters)
        used = [own.model for own in side if own.model.seed in paired.seeds] or [side[0].model]
        tokens = {model.tokens for model in used}
        made.append(
            Side(
                member=used[0].member,
                size=used[0].size,
                direction=used[0].direction,
                seeds=paired.seeds,
                tokens=tokens.pop() if len(tokens) == 1 else None,
                value=value,
                not_above_chance=_is_not_above_chance(paired.task, value),
            )
        )
    return made[0], made[1]


def _is_not_above_chance(task: Task, value: Estimate) -> bool:
    if task.chance is None:
        return False
    is_better = (value.value > task.chance) == task.higher_is_better
    return value.interval.contains(task.chance) or not is_better


def _detectable(paired: Paired, level: float) -> float | None:
    """Return what such items and seeds can see; with one seed the spread over items is all there is."""
    seeds, items = paired.differences.shape
    differences = paired.differences
    if not differences.any():
        return None
    if seeds >= 2:
        return detectable_difference(spread_of(differences), items=items, seeds=seeds, level=level)
    # One seed twice has no spread over seeds and no noise, so that everything is laid to the items.
    from_items = spread_of(differences.repeat(2, axis=0))
    return detectable_difference(from_items, items=items, seeds=1, level=level)


def _cautions(paired: Paired) -> tuple[str, ...]:
    found = []
    if paired.by_jackknife:
        metric = paired.task.metric.replace("_", " ") or "value"
        found.append(f"Compared by jackknife pseudo-values, since the {metric} is not a mean over items.")
    if not paired.differences.any():
        found.append("No item differs at any seed: check that these are two models.")
    if paired.differs_in:
        found.append(f"Not a pair: they differ in {', '.join(paired.differs_in)}.")
    if paired.one_run and len(paired.seeds) > 1:
        found.append(f"There is one run of {paired.one_run}: the interval covers seeds of the other side only.")
    if paired.left_out_seeds:
        found.append(f"Seeds on one side only are left out: {', '.join(map(str, paired.left_out_seeds))}.")
    if len(paired.seeds) < FEWEST_SEEDS:
        count = "one seed" if len(paired.seeds) == 1 else "two seeds"
        found.append(f"With {count} there is no verdict about other training runs.")
    return tuple(found)


def sizes_of(scores: Sequence[Scores]) -> list[str]:
    """Return the members' sizes, smallest first by parameters without embedding; unknown ones by name, last."""
    known: dict[str, float] = {}
    for one in scores:
        if one.model.is_elsewhere:
            continue
        parameters = one.model.non_embedding_parameters
        known[one.model.size] = max(known.get(one.model.size, 0.0), float("inf") if parameters is None else parameters)
    return sorted(known, key=lambda size: (known[size], size))


def _models(scores: Sequence[Scores], size: str) -> dict[str, Model]:
    """Return a size's final models by member, in the order they come."""
    own = [one.model for one in scores if one.model.size == size and not one.model.checkpoint]
    return {model.member: model for model in own if not model.is_elsewhere}


def _tasks(scores: Sequence[Scores]) -> list[str]:
    return sorted({one.task.name for one in scores})


def side_of(scores: Sequence[Scores], size: str, member: str, task: str) -> list[Scores]:
    """Return a final model's scores on a task, one a seed."""
    return [
        one
        for one in scores
        if (one.model.size, one.model.member, one.task.name, one.model.checkpoint) == (size, member, task, "")
    ]


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
        unpaired = options.unpaired or one.question == ELSEWHERE
        paired = pair_sides(sides[0], sides[1], may_differ=allowed, unpaired=unpaired)
        if paired.is_right_or_wrong:
            kept.append((one, paired))
    if len(kept) < 2 or len({paired.seeds for _, paired in kept}) != 1:
        return []
    left_out = [one.tasks[0].name for one in own if one not in [comparison for comparison, _ in kept]]
    cautions = (f"Left out: {', '.join(left_out)} (other seeds, or not a share of right answers).",) if left_out else ()
    above = [(one, paired) for one, paired in kept if paired.task.chance is not None and not one.at_chance]
    over_all = mean_over_tasks(kept, options, cautions)
    if over_all.tasks_at_chance and len(above) < 2:
        over_all = replace(over_all, cautions=(*cautions, "Fewer than two tasks are not at chance: no mean of those."))
    if len(above) < 2 or len(above) == len(kept):
        found = [over_all]
    else:
        others = [paired.task.name for _, paired in kept if paired not in [own_pair for _, own_pair in above]]
        why = f"Left out: {', '.join(others)} (at chance for both sides together, or without a chance level)."
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


def _is_at_chance(paired: Paired, level: float) -> bool:
    """Return whether the value of both sides taken together is what guessing gives; False without a chance level.

    Of independent sides with one spread the mean says nothing of the difference, so the choice does not bend it.
    """
    if paired.task.chance is None:
        return False
    # The sum and the difference of two equally spread outcomes are uncorrelated.
    together = (paired.first + paired.second) / 2
    found = value_estimate(together, right_or_wrong=False, level=level, clusters=paired.clusters)
    return found.interval.contains(paired.task.chance)
