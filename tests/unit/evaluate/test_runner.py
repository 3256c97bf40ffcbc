"""The runner on the suites of text files: what is cached, skipped or failed, and the verb `eval`."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from suite_runs import PARTIAL, run_tasks, write_rows, write_suite_data

from seqpair.errors import EvaluationError
from seqpair.evaluate import runner
from seqpair.evaluate.generative import average_of
from seqpair.evaluate.registry import SUITES, choose_tasks
from seqpair.evaluate.results import ItemOutcome, read_items
from seqpair.evaluate.runner import Pending, TimeLeft, plan_tasks, results_folder, run_models
from seqpair.evaluate.task import Outcomes, Shard, TaskContext
from seqpair.models.place import find_model
from seqpair.models.score import ScoringOptions


@pytest.fixture
def data(tmp_path):
    return write_suite_data(tmp_path / "data")


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


def test_a_folder_without_a_tokenizer_is_refused_and_the_other_model_runs(seqpair, random_exports, data, tmp_path):
    shutil.copytree(random_exports["clm"], tmp_path / "bare")
    (tmp_path / "bare" / "tokenizer.json").unlink()
    words = [tmp_path / "bare", random_exports["mlm"], "--data", data, "--out", tmp_path / "o"]
    code, _, err = seqpair("eval", *words, "--suite", "generative", "--task", "piqa")
    assert code == 2
    assert "no a tokenizer" in err or "no tokenizer" in err
    assert [path.name for path in (tmp_path / "o").rglob("*.json")] == ["piqa.json"]


def test_a_task_to_come_lasts_as_long_as_the_same_task_did():
    names = ("slow", "quick", "slow", "quick", "new")
    ways = ("bidirectional", "bidirectional", "causal", "bidirectional", "causal")
    left = TimeLeft([Pending(name, way) for name, way in zip(names, ways, strict=True)])
    # slow takes 100 s, nothing else is known: four more of 100
    assert left.seconds(100, 40) == pytest.approx(40 + 4 * 100)
    left.finished(100)
    # quick: 2 s; slow of the other direction as slow so far, quick again, new: the mean of both
    assert left.seconds(2, 1) == pytest.approx(1 + 100 + 2 + 51)
    left.finished(2)
    assert left.seconds(10, 10) == pytest.approx(10 + 2 + (100 + 2 + 10) / 3)
    left.gave_up()  # says nothing
    assert left.seconds(4, 0) == pytest.approx((100 + 2 + 4) / 3)
    assert left.words(4, 0) == "all: task 4 of 5, about 35 s left"


def numbers_of(folder):
    """What the results of a folder say, by file, without the time they took."""
    rows = {path.name: json.loads(path.read_text()) for path in folder.rglob("*.json") if "summary" not in path.name}
    return {name: {key: row[key] for key in ("task", "value", "key", "n")} for name, row in rows.items()}


@pytest.mark.parametrize(
    ("text", "environment", "shard"),
    [
        ("1/4", {}, Shard(0, 4)),
        ("4/4", {"RANK": "1", "WORLD_SIZE": "2"}, Shard(3, 4)),
        (None, {}, Shard(0, 1)),
        (None, {"RANK": "1", "WORLD_SIZE": "2"}, Shard(1, 2)),
    ],
)
def test_a_job_s_share_is_named_or_torchrun_s(text, environment, shard):
    assert Shard.of(text, environment) == shard


@pytest.mark.parametrize("text", ["", "0/2", "3/2", "1", "1/0", "a/b", "-1/2", "1/2/3"])
def test_a_share_that_is_none_is_refused(text):
    with pytest.raises(EvaluationError, match="no part of the work"):
        Shard.of(text, {})


@pytest.mark.parametrize("models", [("clm",), ("mlm", "clm", "mlm")])
def test_jobs_do_all_tasks_together_and_none_twice(random_exports, data, tmp_path, models):
    tasks, context = choose_tasks(["generative"]), TaskContext(data)
    places = [find_model(random_exports[name]) for name in models]
    whole = [tmp_path / "whole" / str(number) for number in range(len(places))]
    for _ in run_models(places, tasks, context, whole):
        pass
    folders = [tmp_path / "shared" / str(number) for number in range(len(places))]
    done = []
    for index in range(3):
        for report in run_models(places, tasks, context, folders, shard=Shard(index, 3)):
            assert not report.cached
            done += [(report.folder, result.task) for result in report.results]
    assert len(done) == len(set(done)) == len(places) * len(tasks)
    assert [numbers_of(folder) for folder in folders] == [numbers_of(folder) for folder in whole]


@pytest.mark.slow
def test_two_jobs_at_once_on_one_folder_one_of_them_killed_and_repeated(random_exports, data, tmp_path):
    def command(out, *more):
        named = [str(random_exports["clm"]), "--suite", "generative", "--data", str(data), "--out", str(tmp_path / out)]
        return [sys.executable, "-m", "seqpair", "eval", *named, *more]

    subprocess.run(command("whole"), check=True, capture_output=True)
    jobs = [subprocess.Popen(command("shared", "--shard", f"{number}/2")) for number in (1, 2)]
    while jobs[1].poll() is None and not list((tmp_path / "shared").rglob("*.items.jsonl")):
        time.sleep(0.01)
    jobs[1].send_signal(signal.SIGKILL)
    assert jobs[0].wait(240) == 0
    jobs[1].wait(60)
    again = subprocess.run(command("shared", "--shard", "2/2", "--json"), check=True, capture_output=True, text=True)
    assert numbers_of(tmp_path / "shared") == numbers_of(tmp_path / "whole")
    seen = json.loads(again.stdout)[0]
    assert len(seen["results"]) == len(numbers_of(tmp_path / "whole")) // 2
