from dataclasses import replace

import numpy as np
import pytest
import simulated_scores as sim

from seqpair.compare.questions import (
    Options,
    averages,
    compare,
    crossings,
    equal_size,
    native_or_crossed,
    other_pairs,
    sizes_of,
    with_elsewhere,
)
from seqpair.compare.values import (
    MOSTLY_AT_CHANCE,
    NEITHER_ABOVE_CHANCE,
    NO_BETTER_END,
    NO_TRAINING_VERDICT,
    NOT_COMPARED,
    NOT_DECIDED,
    Model,
    Task,
)
from seqpair.errors import EvaluationError
from seqpair.recipe.diff import PairIdentity

TASKS = ("blimp", "piqa", "sciq")


def test_the_better_member_is_named_with_three_seeds():
    found = equal_size(sim.study({"encoder": 0.85, "decoder": 0.6}, tasks=TASKS, spread=0.002))
    assert [one.verdict for one in found] == ["1m encoder"] * 3
    first = found[0]
    assert first.difference.value == pytest.approx(0.25, abs=0.02)
    assert first.difference.family == 3
    assert first.difference.p_adjusted >= first.difference.p
    assert "the 1m encoder is ahead" in first.sentence
    assert first.first.value.value == pytest.approx(0.85, abs=0.02)


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_seeds_give_no_verdict_about_training(seeds):
    (found,) = equal_size(sim.study({"encoder": 0.85, "decoder": 0.6}, seeds=seeds))
    assert found.verdict == NO_TRAINING_VERDICT
    assert found.on_these_runs == "1m encoder"
    assert "conditional on these runs" in found.sentence
    assert any("no verdict about other training runs" in caution for caution in found.cautions)


def test_a_lower_metric_wins_where_lower_is_better():
    flip = [
        replace(one, task=replace(one.task, higher_is_better=False, chance=0.95))
        for one in sim.study({"encoder": 0.85, "decoder": 0.6}, spread=0.002)
    ]
    assert equal_size(flip)[0].verdict == "1m decoder"


def test_equal_members_are_not_decided_and_chance_is_named():
    members = {"encoder": 0.7, "decoder": 0.7}
    assert equal_size(sim.study(members, seed=1))[0].verdict == NOT_DECIDED
    at_chance = {"encoder": 0.5, "decoder": 0.5}
    assert equal_size(sim.study(at_chance))[0].verdict == NEITHER_ABOVE_CHANCE


def test_of_a_lean_a_difference_is_told_and_nobody_is_ahead():
    lean = [replace(one, task=replace(one.task, is_lean=True)) for one in sim.study({"encoder": 0.85, "decoder": 0.6})]
    found = equal_size(lean)[0]
    assert found.difference.decides
    assert found.verdict == NO_BETTER_END
    assert found.sentence.startswith("On ")
    assert "where neither direction is better, 1m encoder minus 1m decoder is +0.2" in found.sentence


def test_nobody_is_ahead_where_neither_is_above_chance_however_they_differ():
    below = sim.study({"encoder": 0.3, "decoder": 0.45}, spread=0.002)
    found = equal_size(below)[0]
    assert found.difference.decides
    assert found.verdict == NEITHER_ABOVE_CHANCE
    assert "neither is above chance" in found.sentence
    low_chance = [replace(one, task=replace(one.task, chance=0.4)) for one in below]
    assert equal_size(low_chance)[0].verdict == "1m decoder"


def test_what_cannot_be_compared_is_an_answer_with_its_reason():
    other = PairIdentity({**sim.IDENTITY.parts, "tokenizer": "other"})
    scores = sim.study({"encoder": 0.8, "decoder": (0.7, other)})
    (found,) = equal_size(scores)
    assert found.verdict == NOT_COMPARED
    assert "not a pair" in found.reason
    assert "tokenizer" in found.reason
    (told,) = equal_size(scores, options=Options(unpaired=True))
    assert told.difference is not None
    assert any("Not a pair" in caution for caution in told.cautions)


def test_too_few_items_and_values_that_are_no_means_are_refused():
    few = sim.study({"encoder": 0.8, "decoder": 0.7}, items=9)
    with pytest.raises(EvaluationError, match="9 items are too few"):
        compare("", few[:3], few[3:])
    whole = sim.study({"encoder": 0.8, "decoder": 0.7})
    with pytest.raises(EvaluationError, match="not a mean over its items"):
        compare("", [replace(one, value=0.3) for one in whole[:3]], whole[3:])


def test_crossed_members_are_held_against_the_native_of_their_direction():
    scores = sim.study(
        {
            "encoder": 0.8,
            "decoder": 0.7,
            "encoder-from-decoder": (0.6, sim.CROSSED),
            "decoder-from-encoder": (0.7, sim.CROSSED),
            "biphasic": 0.8,
        }
    )
    pairs = {(one.first.member, one.second.member) for one in native_or_crossed(scores)}
    assert pairs == {("encoder", "encoder-from-decoder"), ("decoder", "decoder-from-encoder")}
    others = {frozenset((one.first.member, one.second.member)) for one in other_pairs(scores)}
    assert frozenset(("encoder", "biphasic")) in others
    assert frozenset(("encoder", "decoder")) not in others
    assert len(others) == 10 - 1 - 2


def test_a_small_encoder_can_beat_a_larger_decoder():
    small = sim.study({"encoder": 0.85}, sizes=("1m",), spread=0.002)
    large = sim.study({"decoder": 0.6}, sizes=("17m",), spread=0.002)
    (found,) = crossings([*large, *small])
    assert (found.first.label, found.second.label) == ("1m encoder", "17m decoder")
    assert found.verdict == "1m encoder"
    assert any("shape" in caution for caution in found.cautions)


def test_an_average_over_tasks_has_its_own_verdict():
    scores = sim.study({"encoder": 0.72, "decoder": 0.7}, tasks=[f"task{n}" for n in range(8)], spread=0.001)
    found = equal_size(scores)
    (average,) = averages(scores, found)
    assert average.is_average
    assert len(average.tasks) == 8
    assert average.difference.value == pytest.approx(np.mean([one.difference.value for one in found]))
    assert "the mean of 8 tasks" in average.sentence
    assert average.difference.family == 1


def guessing(*, guessed=6, known=3, swapped=False):
    """Return scores on tasks at chance, and on tasks on which the encoder is better."""
    better = {"encoder": 0.75, "decoder": 0.7} if not swapped else {"decoder": 0.75, "encoder": 0.7}
    names = [f"guessed{n}" for n in range(guessed)], [f"known{n}" for n in range(known)]
    return [
        *sim.study({"encoder": 0.5, "decoder": 0.5}, tasks=names[0], spread=0.001),
        *sim.study(better, tasks=names[1], spread=0.001, seed=1),
    ]


def test_a_mean_mostly_at_chance_gives_no_verdict_and_the_others_stand_beside_it():
    scores = guessing()
    over_all, others = averages(scores, equal_size(scores))
    assert (over_all.verdict, over_all.on_these_runs) == (MOSTLY_AT_CHANCE, MOSTLY_AT_CHANCE)
    assert over_all.title == "mean of 9 tasks, 6 of them with neither above chance"
    assert "there is no verdict, since most tasks are at chance" in over_all.sentence
    assert [task.name for task in others.tasks] == ["known0", "known1", "known2"]
    assert "the mean of the 3 tasks that are not at chance the 1m encoder is ahead" in others.sentence
    assert "guessed0" in others.cautions[0]
    assert others.difference.value == pytest.approx(0.05, abs=0.01)
    assert others.difference.family == 1


def test_a_mean_with_few_tasks_at_chance_is_judged_and_corrected_with_the_other():
    scores = guessing(guessed=2, known=6)
    over_all, others = averages(scores, equal_size(scores))
    assert over_all.title == "mean of 8 tasks, 2 of them with neither above chance"
    assert over_all.verdict == others.verdict == "1m encoder"
    assert (over_all.difference.family, others.difference.family) == (2, 2)


def test_choosing_tasks_does_not_depend_on_which_side_comes_first():
    scores = guessing(guessed=3, known=4)
    there = averages(scores, equal_size(scores))
    back = averages(scores, equal_size(scores, "decoder", "encoder"))
    assert [one.tasks for one in there] == [one.tasks for one in back]
    assert [one.difference.value for one in there] == pytest.approx([-one.difference.value for one in back])
    assert [one.verdict for one in there] == [one.verdict for one in back]


def test_tasks_all_at_chance_have_one_mean_without_a_verdict():
    scores = guessing(guessed=4, known=0)
    (only,) = averages(scores, equal_size(scores))
    assert only.verdict == MOSTLY_AT_CHANCE
    assert "Fewer than two tasks are not at chance" in only.cautions[-1]


def test_bits_are_not_averaged_with_points():
    scores = sim.study({"encoder": 0.72, "decoder": 0.7}, tasks=("one", "two"))
    bits = [
        replace(one, task=Task("bits", higher_is_better=False), values=one.values + 1.3)
        for one in sim.study({"encoder": 0.72, "decoder": 0.7}, tasks=("bits",))
    ]
    (average,) = averages([*scores, *bits], equal_size([*scores, *bits]))
    assert [task.name for task in average.tasks] == ["one", "two"]
    assert "bits" in average.cautions[0]


def test_checkpoints_are_no_final_models():
    final = sim.study({"encoder": 0.8, "decoder": 0.7})
    earlier = [replace(one, model=replace(one.model, checkpoint="step5")) for one in final]
    assert len(equal_size([*earlier, *final])) == 1
    assert equal_size(earlier) == []


def test_two_copies_of_one_model_are_cautioned():
    scores = [sim.scores(np.arange(20) % 2, sim.model(name)) for name in ("encoder", "decoder")]
    (found,) = equal_size(scores)
    assert "check that these are two models" in found.cautions[0]
    assert found.detectable is None


def test_one_run_from_elsewhere_stands_against_every_seed_of_ours_and_against_others():
    outside = [
        sim.scores(sim.study({name: accuracy}, seeds=1, seed=3)[0].values, Model(name, "", 0))
        for name, accuracy in (("gpt", 0.5), ("bert", 0.8))
    ]
    ours = sim.study({"encoder": 0.7}, seeds=4)
    found = with_elsewhere([*ours, *outside])
    pairs = [(one.first.label, one.second.label, one.verdict) for one in found]
    assert pairs == [
        ("1m encoder", "gpt", "1m encoder"),
        ("1m encoder", "bert", "bert"),
        ("gpt", "bert", NO_TRAINING_VERDICT),
    ]
    assert [one.difference.seeds for one in found] == [4, 4, 1]
    assert found[2].on_these_runs == "bert"
    assert any("one run of gpt" in caution for caution in found[0].cautions)
    assert sizes_of([*ours, *outside]) == ["1m"]
    # Constant over seeds, the other model adds nothing to the seeds' variance and its items count as any.
    again = sim.scores(outside[0].values, sim.model("decoder", seed=0, identity=None))
    alike = [replace(again, model=replace(again.model, seed=seed)) for seed in range(4)]
    (repeated,) = equal_size([*ours, *alike], options=Options(unpaired=True))
    assert repeated.difference == found[0].difference
