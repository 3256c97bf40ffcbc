"""Suites on made-up rows: what is cached, what goes on after an interruption, what is skipped, and the values."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from suite_runs import run_tasks

from seqpair.errors import EvaluationError
from seqpair.evaluate import questions as generative_rows
from seqpair.evaluate import runner
from seqpair.evaluate.generative import average_of
from seqpair.evaluate.questions import AnswerRow, outcome_of, plain_words
from seqpair.evaluate.registry import SUITES, choose_tasks
from seqpair.evaluate.results import ItemOutcome, read_items
from seqpair.evaluate.runner import plan_tasks, results_folder
from seqpair.evaluate.task import Outcomes, TaskContext
from seqpair.models.place import find_model
from seqpair.models.score import Score, ScoringOptions, score_continuations

QUESTIONS = [
    {"query": f"Question: how many of {n}?", "choices": ["one", "two or more", "x"], "gold": n % 3} for n in range(5)
]
PARTIAL = [{"context_options": ["the cat", "the dog"], "continuation": f"runs {n}.", "gold": n % 2} for n in range(4)]
FILES = {
    "arc_challenge": QUESTIONS,
    "hellaswag_val_subset": QUESTIONS,
    "openbook_qa": QUESTIONS,
    "piqa": [row | {"query": row["query"] + "\n"} for row in QUESTIONS],
    "lambada_openai": [{"context": "a river and a", "continuation": "stone"}, {"context": "so", "continuation": "it"}],
    "winogrande": PARTIAL,
    "winograd_wsc": PARTIAL,
    "triviaqa_sm_sub": [{"context": "Question: who?\nAnswer:", "answer": "Nobody", "aliases": ["No one", "Nobody"]}],
    "sciq": [
        {"support": " Wet.", "question": "Is it wet?", "correct_answer": "yes"}
        | {f"distractor{n}": f"no {n}" for n in (1, 2, 3)}
    ],
    "social_iqa": [
        {"context": "He ran.", "question": "Why?", "answerA": "a", "answerB": "b", "answerC": "c", "label": "2"}
    ],
}


@pytest.fixture
def data(tmp_path):
    """A data folder with every file of the generative and BLiMP suites."""
    folder = tmp_path / "data"
    for name, rows in FILES.items():
        write_rows(folder / "generative" / f"{name}.jsonl", rows)
    for uid, field in (("set_one", "syntax_semantics"), ("set_two", "syntax/semantics")):
        pairs = [
            {"sentence_good": f"The cats {n} run.", "sentence_bad": f"The cats {n} runs.", "UID": uid, "pairID": str(n)}
            | {"field": field, "linguistics_term": "agreement"}
            for n in range(3)
        ]
        write_rows(folder / "blimp" / f"{uid}.jsonl", pairs)
    return folder


def write_rows(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_all_columns_and_sets_are_done_and_a_second_run_costs_nothing(
    random_exports, data, tmp_path, name, monkeypatch
):
    place, context = find_model(random_exports[name]), TaskContext(data)
    tasks = choose_tasks(["generative", "blimp"])
    report = run_tasks(place, tasks, context, tmp_path / "out")
    causal = ["blimp_pll", "blimp_pll_word"] if name == "clm" else []
    assert list(report.skipped) == causal
    assert len(report.results) == len(tasks) - len(causal)
    assert not (tmp_path / "out" / ".work").exists()
    for result in report.results:
        assert result.n == len(read_items(tmp_path / "out", result))
        assert result.versions["torch"]
        assert result.model_digest == place.model_digest
    average = average_of(report.results)
    assert average["label"] == "mean of 10 of the 10 columns"
    monkeypatch.setattr(runner, "open_model", None)  # a second run must not load anything
    again = run_tasks(place, tasks, context, tmp_path / "out")
    assert again.results == report.results
    assert len(again.cached) == len(report.results)


def test_a_result_of_other_choices_or_data_is_not_taken(random_exports, data, tmp_path):
    place, context, out = find_model(random_exports["mlm"]), TaskContext(data), tmp_path / "out"
    tasks = choose_tasks(["blimp"])
    run_tasks(place, tasks, context, out)

    def cached(place, context):
        return [plan.cached is not None for plan in plan_tasks(place, tasks, context, out)]

    assert cached(place, context) == [True] * 3
    assert cached(place, replace(context, scoring=ScoringOptions(masks=1))) == [False, True, True]
    assert cached(place, replace(context, limit=2)) == [False] * 3
    assert cached(place, replace(context, seeds=(0, 1))) == [True] * 3
    assert cached(replace(place, model_digest="other"), context) == [False] * 3
    with (data / "blimp" / "set_one.jsonl").open("a") as handle:
        handle.write(" \n")
    assert cached(place, context) == [False] * 3


def test_choices_that_are_not_the_default_have_a_folder_of_their_own(random_exports, tmp_path):
    place, context = find_model(random_exports["mlm"]), TaskContext(tmp_path)
    beside = random_exports["mlm"].parent / "evaluation"
    assert results_folder(place, context) == beside
    assert results_folder(place, replace(context, limit=9)) == beside / "limit-9"
    assert results_folder(place, replace(context, scoring=ScoringOptions(1, "none"))) == beside / "masks-1_end-none"
    assert results_folder(place, context, tmp_path).parent == tmp_path
    usual = {"grid": "small", "pooling": "default", "embed_pooling": "folder"}
    assert results_folder(place, replace(context, settings=usual)) == beside
    named = replace(context, settings={"grid": "default", "pairs": "small"})
    assert results_folder(place, named) == beside / "grid-default_pairs-small"


def test_an_interrupted_task_goes_on_where_it_stopped(tmp_path):
    context, seen = TaskContext(tmp_path, work=tmp_path / "work"), []

    def compute(chunk):
        seen.extend(chunk)
        if 4 in chunk and seen.count(4) == 1:
            raise KeyboardInterrupt
        return Outcomes([ItemOutcome(id=str(row), value=row) for row in chunk], 1)

    with pytest.raises(KeyboardInterrupt):
        context.by_chunks(range(7), compute, 2)
    with (tmp_path / "work" / "chunks.jsonl").open("a") as handle:
        handle.write('{"items": [{"id": "4", "va')  # the line that was being written
    outcomes, truncated = context.by_chunks(range(7), compute, 2)
    assert [item.value for item in outcomes] == list(range(7))
    assert truncated == 4  # one a chunk, those before the interruption too
    assert seen == [0, 1, 2, 3, 4, 5, 4, 5, 6]


def test_absent_data_is_a_reason_and_a_wrong_row_stops_only_its_task(random_exports, data, tmp_path):
    (data / "generative" / "sciq.jsonl").unlink()
    write_rows(data / "generative" / "piqa.jsonl", [{"query": "q", "choices": ["a", "b"]}])
    write_rows(data / "generative" / "winogrande.jsonl", [PARTIAL[0] | {"gold": 2}])
    tasks = choose_tasks(["generative"], ["sciq", "piqa", "winogrande", "wsc273"])
    report = run_tasks(find_model(random_exports["clm"]), tasks, TaskContext(data), tmp_path / "out")
    assert [result.task for result in report.results] == ["wsc273"]
    assert "no generative/sciq.jsonl" in report.skipped["sciq"]
    assert "no column 'gold'" in report.skipped["piqa"]
    assert "allowed: 0 to 1" in report.skipped["winogrande"]


def test_the_limit_of_blimp_takes_the_sets_in_turn(random_exports, data, tmp_path):
    report = run_tasks(
        find_model(random_exports["clm"]), choose_tasks(["blimp"], ["blimp"]), TaskContext(data, limit=3), tmp_path
    )
    ids = [item.id for item in read_items(tmp_path, report.results[0])]
    assert ids == ["set_one-0", "set_two-0", "set_one-1"]
    figures = set(report.results[0].figures)
    assert {"paradigm_set_one", "paradigm_set_two", "phenomenon_agreement"} <= figures
    assert {name for name in figures if name.startswith("field")} == {"field_syntax_semantics"}


@pytest.mark.parametrize("name", ["mlm", "clm"])
def test_a_pair_is_right_when_the_good_sentence_is_likelier(random_exports, models, data, tmp_path, name):
    report = run_tasks(
        find_model(random_exports[name]), choose_tasks(["blimp"], ["blimp"]), TaskContext(data), tmp_path
    )
    for item in read_items(tmp_path, report.results[0]):
        n = item.id.split("-")[1]
        good, bad = score_continuations(models[name], [("", f"The cats {n} run."), ("", f"The cats {n} runs.")])
        assert item.value == float(good.log_prob > bad.log_prob)
        assert item.detail["scores"] == pytest.approx([good.log_prob, bad.log_prob], abs=2e-4)


def test_the_metrics_of_a_scored_row():
    row = generative_rows.ScoredRow("1", (("q", " no"), ("q", " longer answer")), (2, 13), 1)
    scores = [Score(-4.0, False, 1), Score(-10.0, False, 2)]
    assert outcome_of(row, scores, "acc").value == 0.0
    assert outcome_of(row, scores, "acc_norm").value == 1.0  # -10 / 13 beats -4 / 2
    assert outcome_of(row, scores, "acc_norm").detail["acc"] == 0.0
    assert outcome_of(row, [scores[0], scores[0]], "acc").value == 0.5
    last = generative_rows.ScoredRow("1", (("a", " b"),), (2,), 0)
    assert [outcome_of(last, [Score(-1.0, greedy, 1)], "acc").value for greedy in (True, False)] == [1.0, 0.0]


def test_rows_are_worded_as_published(data):
    def first(name, kind):
        return generative_rows.read_rows(data / "generative" / f"{name}.jsonl", kind)[0]

    assert first("arc_challenge", "question").pairs[0] == ("Question: how many of 0?\nAnswer:", " one")
    assert first("piqa", "question").pairs == first("arc_challenge", "question").pairs
    assert first("openbook_qa", "bare").pairs[1] == ("Question: how many of 0?", " two or more")
    assert first("winogrande", "partial").pairs == (("the cat", " runs 0."), ("the dog", " runs 0."))
    assert first("lambada_openai", "last_word").pairs == (("a river and a", " stone"),)
    assert first("sciq", "sciq").pairs[3] == ("Wet.\nQuestion: Is it wet?\nAnswer:", " yes")
    assert (first("social_iqa", "social_iqa").gold, first("social_iqa", "social_iqa").pairs[1]) == (
        1,
        ("Q: He ran. Why?\nA:", " b"),
    )
    assert first("triviaqa_sm_sub", "answer") == AnswerRow("1", "Question: who?\nAnswer:", ("Nobody", "No one"))
    assert plain_words(" Jean-Luc! ") == "jeanluc"


def test_unknown_suites_and_tasks_are_refused():
    assert {"generative", "blimp"} <= set(SUITES)
    with pytest.raises(EvaluationError, match="no suite"):
        choose_tasks(["grammar"])
    with pytest.raises(EvaluationError, match="no task"):
        choose_tasks(["blimp"], ["piqa"])


def test_eval_is_a_verb(seqpair, random_exports, data, tmp_path):
    words = [
        "eval",
        random_exports["mlm"],
        random_exports["clm"],
        "--suite",
        "blimp",
        "--data",
        data,
        "--out",
        tmp_path / "o",
    ]
    code, text, _ = seqpair(*words, "--dry-run")
    assert code == 0
    assert "blimp: would be computed" in text
    assert not (tmp_path / "o").exists()
    code, text, _ = seqpair(*words, "--json")
    assert code == 0
    assert [len(report["results"]) for report in json.loads(text)] == [3, 1]
    code, text, _ = seqpair(*words)
    assert code == 0
    assert "chance 0.5000, from before" in text
    assert "skipped, a causal model cannot do it" in text
    assert "in brackets one standard error" in text
    assert seqpair("eval", tmp_path / "none", "--data", data)[0] == 2
    code, _, err = seqpair("eval", random_exports["mlm"], random_exports["mlm"], "--data", data)
    assert code == 2
    assert "into one folder" in err


def test_a_model_that_cannot_be_loaded_does_not_stop_the_others(seqpair, random_exports, data, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(random_exports["clm"], broken)
    (broken / "seqpair_export.json").unlink()  # else the files are compared before anything is done
    (broken / "model.safetensors").write_bytes(b"no weights")
    words = [broken, random_exports["clm"], "--suite", "blimp", "--limit", "2", "--data", data, "--out", tmp_path / "o"]
    code, text, err = seqpair("eval", *words)
    assert code == 2
    assert "failed broken blimp: transformers cannot load the model" in err
    assert "1 results could not be computed" in err
    assert "n 2 (limit 2), chance 0.5" in text


def test_what_was_named_and_gave_nothing_is_an_error(seqpair, random_exports, data, tmp_path):
    export, out = random_exports["clm"], ["--data", data, "--out", tmp_path / "o", "--limit", "2"]
    code, _, err = seqpair("eval", export, "--suite", "blimp", "--task", "blimp_pll", *out)
    assert code == 2
    assert "nothing could be measured for the task blimp_pll" in err
    assert "a causal model cannot do it" in err
    code, _, err = seqpair("eval", export, "--suite", "blimp", "--suite", "bias", *out)
    assert code == 2
    assert "nothing could be measured for the suite bias" in err
    assert seqpair("eval", export, "--suite", "blimp", "--task", "blimp", *out)[0] == 0  # one task of a suite will do
    code, _, err = seqpair("eval", export, "--data", tmp_path / "typo", "--suite", "blimp")
    assert code == 2
    assert "the folder of the suites' data does not exist" in err
    (tmp_path / "empty").mkdir()
    code, _, err = seqpair("eval", export, "--data", tmp_path / "empty", "--out", tmp_path / "o")
    assert code == 2
    assert "nothing could be measured for any suite" in err


def test_a_column_that_is_missing_is_one_error_that_names_it(seqpair, random_exports, data, tmp_path):
    write_rows(data / "blimp" / "set_one.jsonl", [{"sentence_good": "It runs.", "UID": "one", "pairID": "0"}])
    words = ["--suite", "blimp", "--data", data, "--out", tmp_path / "o"]
    code, _, err = seqpair("eval", random_exports["clm"], *words)
    assert code == 2
    assert "set_one.jsonl, line 1 is no minimal pair" in err
    assert "no sentence_bad" in err


def test_a_folder_without_a_tokenizer_is_refused_before_anything_runs(seqpair, random_exports, data, tmp_path):
    shutil.copytree(random_exports["clm"], tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer.json").unlink()
    words = [random_exports["mlm"], tmp_path / "bare", "--data", data, "--out", tmp_path / "o"]
    code, text, err = seqpair("eval", *words)
    assert (code, text) == (2, "")
    assert "no a tokenizer" in err or "no tokenizer" in err
    assert not (tmp_path / "o").exists()
