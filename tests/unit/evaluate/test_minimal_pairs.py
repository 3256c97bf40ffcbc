"""BLiMP: right where the good sentence is likelier, and a limit that takes all sets in turn."""

from __future__ import annotations

import pytest
from suite_runs import run_tasks, write_rows, write_suite_data

from seqpair.errors import EvaluationError
from seqpair.evaluate.minimal_pairs import BABYLM, ZORRO
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


def test_a_text_file_has_the_bad_sentence_first_and_is_a_paradigm(random_exports, models, tmp_path):
    folder = tmp_path / "data" / "zorro"
    folder.mkdir(parents=True)
    for name in ("one", "two"):
        (folder / f"{name}.txt").write_text(f"it {name} are .\nit {name} is .\nthey is .\nthey are .\n")
    (folder / "LICENSE").write_text("MIT")
    report = run_tasks(
        find_model(random_exports["clm"]), choose_tasks(["zorro"]), TaskContext(tmp_path / "data", limit=3), tmp_path
    )
    result = next(result for result in report.results if result.task == "zorro")
    items = read_items(tmp_path, result)
    assert [(item.id, item.cluster) for item in items] == [("one-0", "one"), ("two-0", "two"), ("one-1", "one")]
    good, bad = score_continuations(models["clm"], [("", "it one is ."), ("", "it one are .")])
    assert items[0].value == float(good.log_prob > bad.log_prob)
    assert "Only 2 of the 23 sets of Zorro." in result.note
    assert "zorro_pll" in report.skipped
    assert not result.baselines  # the model has no study here
    (folder / "one.txt").write_text("it are .\n")
    with pytest.raises(EvaluationError, match="no partner"):
        ZORRO.read(tmp_path / "data")


def test_babylm_is_read_by_its_columns_with_each_file_as_a_paradigm(tmp_path):
    row = {"sentence_good": "A: is it?\nB: yes", "sentence_bad": "A: is it?\nB: red"}
    write_rows(tmp_path / "babylm" / "supplement_filtered" / "turn_taking.jsonl", [row, row])
    pairs = BABYLM[1].read(tmp_path)
    assert [(pair.id, pair.paradigm) for pair in pairs] == [
        ("turn_taking-0", "turn_taking"),
        ("turn_taking-1", "turn_taking"),
    ]
    write_rows(tmp_path / "babylm" / "supplement_filtered" / "turn_taking.jsonl", [row | {"sentence_bad": " "}])
    with pytest.raises(EvaluationError, match=r"turn_taking\.jsonl, line 1: the column 'sentence_bad' has no text"):
        BABYLM[1].read(tmp_path)
