"""Two sides on the same items, refused where they are no pair; and the items on which they disagree."""

import numpy as np
import pytest
import simulated_scores as sim

from seqpair.compare.pairing import ACROSS_SIZES, disagreements, pair_sides
from seqpair.compare.values import Task
from seqpair.errors import EvaluationError
from seqpair.recipe.diff import PairIdentity

RIGHT = [1.0, 0.0, 1.0, 1.0]
DECODER = sim.model("decoder")


def refused(match, first, second, **options):
    with pytest.raises(EvaluationError, match=match) as caught:
        pair_sides(first, second, **options)
    return str(caught.value)


def test_items_are_paired_by_name_whatever_their_order():
    ids = ["c", "a", "d", "b"]
    one = sim.scores([3, 1, 4, 2], ids=ids)
    two = sim.scores([10, 20, 30, 40], DECODER, ids=["a", "b", "c", "d"])
    paired = pair_sides([one], [two])
    assert paired.ids == ("a", "b", "c", "d")
    assert paired.differences.tolist() == [[-9, -18, -27, -36]]


def test_seeds_are_paired_by_number_and_lone_ones_named():
    first = [sim.scores(RIGHT, sim.model(seed=seed)) for seed in (2, 0, 7)]
    second = [sim.scores(RIGHT, sim.model("decoder", seed=seed)) for seed in (0, 2, 5)]
    paired = pair_sides(first, second)
    assert paired.seeds == (0, 2)
    assert paired.left_out_seeds == (5, 7)
    assert paired.differences.shape == (2, 4)


def test_weighted_outcomes_average_to_the_tasks_value():
    values, weights = [1.0, 4.0, 2.0, 8.0], [10.0, 1.0, 5.0, 2.0]
    paired = pair_sides([sim.scores(values, weights=weights)], [sim.scores(RIGHT, DECODER)])
    assert paired.first.mean() == pytest.approx(np.average(values, weights=weights))
    assert paired.raw_first[0].tolist() == values


def test_members_of_two_recipes_are_refused_with_the_fix():
    other = PairIdentity({**sim.IDENTITY.parts, "data": "other"})
    sides = [sim.scores(RIGHT)], [sim.scores(RIGHT, sim.model("decoder", identity=other))]
    message = refused("not a pair: more than the objective differs", *sides)
    assert "seen: data" in message
    assert "unpaired comparison" in message
    assert pair_sides(*sides, unpaired=True).differs_in == ("data",)
    assert pair_sides(*sides, may_differ=["data"]).differs_in == ("data",)


def test_seeds_of_one_member_that_read_other_data_are_refused():
    other = PairIdentity({**sim.IDENTITY.parts, "data": "other"})
    first = [sim.scores(RIGHT), sim.scores(RIGHT, sim.model(seed=1, identity=other))]
    refused("not a pair", first, [sim.scores(RIGHT, sim.model("decoder", seed=seed)) for seed in (0, 1)])


def test_a_model_from_elsewhere_is_no_pair_unless_told():
    outside = sim.scores(RIGHT, sim.model("smollm2", identity=None))
    refused("not a pair", [sim.scores(RIGHT)], [outside])
    assert pair_sides([sim.scores(RIGHT)], [outside], unpaired=True).seeds == (0,)


def test_a_crossed_member_may_run_phases_of_its_own():
    crossed = sim.scores(RIGHT, sim.model("encoder-from-decoder", identity=sim.CROSSED))
    assert pair_sides([sim.scores(RIGHT)], [crossed]).differs_in == ()


def test_two_sizes_may_differ_in_shape_and_optimiser_only():
    larger = sim.scores(RIGHT, sim.model("decoder", "4m", identity=sim.LARGER))
    refused("not a pair", [sim.scores(RIGHT)], [larger])
    assert set(pair_sides([sim.scores(RIGHT)], [larger], may_differ=ACROSS_SIZES).differs_in) == {"shape", "optimizer"}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ([], "the second side has no results"),
        ([sim.scores([], DECODER)], "there are no items of the 1m decoder, seed 0, on blimp"),
        ([sim.scores(RIGHT[:3], DECODER)], "not evaluated on the same items of blimp"),
        ([sim.scores([1, 0, 1, float("nan")], DECODER)], "a value that is not finite"),
        ([sim.scores(RIGHT, DECODER, ids="aabc")], "two items of the 1m decoder, seed 0, on blimp have one name"),
        ([sim.scores(RIGHT, DECODER, weights=[0, 0, 0, 0])], "negative or all zero"),
        ([sim.scores(RIGHT, DECODER, weights=[1, 2, 3])], "differ in number"),
        ([sim.scores(RIGHT, DECODER), sim.scores(RIGHT, DECODER)], "two results of one seed"),
        ([sim.scores(RIGHT, DECODER), sim.scores(RIGHT, sim.model(seed=1))], "the second side mixes models"),
        ([sim.scores(RIGHT, sim.model("decoder", seed=4))], "no seed in common"),
        ([sim.scores(RIGHT, DECODER, Task("piqa"))], "two different tasks"),
        ([sim.scores(RIGHT, DECODER, Task("blimp", version=2))], "two different tasks"),
        ([sim.scores(RIGHT, DECODER, Task("blimp", settings={"limit": 5}))], "different settings of blimp"),
    ],
)
def test_each_fault_has_one_clear_error(second, message):
    refused(message, [sim.scores(RIGHT)], second)


def test_points_shared_by_answers_that_tie_are_still_right_or_wrong():
    values = np.r_[np.ones(30), np.zeros(30), [0.5]]
    paired = pair_sides([sim.scores(values)], [sim.scores(values, DECODER)])
    assert paired.is_right_or_wrong
    assert paired.has_shared_points
    bits = pair_sides([sim.scores(values * 3)], [sim.scores(values, DECODER)])
    assert not bits.is_right_or_wrong


FIRST = [[1, 1, 0, 1, 0], [1, 0, 0, 1, 0]]
SECOND = [[0, 0, 1, 1, 0], [0, 0, 1, 1, 1]]


def kept(answer):
    return {"a": {"answer": answer}}


def sides(task=None):
    return [
        [
            sim.scores(row, sim.model(member, seed=int(seed)), task, ids="abcde", details=kept(member + seed))
            for seed, row in zip("01", table, strict=True)
        ]
        for member, table in (("encoder", FIRST), ("decoder", SECOND))
    ]


def test_the_largest_come_first_and_both_sides_have_their_turn():
    found = disagreements(pair_sides(*sides()))
    assert [one.id for one in found] == ["a", "c", "b", "e"]
    assert (found[0].seeds_for_first, found[0].seeds_for_second) == (2, 0)
    assert (found[1].first, found[1].second, found[1].difference) == (0.0, 1.0, -1.0)
    assert found[2].first == 0.5
    assert [one.id for one in disagreements(pair_sides(*sides()), most=2)] == ["a", "c"]


def test_texts_and_what_was_kept_of_an_item_come_with_it():
    first, second = sides()
    texts = {"a": {"context": "The sun <script>"}}
    found = disagreements(pair_sides(first, second), first, second, texts=texts)
    assert found[0].detail == {
        "first": {"answer": "encoder0"},
        "second": {"answer": "decoder0"},
        "item": {"context": "The sun <script>"},
    }
    assert found[1].detail == {}


def test_the_lower_value_is_better_where_the_task_says_so():
    first, second = sides(Task("bits", higher_is_better=False))
    found = disagreements(pair_sides(first, second))
    assert found[0].id == "c"
    assert found[0].seeds_for_first == 2
