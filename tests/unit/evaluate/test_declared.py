"""Tasks of a file: one of each kind through the verb, and malformed declarations and rows, each one clear error."""

from __future__ import annotations

import json

import pytest
from suite_runs import write_rows

from seqpair.errors import EvaluationError
from seqpair.evaluate.registry import choose_tasks
from seqpair.evaluate.results import read_items, read_results
from seqpair.evaluate.runner import plan_tasks
from seqpair.evaluate.task import TaskContext
from seqpair.models.place import find_model

TASKS = """
agreement:
  kind: minimal_pairs
  files: pairs.jsonl
  columns: {good: right, bad: wrong}
  cluster: verb
  baseline: 0.6
quiz:
  kind: choices
  files: ["quiz*.jsonl"]
  id: name
endings:
  kind: continuation
  files: endings.csv
  title: True endings
moods:
  kind: labelled
  files: {train: moods.tsv, test: moods_test.tsv}
  columns: {label: mood}
find:
  kind: retrieval
  files: find.jsonl
  cluster: topic
alike:
  kind: similarity
  files: alike.tsv
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "tasks.yaml").write_text(TASKS)
    write_rows(
        tmp_path / "pairs.jsonl",
        [{"right": f"It {verb} {n}.", "wrong": f"It {verb}s {n}.", "verb": verb} for verb in "abc" for n in range(2)],
    )
    for part in "12":
        rows = [{"name": f"{part}{n}", "question": "Is it?", "choices": ["so", "not so"], "answer": n} for n in (0, 1)]
        write_rows(tmp_path / f"quiz{part}.jsonl", [*rows, rows[0] | {"name": f"{part}2", "answer": "not so"}])
    (tmp_path / "endings.csv").write_text('context,continuation\nIt is a,river\n"So, it",was\n')
    moods = "".join(f"text number {n}\t{'good' if n % 2 else 'bad'}\n" for n in range(20))
    (tmp_path / "moods.tsv").write_text("text\tmood\n" + moods)
    (tmp_path / "moods_test.tsv").write_text("text\tmood\n" + moods)
    write_rows(
        tmp_path / "find.jsonl",
        [{"query": f"about {n}", "document": f"text {n // 2}", "topic": n // 4} for n in range(8)],
    )
    (tmp_path / "alike.tsv").write_text(
        "first\tsecond\tscore\n" + "".join(f"a text {n}\ta text {n * n}\t{n}\n" for n in range(6))
    )
    return tmp_path


def test_a_task_of_each_kind_runs_and_is_compared_like_any_other(seqpair, random_exports, folder):
    pytest.importorskip("mteb")
    words = ["--tasks", folder / "tasks.yaml", "--out", folder / "out", "--device", "cpu", "--limit", "6"]
    code, out, err = seqpair("eval", random_exports["clm"], *words)
    assert code == 0, err
    assert "agreement" in out
    place = next(path for path in (folder / "out").rglob("quiz.json")).parent
    found = {result.task: result for result in read_results(place)}
    assert set(found) == {"agreement", "quiz", "endings", "moods", "find", "alike"}
    assert {result.suite for result in found.values()} == {"tasks"}
    agreement, endings = found["agreement"], found["endings"]
    assert endings.title == "True endings"
    assert agreement.baselines == {"declared": 0.6}
    assert [item.cluster for item in read_items(place, agreement)] == ["a", "b", "c"] * 2
    assert [item.id for item in read_items(place, found["quiz"])] == ["10", "11", "12", "20", "21", "22"]
    assert found["quiz"].chance == 0.5
    assert (endings.metric, endings.unit, endings.higher_is_better) == ("bits_per_byte", "bits per byte", False)
    assert [item.weight for item in read_items(place, endings)] == [6.0, 4.0]  # a space is a part of the ending
    assert found["moods"].metric == "accuracy"
    assert {item.cluster for item in read_items(place, found["find"])} == {"0", "1"}
    assert found["alike"].metric == "spearman"


def test_what_is_declared_is_part_of_the_key(random_exports, folder):
    def keys():
        tasks = choose_tasks([], [], folder / "tasks.yaml")
        plans = plan_tasks(find_model(random_exports["clm"]), tasks, TaskContext(folder / "none"), folder / "out")
        return {plan.task.name: plan.key for plan in plans}

    before = keys()
    assert all(before.values())
    (folder / "tasks.yaml").write_text(TASKS.replace("id: name", "id: name\n  metric: acc"))
    after = keys()
    assert {name for name in before if before[name] != after[name]} == {"quiz"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("cluster: verb", "clustr: verb", "unknown key 'clustr' (did you mean 'cluster'?)"),
        ("{good: right", "{goood: right", "unknown column 'goood' (did you mean 'good'?)"),
        ("id: name", "metric: acc_nrm", "unknown metric 'acc_nrm' (did you mean 'acc_norm'?)"),
        ("kind: choices", "kind: choice", "kind: Input should be"),
        ("files: pairs.jsonl", "files: gone.jsonl", "gone.jsonl"),
        ("files: {train: moods.tsv, test: moods_test.tsv}", "files: moods.tsv", "train: FILE"),
        ("\nquiz:", "\nblimp:", "built-in name"),
        ("\nquiz:", "\nMy quiz:", "its name"),
    ],
)
def test_a_wrong_declaration_is_one_error_that_names_it(folder, old, new, said):
    assert old in TASKS
    (folder / "tasks.yaml").write_text(TASKS.replace(old, new))
    with pytest.raises(EvaluationError) as caught:
        choose_tasks([], [], folder / "tasks.yaml")
    assert said in str(caught.value)
    assert "tasks.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("pairs.jsonl", '"wrong": "It as 0."', '"wrong": ""', "pairs.jsonl, line 1: the column 'wrong' has no text"),
        (
            "pairs.jsonl",
            '"wrong": "It as 0."',
            '"rong": "x"',
            "pairs.jsonl, line 1 lacks a column; seen: no wrong",
        ),
        ("quiz1.jsonl", '"answer": 1', '"answer": 2', "quiz1.jsonl, line 2: the column 'answer' has no answer"),
        ("quiz1.jsonl", '["so", "not so"]', '"so"', "quiz1.jsonl, line 1: the column 'choices' has no choices"),
        (
            "quiz1.jsonl",
            '"name": "11"',
            '"name": "10"',
            "line 2: the name in the column 'name' occurs twice",
        ),
        ("endings.csv", "continuation", "ending", "endings.csv, line 2 lacks a column; seen: no continuation"),
        ("find.jsonl", '"text 0"', "null", "find.jsonl, line 1: the column 'document' has no text"),
        ("alike.tsv", "\t2\n", "\thigh\n", "alike.tsv, line 4: the column 'score' has no number"),
        ("moods.tsv", "\tmood", "\tlabel", "moods.tsv, row 1 has no column 'mood'"),
    ],
)
def test_a_malformed_row_is_one_error_with_file_row_and_column(seqpair, random_exports, folder, file, old, new, said):
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))
    kinds = {"pairs": "agreement", "quiz1": "quiz", "endings": "endings", "find": "find", "alike": "alike"}
    name = kinds.get(file.split(".")[0], "moods")
    words = ["--tasks", folder / "tasks.yaml", "--task", name, "--out", folder / "out", "--json"]
    code, out, _ = seqpair("eval", random_exports["clm"], *words)
    assert code == 2
    assert said in " ".join(json.loads(out)[0]["skipped"].values())
