"""BLiMP: right where the good sentence is likelier, and a limit that takes all sets in turn."""

from __future__ import annotations

import pytest
from suite_runs import run_tasks, write_rows, write_suite_data

from seqpair.evaluate.registry import choose_tasks
from seqpair.evaluate.results import read_items
from seqpair.evaluate.task import TaskContext
from seqpair.models.place import find_model
from seqpair.models.score import score_continuations


@pytest.fixture
def data(tmp_path):
    return write_suite_data(tmp_path / "data")


def test_the_limit_of_blimp_takes_the_sets_in_turn(random_exports, data, tmp_path):
    report = run_tasks(
        find_model(random_exports["clm"]), choose_tasks(["blimp"], ["blimp"]), TaskContext(data, limit=3), tmp_path
    )
    ids = [item.id for item in read_items(tmp_path, report.results[0])]
    assert ids == ["set_one-0", "set_two-0", "set_one-1"]
    items = read_items(tmp_path, report.results[0])
    assert [item.cluster for item in items] == ["set_one", "set_two", "set_one"]
    assert items[0].detail["gold_bytes"] == len("The cats 0 run.")
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


def test_a_column_that_is_missing_is_one_error_that_names_it(seqpair, random_exports, data, tmp_path):
    write_rows(data / "blimp" / "set_one.jsonl", [{"sentence_good": "It runs.", "UID": "one", "pairID": "0"}])
    words = ["--suite", "blimp", "--data", data, "--out", tmp_path / "o"]
    code, _, err = seqpair("eval", random_exports["clm"], *words)
    assert code == 2
    assert "set_one.jsonl, line 1 lacks a column" in err
    assert "no sentence_bad" in err
