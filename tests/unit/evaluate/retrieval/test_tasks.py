"""The suite on made-up data: every task runs for both directions, is cached, and says what it cut."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import spearmanr
from suite_runs import run_tasks

from seqpair.errors import EvaluationError
from seqpair.evaluate.registry import choose_tasks, read_settings
from seqpair.evaluate.results import read_items
from seqpair.evaluate.retrieval import contrastive, with_mteb
from seqpair.evaluate.runner import plan_tasks, results_folder
from seqpair.evaluate.task import TaskContext
from seqpair.models.place import find_model

ZERO_SHOT = ["stsb_vectors", "xquad_passages", "cosqa", "qmsum_long"]
TUNED = ["stsb_tuned", "xquad_tuned"]
FAST = {"learning_rates": "1e-3,3e-3", "batch_pairs": "16", "train_tokens": "32", "epochs": "3"}


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_models_as_they_are_run_on_every_local_task_and_are_cached(random_exports, data, tmp_path, objective):
    place, context = find_model(random_exports[objective]), TaskContext(data)
    tasks, out = choose_tasks(["retrieval"], ZERO_SHOT), tmp_path / "out"
    report = run_tasks(place, tasks, context, out)
    assert report.skipped == {}
    by_name = {result.task: result for result in report.results}
    assert [by_name[name].n for name in ZERO_SHOT] == [40, 10, 6, 6]
    cosqa = by_name["cosqa"]
    assert cosqa.settings["documents"] == 10
    assert 0 < cosqa.chance < cosqa.value <= 1
    assert cosqa.figures["recall_at_10"] == 1.0
    assert cosqa.standard_error is not None
    items = read_items(out, cosqa)
    assert np.mean([item.detail["mrr_at_10"] for item in items]) == pytest.approx(cosqa.figures["mrr_at_10"])
    pairs = read_items(out, by_name["stsb_vectors"])
    wanted = spearmanr([item.value for item in pairs], [item.detail["score"] for item in pairs]).statistic
    assert by_name["stsb_vectors"].value == pytest.approx(wanted)
    again = run_tasks(place, tasks, context, out)
    assert again.cached == ZERO_SHOT


def test_another_pooling_is_another_result(random_exports, data, tmp_path):
    place, tasks = find_model(random_exports["clm"]), choose_tasks(["retrieval"], ["cosqa"])
    run_tasks(place, tasks, TaskContext(data), tmp_path / "out")
    last = TaskContext(data, settings={"embed_pooling": "last"})
    assert plan_tasks(place, tasks, last, tmp_path / "out")[0].cached is None
    result = run_tasks(place, tasks, last, tmp_path / "out").results[0]
    assert "last pooling" in result.settings["embedding"]
    assert results_folder(place, last, tmp_path).name == "embed_pooling-last"


def test_long_texts_are_cut_and_counted(random_exports, data, tmp_path):
    path = data / "retrieval" / "qmsum_long" / "corpus.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[0]["text"] = "river " * 500
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = run_tasks(
        find_model(random_exports["mlm"]), choose_tasks(["retrieval"], ["qmsum_long"]), TaskContext(data), tmp_path
    )
    assert report.results[0].figures["truncated_texts"] == 1
    assert "1 texts were longer than the 96 tokens" in report.results[0].note


@pytest.mark.parametrize("objective", ["mlm", pytest.param("clm", marks=pytest.mark.slow)])
def test_fine_tuning_learns_keeps_its_folder_and_is_not_repeated(
    random_exports, data, tmp_path, objective, monkeypatch
):
    place, out = find_model(random_exports[objective]), tmp_path / "out"
    tasks, context = choose_tasks(["retrieval"], TUNED), TaskContext(data, settings=FAST)
    report = run_tasks(place, tasks, context, out)
    assert report.skipped == {}
    stsb, xquad = report.results
    assert stsb.value > 0.5  # equal nouns mean 5: a few steps learn that
    for result in (stsb, xquad):
        sweep = result.settings["sweeps"][0]
        assert [row["learning_rate"] for row in sweep["sweep"]] == [1e-3, 3e-3]
        assert sweep["chosen"]["dev"] == max(row["dev"] for row in sweep["sweep"])
        assert (Path(result.settings["embedders"][0]) / "modules.json").is_file()
        assert ("mean" if objective == "mlm" else "last") in result.settings["embedding"]
    monkeypatch.setattr(contrastive, "_train", None)  # a second training would fail
    rest = run_tasks(place, choose_tasks(["retrieval"], ["cosqa_tuned"]), context, out)
    assert rest.skipped == {}
    assert rest.results[0].n == 6


def test_a_kept_embedder_opens_in_sentence_transformers_and_as_a_model(random_exports, data, tmp_path):
    from sentence_transformers import SentenceTransformer

    from seqpair.models.embed import embed_texts
    from seqpair.models.open import open_model

    settings = FAST | {"learning_rates": "1e-3", "tuned_pooling": "mean", "hard_negatives": "1"}
    report = run_tasks(
        find_model(random_exports["clm"]),
        choose_tasks(["retrieval"], ["xquad_tuned"]),
        TaskContext(data, settings=settings),
        tmp_path / "out",
    )
    assert report.skipped == {}
    folder = Path(report.results[0].settings["embedders"][0])
    texts = ["What of the river?", "a copper falcon and a meadow"]
    wanted = SentenceTransformer(str(folder), device="cpu").encode(texts, show_progress_bar=False)
    assert np.abs(embed_texts(open_model(folder), texts, "mean").vectors - wanted).max() < 1e-4
    fresh = SentenceTransformer(str(random_exports["clm"]), device="cpu").encode(texts, show_progress_bar=False)
    assert np.abs(fresh - wanted).max() > 1e-3
    again = run_tasks(find_model(folder), choose_tasks(["retrieval"], ["cosqa"]), TaskContext(data), tmp_path / "again")
    assert "sentence-transformers: Transformer, Pooling; mean pooling" in again.results[0].settings["embedding"]


def test_a_sweep_goes_on_after_an_interruption(random_exports, data, tmp_path, monkeypatch):
    place, tasks = find_model(random_exports["mlm"]), choose_tasks(["retrieval"], ["xquad_tuned"])
    context, real, rates = TaskContext(data, settings=FAST), contrastive._train, []

    def stops(trained, job, options, rate, *rest):
        rates.append(rate)
        if rate == 3e-3 and rates.count(rate) == 1:
            raise KeyboardInterrupt
        real(trained, job, options, rate, *rest)

    monkeypatch.setattr(contrastive, "_train", stops)
    with pytest.raises(KeyboardInterrupt):
        run_tasks(place, tasks, context, tmp_path / "out")
    report = run_tasks(place, tasks, context, tmp_path / "out")
    assert rates == [1e-3, 3e-3, 3e-3]
    assert len(report.results[0].settings["sweeps"][0]["sweep"]) == 2


def test_seeds_are_joined(random_exports, data, tmp_path):
    settings = FAST | {"learning_rates": "3e-3"}
    context = TaskContext(data, settings=settings, seeds=(0, 1))
    task = choose_tasks(["retrieval"], ["xquad_tuned"])
    result = run_tasks(find_model(random_exports["mlm"]), task, context, tmp_path / "out").results[0]
    values = result.settings["values_by_seed"]
    assert len(values) == 2
    assert result.value == pytest.approx(np.mean(values))
    assert result.figures["deviation_between_seeds"] == pytest.approx(np.std(values, ddof=1))
    assert result.seeds == [0, 1]


def test_missing_pairs_are_a_reason_and_hub_tasks_only_run_when_named(random_exports, data, tmp_path):
    (data / "retrieval" / "pairs.jsonl").unlink()
    place, context = find_model(random_exports["mlm"]), TaskContext(data)
    plans = {plan.task.name: plan for plan in plan_tasks(place, choose_tasks(["retrieval"]), context, tmp_path)}
    assert "pairs.jsonl; training pairs are named with --choice pairs=FILE" in plans["xquad_tuned"].skipped
    assert "hub_nfcorpus" not in plans
    report = run_tasks(place, choose_tasks(["retrieval"], ["hub_nfcorpus"]), context, tmp_path / "out")
    assert "the hub did not give the data" in report.skipped["hub_nfcorpus"]


def test_choices_are_read_and_wrong_ones_refused(data, random_exports, tmp_path):
    tasks = choose_tasks(["retrieval"])
    here = str(Path("a=b.jsonl").resolve())
    assert read_settings(tasks, ["epochs=2", "pairs=a=b.jsonl"]) == {"epochs": "2", "pairs": here}
    for wrong in (["epoch=2"], ["epochs"], ["epochs=1", "epochs=2"]):
        with pytest.raises(EvaluationError, match="choice"):
            read_settings(tasks, wrong)
    for name, value in (("epochs", "0"), ("learning_rates", "2"), ("learning_rates", "x"), ("tuned_pooling", "max")):
        context = TaskContext(data, settings={name: value})
        report = run_tasks(
            find_model(random_exports["mlm"]), choose_tasks(["retrieval"], ["xquad_tuned"]), context, tmp_path
        )
        assert value in report.skipped["xquad_tuned"]


def test_the_published_grid_sets_what_the_user_does_not(tmp_path):
    options = contrastive.TuningOptions.of({"grid": "published", "epochs": "2", "batch_pairs": "32"})
    assert (options.epochs, options.batch_pairs, options.train_tokens) == (2, 32, 0)
    assert (min(options.learning_rates), max(options.learning_rates)) == (1e-5, 1e-3)
    assert contrastive.TuningOptions.of({"grid": "small"}) == contrastive.TuningOptions()
    assert all("grid" in task.uses for task in choose_tasks(["retrieval"]) if task.name.endswith("_tuned"))


def test_a_task_of_the_hub_gives_every_query_of_all_its_subsets(random_exports, tmp_path, monkeypatch):
    import mteb
    from datasets import Dataset

    def load_data(self, **_options):
        split = {
            "corpus": Dataset.from_dict({"id": ["a", "b"], "title": ["", ""], "text": ["river", "engine"]}),
            "queries": Dataset.from_dict({"id": ["q"], "text": ["river"]}),
            "relevant_docs": {"q": {"a": 1}},
            "top_ranked": None,
        }
        self.dataset = {subset: {"test": dict(split)} for subset in self.hf_subsets}
        self.data_loaded = True

    monkeypatch.setattr(type(mteb.get_task("CodeSearchNetRetrieval")), "load_data", load_data)
    task = choose_tasks(["retrieval"], ["hub_codesearchnet"])
    report = run_tasks(find_model(random_exports["clm"]), task, TaskContext(tmp_path), tmp_path / "out")
    assert report.skipped == {}
    result = report.results[0]
    assert result.n == 6
    assert {"python_ndcg_at_10", "go_ndcg_at_10"} <= set(result.figures)
    ids = {item.id for item in read_items(tmp_path / "out", result)}
    assert "python/q" in ids
    limited = run_tasks(find_model(random_exports["clm"]), task, TaskContext(tmp_path, limit=1), tmp_path / "small")
    assert "is done whole or not at all" in limited.skipped["hub_codesearchnet"]


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_a_benchmark_of_mteb_is_one_result_over_its_tasks_and_resumes(random_exports, tmp_path, monkeypatch):
    import mteb
    from mteb.mocks import mock_tasks

    (whole,) = choose_tasks(["mteb"])
    assert whole.name not in {task.name for task in choose_tasks(["all"])}
    assert len(with_mteb.benchmark_tasks("MTEB(eng, v2)")) == 41
    with pytest.raises(EvaluationError, match="no benchmark of this name"):
        with_mteb.benchmark_tasks("MTEB(eng, v0)")
    tasks = [mock_tasks.MockSTSTask(), mock_tasks.MockRetrievalTask(), mock_tasks.MockClassificationTask()]
    monkeypatch.setattr(mteb, "get_benchmark", lambda _name: SimpleNamespace(tasks=tasks))

    def unreachable(*_args, **_options):
        raise ConnectionError("no hub")

    place, context, out = find_model(random_exports["mlm"]), TaskContext(tmp_path), tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks[2], "load_data", unreachable)
        assert "no hub" in run_tasks(place, [whole], context, out).skipped[whole.name]
    monkeypatch.setattr(tasks[0], "load_data", unreachable)  # it was done before, and is not done again
    (result,) = run_tasks(place, [whole], context, out).results
    items = read_items(out, result)
    assert [item.id for item in items] == [f"mteb_{task.metadata.name.lower()}" for task in tasks]
    assert result.value == pytest.approx(np.mean([item.value for item in items]))
    assert result.figures["mean_retrieval"] == items[1].value
    limited = run_tasks(place, [whole], TaskContext(tmp_path, limit=1), tmp_path / "small")
    assert "is done whole or not at all" in limited.skipped[whole.name]


def test_a_folder_without_a_tokenizer_is_refused(random_exports, tmp_path):
    import shutil

    folder = tmp_path / "bare"
    shutil.copytree(random_exports["mlm"], folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(EvaluationError, match="no a tokenizer"):
        find_model(folder)
