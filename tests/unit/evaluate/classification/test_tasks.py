"""The suite `classification` on made-up rows of the same files and columns."""

from __future__ import annotations

import csv
import json
import zipfile

import pytest
from suite_runs import run_tasks

from seqpair.errors import DataError, EvaluationError
from seqpair.evaluate.classification import tasks as classification
from seqpair.evaluate.classification.sets import SETS
from seqpair.evaluate.finetune.runs import measured_items
from seqpair.evaluate.registry import SUITES, choose_tasks
from seqpair.evaluate.results import read_items
from seqpair.evaluate.runner import results_folder
from seqpair.evaluate.task import TaskContext
from seqpair.models.place import find_model

MULTITASK = [(name, "spearman" if name == "stsb" else "accuracy") for name in classification.TOGETHER]
READERS = {one.name: one.read for one in SETS}


def write_table(path, rows, delimiter="\t"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        if delimiter == "\t":
            handle.writelines("\t".join(map(str, row)) + "\n" for row in rows)
        else:
            csv.writer(handle).writerows(rows)


def asked(name):
    return {"id": name, "question": "who?", "answers": [{"text": "Ann", "answer_start": 0}]}


@pytest.fixture
def data(tmp_path):
    """A data folder with a few rows of every set."""
    folder = tmp_path / "data"
    for part in ("validation", "test"):
        rows = [(f'a "man {n}', f"he {n}", n % 3) for n in range(20)]
        write_table(folder / f"classification/snli_{part}.tsv", [("premise", "hypothesis", "label"), *rows])
    rows = [(n, f"who {n}?", f"he {n}", ("entailment", "not_entailment")[n % 2]) for n in range(20)]
    write_table(folder / "classification/qnli_dev.tsv", [("index", "question", "sentence", "label"), *rows])
    for part in ("train", "dev", "test"):
        write_table(folder / f"similarity/stsb-en-{part}.csv", [(f"a, {n}", "b", n % 6) for n in range(12)], ",")
    write_table(folder / "classification/dbpedia14_subset.csv", [(1 + n % 3, f"text {n}") for n in range(30)], ",")
    lines = "\n".join(f"line {n}" for n in range(20)) + "\n"
    archives = {
        "sentence_polarity": {f"sentence_polarity/rt-polarity.{end}": lines for end in ("neg", "pos")},
        "subjectivity": {f"subjectivity/{name}.tok.gt9.5000": lines for name in ("plot", "quote")},
        "movie_reviews": {f"movie_reviews/{end}/cv{n}.txt": f"film {n}" for end in ("neg", "pos") for n in range(10)},
    }
    for name, members in archives.items():
        with zipfile.ZipFile(folder / f"classification/{name}.zip", "w") as file:
            for member, text in members.items():
                file.writestr(member, text)
    articles = [
        {"title": f"t{t}", "paragraphs": [{"context": "Ann ran.", "qas": [asked(f"{t}-{n}") for n in range(2)]}]}
        for t in range(12)
    ]
    (folder / "retrieval").mkdir()
    (folder / "retrieval/xquad.en.json").write_text(json.dumps({"data": articles}))
    return folder


def test_every_set_is_tuned_on_and_a_second_run_costs_nothing(random_exports, data, tmp_path, monkeypatch):
    place = find_model(random_exports["clm"])
    context = TaskContext(data, limit=8, settings={"grid": "final", "pooling": "mean"})
    names = [one.name for one in SETS]
    report = run_tasks(place, choose_tasks(["classification"], names), context, tmp_path / "out")
    assert report.skipped == {}
    by_name = {result.task: result for result in report.results}
    assert set(by_name) == set(names)
    for name, result in by_name.items():
        assert result.n == len(read_items(tmp_path / "out", result)) <= 8 or name == "xquad"
        assert result.settings["chosen"]["pooling"] == "mean"
        assert result.seeds == [0]
        assert result.figures["train_rows"] <= 8 or name == "xquad"
    monkeypatch.setattr(classification, "tune_grid", None)
    again = run_tasks(place, choose_tasks(["classification"], names), context, tmp_path / "out")
    assert sorted(again.cached) == sorted(names)


def test_sets_are_learned_after_together_with_and_for_others(random_exports, data, tmp_path):
    for name in ("rte", "mnli"):
        labels = 2 if name == "rte" else 3
        columns = ("sentence1", "sentence2") if name == "rte" else ("premise", "hypothesis")
        rows = [dict(zip(columns, (f"a {n}", f"b {n}"), strict=True)) | {"label": n % labels} for n in range(12)]
        for split in ("train", "validation", "validation_matched", "validation_mismatched"):
            path = data / f"glue/{name}/{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    place = find_model(random_exports["mlm"])
    context = TaskContext(data, limit=8, settings={"grid": "final"})
    names = ["glue_rte_from_glue_mnli", "stsb_from_snli", "snli_to_qnli_dev", "multitask"]
    report = run_tasks(place, choose_tasks(["classification"], names), context, tmp_path / "out")
    assert report.skipped == {}
    by_name = {result.task: result for result in report.results}
    assert by_name["glue_rte_from_glue_mnli"].settings["started_from"]["set"] == "glue_mnli"
    assert "Reported on the dev rows" in by_name["glue_rte_from_glue_mnli"].note
    assert by_name["stsb_from_snli"].metric == "spearman"
    crossed = by_name["snli_to_qnli_dev"]
    assert crossed.n == 2
    assert {item.detail["gold"] for item in read_items(tmp_path / "out", crossed)} <= {"entailment", "not_entailment"}
    together = by_name["multitask"]
    values = [together.figures[f"{name}_{metric}_mean"] for name, metric in MULTITASK]
    assert together.value == pytest.approx(sum(values) / len(values))
    assert not (tmp_path / "out" / ".work").exists()


def test_a_choice_that_is_not_the_usual_one_has_a_folder_of_its_own(random_exports, data):
    place = find_model(random_exports["mlm"])
    usual = results_folder(place, TaskContext(data, settings={"grid": "small", "pooling": "default"}))
    assert usual == results_folder(place, TaskContext(data))
    other = results_folder(place, TaskContext(data, limit=5, settings={"grid": "final", "pooling": "mean"}))
    assert other == usual / "limit-5_grid-final_pooling-mean"


def test_the_parts_of_a_split_share_no_row_and_do_not_depend_on_chance(data):
    for name in ("sentence_polarity", "movie_reviews", "dbpedia", "qnli_dev", "snli", "xquad"):
        one, again = READERS[name](data), READERS[name](data)
        assert one.digest == again.digest
        ids = [[row.id for row in part] for part in (one.train, one.dev, one.test)]
        assert len(set().union(*ids)) == sum(map(len, ids))


def test_questions_on_an_article_and_hypotheses_of_a_premise_are_clusters(data):
    assert all(row.cluster == f"article-{row.id.partition('-')[0]}" for row in READERS["xquad"](data).test)
    rows = READERS["snli"](data).test
    assert len({row.cluster for row in rows}) == len({row.text for row in rows})
    test = READERS["xquad"](data).test
    items = measured_items(READERS["xquad"](data), [["Ann"] * len(test)])
    assert [item.cluster for item in items] == [row.cluster for row in test]


def test_quotes_in_a_tsv_and_commas_in_a_csv_stay_text(data):
    assert {row.text for row in READERS["snli"](data).test} >= {'a "man 0'}
    assert READERS["stsb"](data).test[1].text == "a, 1"
    assert READERS["stsb"](data).test[1].label == 1.0


HEADER = ("premise", "hypothesis", "label")


@pytest.mark.parametrize(
    ("name", "file", "rows", "message"),
    [
        ("snli", "classification/snli_test.tsv", [HEADER[:2], ("a", "b")], "lacks a column"),
        ("snli", "classification/snli_test.tsv", [HEADER, ("a", "b", "-1")], "no such label"),
        ("snli", "classification/snli_test.tsv", [HEADER, ("a", "b")], "another number of columns"),
        ("stsb", "similarity/stsb-en-dev.csv", [("a", "b", "high")], "no number"),
    ],
)
def test_a_row_that_cannot_be_used_is_one_clear_error(data, name, file, rows, message):
    write_table(data / file, rows, "\t" if file.endswith("tsv") else ",")
    with pytest.raises((DataError, EvaluationError), match=message):
        READERS[name](data)


def test_the_suite_is_registered_with_its_own_names():
    assert SUITES["classification"] == classification.TASKS
    assert len({task.name for tasks in SUITES.values() for task in tasks}) == sum(map(len, SUITES.values()))
