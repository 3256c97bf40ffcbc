"""Questions asked beforehand: read from a file, answered at every size, p corrected over them alone."""

from dataclasses import replace

import pytest
import simulated_scores as sim

from seqpair.compare.planned import PlannedQuestion, answers_to, planned_answers, read_questions
from seqpair.compare.questions import equal_size
from seqpair.compare.values import LEVEL, NOT_COMPARED, NOT_DECIDED, PLANNED, Model
from seqpair.errors import EvaluationError, SeqpairError
from seqpair.recipe.diff import PairIdentity

TEXT = """
written: 2026-11-25, before anything was evaluated
questions:
  continuing: {tasks: [continuation]}
  masks: {tasks: [masked_accuracy], first: encoder, second: both}
"""
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


def test_what_differs_on_purpose_is_compared_where_the_question_says_so():
    scores = sim.study({"encoder": 0.8, "decoder": 0.6}, spread=0.002)
    other_rate = PairIdentity({"shape": "a", "optimizer": "c"})
    identities = {"encoder": PairIdentity({"shape": "a", "optimizer": "b"}), "decoder": other_rate}
    scores = [replace(one, model=replace(one.model, identity=identities[one.model.member])) for one in scores]
    refused, asked = planned_answers(
        scores, [PlannedQuestion("q", ("blimp",)), PlannedQuestion("own rates", ("blimp",), may_differ=("optimizer",))]
    )
    assert "not a pair" in refused.reason
    assert asked.verdict == "1m encoder"
    assert any("optimizer" in caution for caution in asked.cautions)


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


def test_a_file_gives_its_questions_in_order(tmp_path):
    path = tmp_path / "questions.yaml"
    path.write_text(TEXT)
    read = read_questions(path)
    assert read.written.startswith("2026-11-25")
    assert read.questions == (
        PlannedQuestion("continuing", ("continuation",)),
        PlannedQuestion("masks", ("masked_accuracy",), "encoder", "both"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("questions: {q: {task: [blimp]}}", "questions.q.task"),
        ("questions: {}", "questions: "),
        ("questions: {q: {tasks: []}}", "questions.q.tasks"),
        ("- q", "the file"),
        ("questions: {q: {tasks: [blimp], first: encoder, second: encoder}}", "with itself"),
        ("questions: [", "is not YAML"),
        ("questions: " + "{a: " * 50 + "1" + "}" * 50, "levels"),
        ("questions: {q: {tasks: [blimp]}, q: {tasks: [zorro]}}", "stands twice"),
        ("questions: !!python/object {}", "tags"),
    ],
)
def test_a_file_of_another_form_is_one_error_that_names_the_place(tmp_path, text, message):
    path = tmp_path / "questions.yaml"
    path.write_text(text)
    with pytest.raises(SeqpairError, match=r"questions\.yaml") as caught:
        read_questions(path)
    assert message in str(caught.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(EvaluationError, match="no such file"):
        read_questions(tmp_path / "none.yaml")


def test_two_members_are_level_within_a_margin_and_not_without_one():
    scores = sim.study({"encoder": 0.8, "decoder": 0.8}, items=3000, spread=0.001, seed=1)
    narrow, wide, none = planned_answers(
        scores,
        [
            PlannedQuestion("a tight margin", ("blimp",), margin=0.0005),
            PlannedQuestion("a wide margin", ("blimp",), margin=0.05),
            PlannedQuestion("who is ahead", ("blimp",)),
        ],
    )
    assert wide.verdict == LEVEL
    assert "level within 0.05" in wide.sentence
    assert narrow.verdict == none.verdict == NOT_DECIDED
    assert not none.is_level


def test_a_mean_over_tasks_can_be_level_too():
    scores = sim.study({"encoder": 0.8, "decoder": 0.8}, items=3000, spread=0.001, seed=1, tasks=("blimp", "zorro"))
    assert planned_answers(scores, [PlannedQuestion("both", ("blimp", "zorro"), margin=0.05)])[0].verdict == LEVEL


def test_a_margin_is_above_zero(tmp_path):
    path = tmp_path / "questions.yaml"
    path.write_text("questions: {grammar: {tasks: [blimp], margin: 0}}")
    with pytest.raises(EvaluationError, match="margin"):
        read_questions(path)


def test_a_file_names_the_clusters_of_items_whose_results_name_none(tmp_path):
    scores = sim.study({"encoder": 0.8, "decoder": 0.7}, items=300)
    lines = [f"item{i:04d},article{i // 10}" for i in range(300)]
    (tmp_path / "articles.csv").write_text("\n".join(["id,cluster", *lines]))
    path = tmp_path / "questions.yaml"
    path.write_text("questions: {grammar: {tasks: [blimp]}}\nclusters: {blimp: articles.csv}")
    found = answers_to(scores, read_questions(path))
    assert all("in 30 clusters" in one.difference.method for one in found)
    (tmp_path / "articles.csv").write_text("name\n1\n")
    with pytest.raises(EvaluationError, match=r"articles.csv cannot be read(.|\n)*id and cluster"):
        read_questions(path)


def test_a_question_may_name_a_model_from_elsewhere():
    ours = sim.study({"encoder": 0.7}, sizes=("1m", "4m"))
    outside = sim.scores(sim.study({"x": 0.5}, seeds=1, seed=3)[0].values, Model("gpt", "", 0))
    answers = planned_answers([*ours, outside], [PlannedQuestion("q", ("blimp",), "encoder", "gpt")])
    assert [(one.first.label, one.second.label, one.verdict) for one in answers] == [
        ("1m encoder", "gpt", "1m encoder"),
        ("4m encoder", "gpt", "4m encoder"),
    ]
