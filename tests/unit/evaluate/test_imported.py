"""Results of lm-eval and mteb, written by these libraries themselves, as results of ours that are paired by item."""

from __future__ import annotations

import json

import numpy as np
import pytest
from suite_runs import write_rows

from seqpair.compare.reading import model_from_elsewhere, read_scores
from seqpair.errors import EvaluationError
from seqpair.evaluate.results import read_items, read_results


def sample(number, right, metrics=("acc", "acc_norm"), **more):
    """One sample of a task with two choices, as lm-eval's evaluator makes it."""
    scores = [(-4.0, False), (-2.0, True)] if right else [(-2.0, True), (-4.0, False)]
    found = {
        "doc_id": number,
        "doc": {"query": f"Question {number}?"},
        "target": 1,
        "arguments": [(f"Question {number}?", " no"), (f"Question {number}?", " yes")],
        "resps": [[one] for one in scores],
        "filtered_resps": scores,
        "filter": "none",
        "metrics": list(metrics),
        "doc_hash": f"{number:064x}",
        "prompt_hash": "0" * 64,
        "target_hash": "1" * 64,
    }
    return found | {metric: float(right) for metric in metrics} | more


@pytest.fixture
def written(tmp_path):
    """A folder of lm-eval's, written by its own tracker."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        tracker = pytest.importorskip("lm_eval.loggers.evaluation_tracker")

    def write(rights, task="toy_arc", folder="run", **more):
        found = tracker.EvaluationTracker(output_path=str(tmp_path / folder))
        found.general_config_tracker.model_name_sanitized = "toy"
        found.date_id = "2026-01-02T03-04-05.678901"
        found.save_results_samples(task, [sample(n, right, **more) for n, right in enumerate(rights)])
        return tmp_path / folder / "toy"

    return write


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def test_samples_become_items_that_two_models_share(seqpair, random_exports, written, tmp_path):
    places = {}
    for name, rights in (("mlm", [1, 0, 1]), ("clm", [1, 1, 0])):
        folder = written(rights, folder=name)
        (folder / "results_2026-01-02T03-04-05.678901.json").write_text(
            json.dumps({"versions": {"toy_arc": 2.0}, "n-shot": {"toy_arc": 5}})
        )
        code, out, err = seqpair(
            "import-results", random_exports[name], folder, "--out", tmp_path / "out" / name, "--json"
        )
        assert code == 0, err
        found = json.loads(out)
        assert found["tasks"] == ["lm_eval_toy_arc"]
        places[name] = next(path for path in (tmp_path / "out" / name).rglob("lm_eval_toy_arc.json")).parent
    result = read_results(places["mlm"])[0]
    assert (result.suite, result.metric, result.value) == ("lm_eval", "acc_norm", pytest.approx(2 / 3))
    assert result.chance == 0.5
    assert result.settings["lm_eval_version"] == 2.0
    assert result.settings["lm_eval_shots"] == 5
    items = read_items(places["mlm"], result)
    assert [item.id for item in items] == [
        item.id for item in read_items(places["clm"], read_results(places["clm"])[0])
    ]
    assert items[0].detail == {"acc": 1.0, "scores": [-4.0, -2.0], "gold": 1, "gold_bytes": 4}
    own, gold = read_scores(places["mlm"], model_from_elsewhere("a model"))
    assert own.task.name == "lm_eval_toy_arc"
    assert gold.task.metric == "gold_bits_per_byte"
    assert float(np.average(gold.values, weights=gold.weights)) == pytest.approx(8 / np.log(2) / 12)


def test_the_metric_can_be_chosen_and_only_the_first_filter_counts(seqpair, random_exports, written, tmp_path):
    folder = written([1, 0], task="gsm", metrics=("exact_match", "other"))
    path = next(folder.glob("samples_gsm_*.jsonl"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write_rows(path, [row | {"filter": name} for name in ("strict-match", "flexible-extract") for row in rows])
    words = ["--out", tmp_path / "out"]
    code, _, err = seqpair("import-results", random_exports["clm"], path, *words, "--metric", "oter")
    assert code == 2
    assert "has no such metric" in err
    assert "exact_match, other" in err
    code, _, err = seqpair("import-results", random_exports["clm"], path, *words, "--metric", "other")
    assert code == 0, err
    place = next(path for path in (tmp_path / "out").rglob("lm_eval_gsm.json")).parent
    result = read_results(place)[0]
    assert (result.metric, result.n, result.chance) == ("other", 2, None)
    assert "flexible-extract" in result.note


def test_files_of_mteb_are_results_and_their_mean_is_paired_by_task(seqpair, random_exports, tmp_path):
    results = pytest.importorskip("mteb.results")
    folder = tmp_path / "mteb" / "revision"
    folder.mkdir(parents=True)
    for name, values in (("STSBenchmark", [0.5]), ("SIB200Classification", [0.2, 0.4])):
        subsets = [{"main_score": one, "hf_subset": f"s{n}", "languages": ["eng-Latn"]} for n, one in enumerate(values)]
        results.TaskResult(
            dataset_revision="r", task_name=name, mteb_version="2.0.0", scores={"test": subsets}, evaluation_time=1.0
        ).to_disk(folder / f"{name}.json")
    (folder / "model_meta.json").write_text("{}")
    code, out, err = seqpair("import-results", random_exports["clm"], tmp_path / "mteb", "--out", tmp_path / "out")
    assert code == 0, err
    assert "3 results" in out
    place = next(path for path in (tmp_path / "out").rglob("mteb_all_tasks.json")).parent
    found = {result.task: result for result in read_results(place)}
    assert found["mteb_sib200classification"].value == pytest.approx(0.3)
    assert found["mteb_all_tasks"].value == pytest.approx(0.4)
    assert [item.id for item in read_items(place, found["mteb_all_tasks"])] == [
        "mteb_sib200classification",
        "mteb_stsbenchmark",
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("samples_a.jsonl", '{"doc_id": 0}', "samples_a.jsonl, line 1 lacks a column"),
        ("samples_a.jsonl", "no", "samples_a.jsonl, line 1 is not JSON"),
        (
            "samples_a.jsonl",
            '{"doc_id": 0, "target": "1", "filtered_resps": [], "acc": 1.0}\n'
            '{"doc_id": 1, "target": "1", "filtered_resps": [], "acc": null}',
            "samples_a.jsonl, line 2: the column 'acc' has no number",
        ),
        ("a.json", '{"task": 1}', "is not a result file of mteb"),
        (
            "a.json",
            '{"task_name": "A", "scores": {"test": [{"main_score": "x"}]}}',
            "the split 'test' has no main_score",
        ),
    ],
)
def test_a_malformed_file_is_one_error_with_file_row_and_column(seqpair, random_exports, tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    code, _, err = seqpair("import-results", random_exports["clm"], tmp_path / name, "--out", tmp_path / "out")
    assert code == 2
    assert said in err


def test_two_files_of_one_task_are_refused(tmp_path):
    from seqpair.evaluate.imported import import_results

    row = {"doc_id": 0, "target": "1", "filtered_resps": [], "acc": 1.0}
    for day in ("01", "02"):
        write_rows(tmp_path / f"samples_a_2026-01-{day}T03-04-05.678901.jsonl", [row])
    with pytest.raises(EvaluationError, match="two files contain results of the same task"):
        import_results([tmp_path], None, tmp_path / "out")


def test_models_known_by_their_results_alone_are_compared(seqpair, written, tmp_path):
    rng = np.random.default_rng(0)
    for name, share in (("some/first", 0.9), ("some/second", 0.3)):
        folder = written((rng.random(80) < share).tolist(), folder=name)
        code, _, err = seqpair("import-results", name, folder, "--absent", "--out", tmp_path / "out")
        assert code == 0, err
    code, out, err = seqpair("report", tmp_path / "out", "--dry-run", "--json")
    assert code == 0, err
    answers = {row["task"]: row["differences"][0] for row in json.loads(out)["rows"]}
    assert answers["lm_eval_toy_arc"]["verdict"] == "some--first"
    assert answers["lm_eval_toy_arc_gold"]["verdict"] == "some--first"
