import json

import pytest

from seqpair.compare.planned import PlannedQuestion
from seqpair.errors import EvaluationError
from seqpair.report.asked_before import read_questions
from seqpair.report.collect import collect_study
from seqpair.report.exports import write_report

TEXT = """
written: 2026-11-25, before anything was evaluated
questions:
  continuing: {tasks: [continuation]}
  masks: {tasks: [masked_accuracy], first: encoder, second: both}
"""


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
        ("questions: {q: {tasks: [blimp], first: encoder, second: encoder}}", "against itself"),
        ("questions: [", "is no YAML"),
    ],
)
def test_a_file_of_another_form_is_one_error_that_names_the_place(tmp_path, text, message):
    path = tmp_path / "questions.yaml"
    path.write_text(text)
    with pytest.raises(EvaluationError, match=r"questions\.yaml") as caught:
        read_questions(path)
    assert message in str(caught.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_questions(tmp_path / "none.yaml")


def test_the_answers_come_first_on_the_page_and_in_the_readme(finished_study, tmp_path):
    path = tmp_path / "questions.yaml"
    path.write_text(TEXT)
    page = write_report(collect_study(finished_study), asked=read_questions(path), out=tmp_path / "out")
    text = page.read_text()
    heading = "Asked beforehand (2026-11-25, before anything was evaluated)"
    assert text.index(heading) < text.index("Encoder against decoder at equal size")
    assert "On continuing (" in text
    assert heading in (tmp_path / "out" / "report.md").read_text()
    rows = (tmp_path / "out" / "tables" / "differences.csv").read_text().splitlines()
    assert rows[1].lstrip('"').startswith("continuing: ")
    assert "has no result" in json.dumps(rows[2])
