import pytest
import simulated_scores as sim

from seqpair.compare.findings import NOT_COMPARED, PLANNED
from seqpair.compare.planned import PlannedQuestion, planned_answers
from seqpair.compare.questions import equal_size

TASKS = ("blimp", "piqa", "sciq")
QUESTIONS = [PlannedQuestion("grammar", ("blimp",)), PlannedQuestion("knowledge", ("piqa", "sciq"))]


def test_a_family_is_what_was_asked_and_not_all_that_was_measured():
    scores = sim.study({"encoder": 0.8, "decoder": 0.6}, tasks=TASKS, spread=0.002)
    grammar, knowledge = planned_answers(scores, QUESTIONS)
    assert (grammar.question, grammar.name, grammar.verdict) == (PLANNED, "grammar", "1m encoder")
    assert grammar.difference.family == 2
    single = next(one for one in equal_size(scores) if one.tasks[0].name == "blimp")
    assert single.difference.family == 3
    assert grammar.difference.value == single.difference.value
    assert [task.name for task in knowledge.tasks] == ["piqa", "sciq"]
    assert knowledge.sentence.startswith("On knowledge (the mean of 2 tasks) the 1m encoder is ahead")


def test_sides_are_those_of_the_question():
    scores = sim.study({"encoder": 0.6, "decoder": 0.6, "biphasic": 0.8}, tasks=TASKS, spread=0.002)
    (found,) = planned_answers(scores, [PlannedQuestion("grammar", ("blimp",), "biphasic", "encoder")])
    assert found.verdict == "1m biphasic"
    assert (found.first.member, found.second.member) == ("biphasic", "encoder")


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        (PlannedQuestion("q", ("lambada",)), "has no result of lambada"),
        (PlannedQuestion("q", ("blimp",), "encoder", "biphasic"), "1m biphasic has no result of blimp"),
        (PlannedQuestion("q", ("blimp", "lambada")), "has no result of lambada"),
    ],
)
def test_a_question_without_an_answer_stays_with_its_reason(question, reason):
    scores = sim.study({"encoder": 0.8, "decoder": 0.6}, tasks=TASKS)
    first, other = planned_answers(scores, [question, PlannedQuestion("grammar", ("blimp",))])
    assert first.verdict == NOT_COMPARED
    assert reason in first.reason
    assert other.difference.family == 1


def test_a_task_done_in_several_ways_must_be_named_exactly():
    ways = [f"blimp@limit-{limit}" for limit in (10, 20)]
    scores = sim.study({"encoder": 0.8, "decoder": 0.6}, tasks=ways, spread=0.002)
    assert "in several ways" in planned_answers(scores, [PlannedQuestion("q", ("blimp",))])[0].reason
    assert planned_answers(scores, [PlannedQuestion("q", (ways[0],))])[0].verdict == "1m encoder"
    one_way = [one for one in scores if one.task.name == ways[1]]
    assert planned_answers(one_way, [PlannedQuestion("q", ("blimp",))])[0].verdict == "1m encoder"
