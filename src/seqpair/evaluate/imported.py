"""Results of lm-eval and mteb, of any model, as results of ours, so that they are paired and compared like these.

lm-eval's `--log_samples` writes one line per item; an item is named by its place and the hash of its document, so that
only equal items are paired. mteb's files have a value for each subset, and no items: a subset is an item, and several
tasks together are one more result whose items are the tasks.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqpair.data.sources.tables import Row, require_finite, table_rows
from seqpair.errors import EvaluationError
from seqpair.evaluate.results import ItemOutcome, write_result
from seqpair.evaluate.task import Measurement, TaskOutcome, result_of
from seqpair.files import sha256_json
from seqpair.models.place import ModelPlace
from seqpair.text import decoded_text

LM_EVAL, MTEB = "lm_eval", "mteb"
ALL_TASKS = "all tasks"
"""The task whose items are tasks of mteb, imported or run here by the suite `mteb`."""
PREFERRED = ("acc_norm", "acc", "exact_match", "em", "f1")
"""The metric that is taken of a sample, if it has several and none is named: the first of these."""
_LOWER_IS_BETTER = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")
_SAMPLES = re.compile(r"samples_(?P<task>.+?)(_\d{4}-\d{2}-\d{2}T[\d.:-]+)?\.jsonl")
Imported = tuple[Measurement, TaskOutcome]


def import_results(paths: Iterable[Path], place: ModelPlace, folder: Path, metric: str = "") -> list[str]:
    """Write the results in some files as results of a model, and return their tasks' names.

    Args:
        paths: Files of samples, mteb's result files, or folders that contain some.
        place: The model that they are of.
        folder: Where the results go.
        metric: The metric of lm-eval's samples; empty takes the first of `PREFERRED`.

    Raises:
        EvaluationError: There is nothing to read, a file is of neither form, or two are of one task.
        DataError: A line is not JSON.
    """
    found = [imported for path in _files(paths) for imported in _read(path, metric)]
    tasks = [one for one in found if one[0].suite == MTEB]
    if len(tasks) > 1:
        found.append(_together(tasks))
    names = [measured.name for measured, _ in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise EvaluationError(
            "two files contain results of the same task",
            seen=twice,
            fix="give the newer one only, or each with its own --out",
        )
    for measured, outcome in found:
        items = [item.model_dump(mode="json") for item in outcome.items]
        key = sha256_json({"model": place.model_digest, "task": measured.name, "imported": items})
        write_result(folder, result_of(measured, place, outcome, key=key, choices={}), outcome.items)
    return names


def absent_model(name: str) -> ModelPlace:
    """Return a model that is known by its results alone: no file of it is here, so nothing can be computed with it."""
    return ModelPlace(name, Path(), "causal", "next", "", has_head=False, model_digest="", is_ours=False)


def _files(paths: Iterable[Path]) -> list[Path]:
    found = []
    for path in paths:
        if not path.exists():
            raise EvaluationError("there is no such file of results", seen=path, fix="check the spelling")
        own = sorted(path.rglob("*")) if path.is_dir() else [path]
        # lm-eval writes its sums beside the samples, and mteb what it knows of the model.
        found += [one for one in own if not path.is_dir() or _is_result(one)]
    if not found:
        raise EvaluationError("these folders have no results", allowed="samples_*.jsonl of lm-eval, or mteb's *.json")
    return found


def _is_result(path: Path) -> bool:
    if path.suffix == ".jsonl":
        return _SAMPLES.fullmatch(path.name) is not None
    return path.suffix == ".json" and path.name != "model_meta.json" and not path.name.startswith("results_")


def _read(path: Path, metric: str) -> list[Imported]:
    if path.suffix == ".jsonl":
        return _lm_eval(path, metric)
    require_finite(path)
    try:
        read = json.loads(decoded_text(path.read_bytes(), str(path)))
    except ValueError as error:
        raise EvaluationError(
            f"{path} is not JSON", seen=error, fix="name lm-eval's samples or mteb's results, or folders of them"
        ) from error
    if not isinstance(read, dict) or not isinstance(read.get("scores"), dict) or "task_name" not in read:
        raise EvaluationError(
            f"{path} is not a result file of mteb",
            seen=", ".join(map(str, read))[:80] if isinstance(read, dict) else type(read).__name__,
            allowed="an object with task_name and scores; lm-eval's samples are named samples_*.jsonl",
        )
    return [_mteb(path, read)]


def task_name(library: str, task: str) -> str:
    """Return what a task of a library is called here: `mteb_nfcorpus`."""
    return f"{library}_{re.sub('[^a-z0-9]+', '_', task.lower()).strip('_')}"


def _lm_eval(path: Path, wanted: str) -> list[Imported]:
    """Return the result of one file of samples: of its first filter, if there are several."""
    match = _SAMPLES.fullmatch(path.name)
    rows = list(table_rows(path, columns=("doc_id", "target", "filtered_resps")))
    if not rows:
        raise EvaluationError(f"{path} has no samples", fix="run lm-eval with --log_samples")
    filters = list(dict.fromkeys(str(row.get("filter", "none")) for _, row in rows))
    rows = [(where, row) for where, row in rows if str(row.get("filter", "none")) == filters[0]]
    metrics = _metrics(rows[0][1])
    metric = wanted or next((name for name in PREFERRED if name in metrics), metrics[0] if metrics else "")
    if metric not in metrics:
        allowed = ", ".join(metrics) or "a metric with one number per sample"
        raise EvaluationError(f"{rows[0][0]} has no such metric", seen=metric or "none", allowed=allowed)
    items = [_sample(where, row, metric) for where, row in rows]
    task = match["task"] if match else path.stem
    measured = Measurement(
        name=task_name(LM_EVAL, task),
        version=1,
        title=f"{task}, by lm-eval",
        suite=LM_EVAL,
        metric=metric,
        unit="mean over items",
        higher_is_better=metric not in _LOWER_IS_BETTER,
    )
    choices = [len(item.detail.get("scores", ())) for item in items]
    guessing = metric in ("acc", "acc_norm") and min(choices) > 1
    chance = math.fsum(1 / count for count in choices) / len(items) if guessing else None
    note = f"Of the filter {filters[0]}; also there: {', '.join(filters[1:])}." if len(filters) > 1 else ""
    settings = {"imported_from": LM_EVAL, "file": path.name, "filter": filters[0]} | _run_settings(path, task)
    return [(measured, TaskOutcome(items, settings, chance, note=note))]


def _metrics(row: Row) -> list[str]:
    """Return the metrics that have one number per sample; older files do not list them."""
    given = row.get("metrics")
    names = given if isinstance(given, list) else [name for name in row if name != "doc_id"]
    return [str(name) for name in names if isinstance(row.get(name), int | float)]


def _sample(where: str, row: Row, metric: str) -> ItemOutcome:
    value = row.get(metric)
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise EvaluationError(
            f"{where}: the column {metric!r} has no number", seen=repr(value), fix="name another metric with --metric"
        )
    found: dict[str, Any] = {name: row[name] for name in _metrics(row) if name != metric}
    found |= _scored(row)
    name = f"{row['doc_id']}-{str(row.get('doc_hash', ''))[:16]}".rstrip("-")
    return ItemOutcome(id=name, value=float(value), detail=found)


def _scored(row: Row) -> dict[str, Any]:
    """Return the log-probabilities of a sample's candidates, with the right one and its bytes; empty if it has none."""
    responses, target = row["filtered_resps"], str(row["target"])
    if not isinstance(responses, list) or not all(isinstance(one, list) and len(one) == 2 for one in responses):
        return {}
    try:
        scores = [float(one[0]) for one in responses]
    except (TypeError, ValueError):
        return {}
    gold = 0 if len(scores) == 1 else int(target) if target.isdecimal() else -1
    if not 0 <= gold < len(scores):
        return {}
    detail: dict[str, Any] = {"scores": scores, "gold": gold}
    arguments = row.get("arguments")
    own = arguments.get(f"gen_args_{gold}") if isinstance(arguments, dict) else None
    said = own.get("arg_1") if isinstance(own, dict) else None
    return detail | ({"gold_bytes": len(said.encode())} if isinstance(said, str) and said else {})


def _run_settings(path: Path, task: str) -> dict[str, Any]:
    """Return what the file of the sums, which lm-eval writes beside the samples, says of the task."""
    for beside in sorted(path.parent.glob("results_*.json"), reverse=True):
        try:
            read = json.loads(beside.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        found = {short: read.get(name, {}).get(task) for name, short in (("versions", "version"), ("n-shot", "shots"))}
        return {f"lm_eval_{name}": value for name, value in found.items() if value is not None}
    return {}


def _mteb(path: Path, read: Mapping[str, Any]) -> Imported:
    items = []
    for split, subsets in read["scores"].items():
        for own in subsets:
            value = own.get("main_score") if isinstance(own, dict) else None
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise EvaluationError(
                    f"{path}: the split {split!r} has no main_score", seen=repr(value), fix="run the task again"
                )
            detail = {name: one for name, one in own.items() if isinstance(one, int | float) and name != "main_score"}
            items.append(
                ItemOutcome(id=f"{split}/{own.get('hf_subset', 'default')}", value=float(value), detail=detail)
            )
    if not items:
        raise EvaluationError(f"{path} has no scores", seen=read["task_name"], fix="run the task again")
    settings = {"imported_from": MTEB} | {name: read.get(name) for name in ("mteb_version", "dataset_revision")}
    task = str(read["task_name"])
    return _of_mteb(task, f"{task}, by mteb"), TaskOutcome(items, settings, note=_WITHOUT_ITEMS)


_WITHOUT_ITEMS = "mteb's file has no items, so the interval is over its subsets."


def _of_mteb(task: str, title: str) -> Measurement:
    return Measurement(
        name=task_name(MTEB, task),
        version=1,
        title=title,
        suite=MTEB,
        metric="main_score",
        unit="mteb's main score",
        higher_is_better=True,
    )


def _together(tasks: Sequence[Imported]) -> Imported:
    """Return the mean over tasks as one result, whose items are the tasks, so that two models are paired by them."""
    items = [
        ItemOutcome(id=measured.name, value=math.fsum(item.value for item in outcome.items) / len(outcome.items))
        for measured, outcome in tasks
    ]
    settings = {"imported_from": MTEB, "tasks": [measured.name for measured, _ in tasks]}
    return _of_mteb(ALL_TASKS, f"mean of {len(tasks)} tasks of mteb"), TaskOutcome(items, settings)
