"""Labelled sets as questions: wording, which rows count and where examples come from, and calibration."""

from __future__ import annotations

import json

import pytest
from suite_runs import run_tasks

from seqpair.evaluate.classification.sets import SETS
from seqpair.evaluate.finetune.sets import Example
from seqpair.evaluate.prompts import TASKS, WORDINGS
from seqpair.evaluate.questions import outcome_of
from seqpair.evaluate.results import read_items
from seqpair.evaluate.task import TaskContext
from seqpair.models.place import find_model
from seqpair.models.score import Score, score_continuations

SNLI = next(task for task in TASKS if task.name == "prompt_snli")
LABELS = ("entailment", "neutral", "contradiction")


@pytest.fixture
def data(tmp_path):
    (tmp_path / "classification").mkdir()
    for part, rows in (("validation", 30), ("test", 6)):
        lines = [f"{part[0]} {n}\tb {n}\t{n % 3}" for n in range(rows)]
        text = "\n".join(["premise\thypothesis\tlabel", *lines]) + "\n"
        (tmp_path / f"classification/snli_{part}.tsv").write_text(text, encoding="utf-8")
    return tmp_path


def test_every_set_of_classes_has_a_wording_with_a_word_a_label():
    assert set(WORDINGS) <= {local.name for local in SETS}
    for wording in WORDINGS.values():
        assert len(set(wording.words)) == len(wording.words)
    assert len(WORDINGS["dbpedia"].words) == 14


def test_a_row_is_worded_with_its_texts_and_the_blank_without():
    row = WORDINGS["snli"].row(Example("7", "It {pair} rains.", 2, pair="It is dry."))
    assert row.pairs[2] == ("It {pair} rains.\nQuestion: It is dry. True, False or Neither?\nAnswer:", " False")
    assert row.blank == "N/A\nQuestion: N/A True, False or Neither?\nAnswer:"
    assert len(row.requests) == 6
    assert row.gold == 2


def test_calibration_takes_away_what_the_model_says_anyway():
    row = WORDINGS["qnli_dev"].row(Example("7", "Who?", 1, pair="He."))
    scores = [Score(value, False, 1) for value in (-1.0, -2.0, -0.5, -3.0)]
    item = outcome_of(row, scores, "acc")
    assert item.value == 0.0  # yes is likelier
    assert item.detail["acc_calibrated"] == 1.0  # but less so than without content
    assert item.detail["scores"] == [-1.0, -2.0]


@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_a_set_is_asked_with_examples_from_its_training_rows(random_exports, models, data, name):
    report = run_tasks(find_model(random_exports[name]), [SNLI], TaskContext(data, shots=1), data / "out")
    result = report.results[0]
    assert (result.n, result.chance) == (6, pytest.approx(1 / 3))
    assert result.settings["shots_from"] == "the set's training rows"
    assert result.figures["shots_shown"] == 1.0
    says = [result.figures[f"share_says_{word}"] for word in ("True", "Neither", "False")]
    assert sum(says) == pytest.approx(1.0)
    texts = {}
    for line in (data / "classification/snli_validation.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        premise, hypothesis, label = line.split("\t")
        word = ("True", "Neither", "False")[int(label)]
        texts[f"{premise}\nQuestion: {hypothesis} True, False or Neither?\nAnswer: {word}\n\n"] = True
    item = read_items(data / "out", result)[0]
    n = int(item.id.split("-")[1]) - 1
    question = f"t {n}\nQuestion: b {n} True, False or Neither?\nAnswer:"
    requests = [(text + question, " True") for text in texts]
    found = [round(score.log_prob, 4) for score in score_continuations(models[name], requests)]
    assert any(value == pytest.approx(item.detail["scores"][0], abs=2e-4) for value in found)
    assert item.detail["gold"] == n % 3


def test_a_missing_column_is_named(random_exports, data):
    (data / "classification/snli_test.tsv").write_text("premise\tlabel\nA.\t0\n", encoding="utf-8")
    report = run_tasks(find_model(random_exports["clm"]), [SNLI], TaskContext(data), data / "out")
    assert report.failed == ["prompt_snli"]
    assert "hypothesis" in report.skipped["prompt_snli"]


@pytest.mark.parametrize(("name", "choices", "chance"), [("boolq", "yes no", 0.75), ("arc_easy", "a{n} b{n}", 0.5)])
def test_chance_is_the_best_constant_answer_where_every_row_has_the_same_choices(
    random_exports, tmp_path, name, choices, chance
):
    golds = (1, 1, 0, 1)
    rows = [
        {"query": f"Is it {n}?", "choices": choices.format(n=n).split(), "gold": gold} for n, gold in enumerate(golds)
    ]
    (tmp_path / "generative").mkdir()
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / f"generative/{name}.jsonl").write_text(text, encoding="utf-8")
    task = next(task for task in TASKS if task.name == f"prompt_{name}")
    report = run_tasks(find_model(random_exports["clm"]), [task], TaskContext(tmp_path), tmp_path / "out")
    assert report.results[0].chance == chance
