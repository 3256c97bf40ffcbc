import simulated_scores as sim

from seqpair.compare.disagreements import disagreements
from seqpair.compare.pairing import pair_sides
from seqpair.compare.values import Task

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
