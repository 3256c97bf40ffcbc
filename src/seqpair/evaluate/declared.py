"""Anybody's tasks: a YAML file declares them, and they run, are compared and are shown like the built-in ones.

Every kind is measured by the code of a built-in suite; this file reads rows and names what is wrong with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seqpair.data.sources.tables import Row, table_rows
from seqpair.errors import EvaluationError
from seqpair.evaluate.classification.tasks import UNITS, USES, measure_set
from seqpair.evaluate.finetune.set_spec import labelled_set, spec_of
from seqpair.evaluate.finetune.sets import METRICS
from seqpair.evaluate.minimal_pairs import PairSuite, left_to_right, measure_pairs, text_of
from seqpair.evaluate.questions import ScoredRow, measure_rows
from seqpair.evaluate.results import weighted_mean
from seqpair.evaluate.retrieval.outcomes import ScoredPair
from seqpair.evaluate.retrieval.sets import RetrievalSet, checked_set, read_folder
from seqpair.evaluate.retrieval.tasks import rank_pairs, search_given
from seqpair.evaluate.task import BOTH, SuiteTask, TaskContext, TaskOutcome
from seqpair.models.text_model import TextModel
from seqpair.recipe.tree import read_tree, strip
from seqpair.text import decoded_text, nearest

SUITE = "tasks"
Kind = Literal["minimal_pairs", "choices", "continuation", "labelled", "retrieval", "similarity"]
COLUMNS: dict[str, tuple[str, ...]] = {
    "minimal_pairs": ("good", "bad"),
    "choices": ("question", "choices", "answer"),
    "continuation": ("context", "continuation"),
    "labelled": ("text", "pair", "label"),
    "retrieval": ("query", "document"),
    "similarity": ("first", "second", "score"),
}
"""What a row of each kind has; a column of another name is given under `columns`."""
_METRICS: dict[str, tuple[str, ...]] = {
    "minimal_pairs": ("accuracy",),
    "choices": ("acc_norm", "acc"),
    "continuation": ("bits_per_byte", "accuracy"),
    "labelled": tuple(dict.fromkeys(metric for own in METRICS.values() for metric in own)),
    "retrieval": ("ndcg_at_10",),
    "similarity": ("spearman",),
}
_UNITS = {
    "minimal_pairs": "share of pairs",
    "choices": "share of items",
    "continuation": "share of items",
    "retrieval": "mean nDCG at 10",
    "similarity": "Spearman's correlation",
}
_PARTS = ("train", "dev", "test")


class Declared(BaseModel):
    """A task as its file declares it.

    Attributes:
        kind: How its rows are measured.
        files: A file, several, or a pattern such as `*.jsonl`, relative to the declaration; for `labelled` a file for
            each of `train`, `dev`, `test`; for `retrieval` also a folder with corpus, queries and judgements.
        columns: The columns that are not called as `COLUMNS` has them.
        id: The column of the items' names; by default the line counts.
        cluster: The column of what items share, so that they are not independent.
        metric: What the value is; by default the first that the kind has.
        labels: For `labelled`: what a label is, `classes`, `number`, `tags`, `span` or `text`.
        baseline: A value to stand beside the result, such as the best simple model's.
        title: The task in a few words.
        version: Raise it when the same items are to be measured anew under the same name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    files: str | list[str] | dict[str, str]
    columns: dict[str, str] = Field(default_factory=dict)
    id: str = ""
    cluster: str = ""
    metric: str = ""
    labels: str = "classes"
    baseline: float | None = None
    title: str = ""
    version: int = 1

    def column(self, role: str) -> str:
        """Return the column that has this role."""
        return self.columns.get(role, role)


def read_tasks(path: Path) -> list[SuiteTask]:
    """Return the tasks that a file declares, as the suite `tasks`.

    Raises:
        EvaluationError: There is no such file, it declares no tasks, or a declaration is wrong.
        RecipeError: It is not YAML.
    """
    if not path.is_file():
        raise EvaluationError("there is no such file of tasks", seen=path, fix="check the spelling")
    read = strip(read_tree(decoded_text(path.read_bytes(), str(path)), str(path)))
    if not isinstance(read, dict) or not read:
        raise EvaluationError(f"{path} declares no tasks", allowed="`name: {kind: ..., files: ...}` for each")
    return [_task(str(name), _declared(str(name), given, path), path) for name, given in read.items()]


def _declared(name: str, given: Any, path: Path) -> Declared:
    try:
        declared = Declared.model_validate(given)
    except ValidationError as error:
        faults = []
        for fault in error.errors(include_url=False):
            key = ".".join(map(str, fault["loc"]))
            unknown = fault["type"] == "extra_forbidden"
            faults.append(
                f"unknown key '{key}'{nearest(key, Declared.model_fields)}" if unknown else f"{key}: {fault['msg']}"
            )
        raise _wrong(path, name, "; ".join(faults), ", ".join(Declared.model_fields)) from error
    if not name.isidentifier() or name != name.lower():
        raise _wrong(path, name, "its name", "small letters, digits and `_`")
    roles, metrics = COLUMNS[declared.kind], _METRICS[declared.kind]
    strange = next((role for role in declared.columns if role not in roles), None)
    if strange is not None:
        raise _wrong(path, name, f"unknown column '{strange}'{nearest(strange, roles)}", ", ".join(roles))
    if declared.metric and declared.metric not in metrics:
        raise _wrong(
            path, name, f"unknown metric '{declared.metric}'{nearest(declared.metric, metrics)}", ", ".join(metrics)
        )
    if isinstance(declared.files, dict) != (declared.kind == "labelled") or (
        isinstance(declared.files, dict) and not {"train"} <= set(declared.files) <= set(_PARTS)
    ):
        allowed = (
            "train: FILE, and perhaps dev and test" if declared.kind == "labelled" else "a file, or a list of them"
        )
        raise _wrong(path, name, f"files: {declared.files}", allowed)
    return declared


def _wrong(path: Path, name: str, seen: str, allowed: str) -> EvaluationError:
    return EvaluationError(f"{path}: the task {name} is not declared correctly", seen=seen, allowed=allowed)


def _task(name: str, declared: Declared, path: Path) -> SuiteTask:
    metric = declared.metric or _METRICS[declared.kind][0]
    if declared.kind == "labelled":
        metric = declared.metric or METRICS.get(declared.labels, ("",))[0]  # type: ignore[call-overload]
    files = _files(name, declared, path)
    in_bits = metric == "bits_per_byte"
    scored = declared.kind in ("minimal_pairs", "choices", "continuation")
    return SuiteTask(
        name=name,
        version=declared.version,
        title=declared.title or name.replace("_", " "),
        suite=SUITE,
        metric=metric,
        unit="bits per byte" if in_bits else _UNITS.get(declared.kind) or UNITS.get(metric, "0 to 1"),
        higher_is_better=not in_bits,
        directions=BOTH,
        inputs=tuple(map(str, files.values())),
        run=partial(_run, name, declared, metric, files),
        needs_head=scored,
        uses={"choices": ("scoring", "shots"), "labelled": USES}.get(
            declared.kind, ("scoring",) if scored else ("embed_pooling",)
        ),
        declared=declared.model_dump(mode="json", exclude={"title", "baseline"}),
    )


def _files(name: str, declared: Declared, path: Path) -> dict[str, Path]:
    """Return the files of a task, by part or by pattern.

    Raises:
        EvaluationError: There is none of a name or a pattern.
    """
    given = declared.files
    named = given if isinstance(given, dict) else {one: one for one in ([given] if isinstance(given, str) else given)}
    found: dict[str, Path] = {}
    for part, pattern in named.items():
        whole = path.resolve().parent / pattern
        own = sorted(whole.parent.glob(whole.name)) if any(sign in whole.name for sign in "*?[") else [whole]
        if not own or not own[0].exists():
            raise _wrong(path, name, f"no file {whole}", "files that exist, relative to the declaration")
        found |= {part: own[0]} if len(own) == 1 else {str(one): one for one in own}
    return found


def _run(
    name: str, declared: Declared, metric: str, files: Mapping[str, Path], model: TextModel, context: TaskContext
) -> TaskOutcome:
    """Measure a model on a declared task; clusters and the baseline are the same for all kinds."""
    clusters: dict[str, str] = {}
    rows = partial(_rows, declared, files, clusters)
    outcome = _KINDS[declared.kind](name, declared, metric, files, rows, model, context)
    if clusters:
        items = [item.model_copy(update={"cluster": clusters.get(item.id, "")}) for item in outcome.items]
        outcome = replace(outcome, items=items)
    if declared.baseline is not None:
        outcome = replace(outcome, baselines=outcome.baselines | {"declared": declared.baseline})
    return replace(outcome, settings=outcome.settings | {"kind": declared.kind})


_Rows = Callable[[], Iterator[tuple[str, str, Row]]]


def _rows(declared: Declared, files: Mapping[str, Path], clusters: dict[str, str]) -> Iterator[tuple[str, str, Row]]:
    """Yield every row with its name and where it stands, and note its cluster.

    Raises:
        EvaluationError: Two rows have one name, or there is none.
        DataError: A file cannot be read, or a row lacks a column.
    """
    wanted = [declared.column(role) for role in COLUMNS[declared.kind]]
    wanted += [name for name in (declared.id, declared.cluster) if name]
    seen: set[str] = set()
    for path in files.values():
        for number, (where, row) in enumerate(table_rows(path, columns=wanted)):
            name = str(row[declared.id]) if declared.id else f"{path.stem}-{number}"
            if name in seen:
                raise EvaluationError(
                    f"{where}: the name in the column {declared.id or 'id'!r} occurs twice",
                    seen=name,
                    fix="give each row a name of its own",
                )
            seen.add(name)
            if declared.cluster:
                clusters[name] = str(row[declared.cluster])
            yield name, where, row
    if not seen:
        raise EvaluationError(
            "a file of a task has no rows", seen=", ".join(map(str, files.values())), fix="correct `files`"
        )


def _number(row: Row, column: str, where: str) -> float:
    try:
        value = float(row[column])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise EvaluationError(
            f"{where}: the column {column!r} has no number",
            seen=repr(row[column]),
            fix="correct the row, or name another column",
        )
    return value


def _pairs(
    name: str,
    declared: Declared,
    _metric: str,
    files: Mapping[str, Path],
    _rows: _Rows,
    model: TextModel,
    context: TaskContext,
) -> TaskOutcome:
    good, bad = (declared.column(role) for role in COLUMNS["minimal_pairs"])
    suite = PairSuite(name, declared.title or name, "", good=good, bad=bad, paradigm=declared.cluster, id=declared.id)
    outcome = measure_pairs(suite.of_files(files.values()), left_to_right, model, context)
    if declared.cluster or len(files) > 1:
        return outcome
    # One file without a column of clusters is not one cluster of everything.
    return replace(outcome, items=[item.model_copy(update={"cluster": ""}) for item in outcome.items])


def _choices(
    _name: str, declared: Declared, metric: str, _files: Any, rows: _Rows, model: TextModel, context: TaskContext
) -> TaskOutcome:
    question, choices, answer = (declared.column(role) for role in COLUMNS["choices"])
    made = []
    for name, where, row in rows():
        given, right = row[choices], row[answer]
        if not isinstance(given, list) or len(given) < 2 or not all(isinstance(one, str) and one for one in given):
            raise EvaluationError(
                f"{where}: the column {choices!r} has no choices", seen=given, allowed="a list of texts"
            )
        place = given.index(right) if right in given else right
        if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(given):
            allowed = f"one of the choices, or its place, 0 to {len(given) - 1}"
            raise EvaluationError(f"{where}: the column {answer!r} has no answer", seen=repr(right), allowed=allowed)
        bare, text = [one.strip() for one in given], text_of(row, question, where)
        made.append(ScoredRow(name, tuple((text, " " + one) for one in bare), tuple(map(len, bare)), place))
    outcome = measure_rows(model, context, context.limited(made), made, metric)
    chance = math.fsum(1 / len(item.detail["scores"]) for item in outcome.items) / len(outcome.items)
    return replace(outcome, chance=chance)


def _continuation(
    _name: str, declared: Declared, metric: str, _files: Any, rows: _Rows, model: TextModel, context: TaskContext
) -> TaskOutcome:
    before, after = (declared.column(role) for role in COLUMNS["continuation"])
    made = []
    for name, where, row in rows():
        context_text, text = str(row[before]), text_of(row, after, where)
        spaced = text if text[0].isspace() or not context_text or context_text[-1].isspace() else " " + text
        made.append(ScoredRow(name, ((context_text, spaced),), (len(text),), 0))
    outcome = measure_rows(model, replace(context, shots=0), context.limited(made), made, "acc")
    if metric == "accuracy":
        return replace(outcome, chance=0.0)
    items = []
    for item in outcome.items:
        size = item.detail["gold_bytes"]
        bits = -item.detail["scores"][0] / math.log(2) / size
        detail = item.detail | {"greedy": item.value}
        items.append(item.model_copy(update={"value": bits, "weight": float(size), "detail": detail}))
    return replace(outcome, items=items, figures=outcome.figures | {"greedy": weighted_mean(outcome.items)})


def _labelled(
    name: str,
    declared: Declared,
    metric: str,
    files: Mapping[str, Path],
    _rows: _Rows,
    model: TextModel,
    context: TaskContext,
) -> TaskOutcome:
    columns = {role: column for role, column in declared.columns.items() if role != "pair"}
    parts = {part: str(path) for part, path in files.items()}
    given = {"name": name, "kind": declared.labels, "metric": metric, **columns, **parts}
    more = {"pair": declared.columns.get("pair"), "id": declared.id or None}
    return measure_set(labelled_set(spec_of(given | more, name)).limited(context.limit), model, context)


def _retrieval(
    name: str,
    declared: Declared,
    _metric: str,
    files: Mapping[str, Path],
    rows: _Rows,
    model: TextModel,
    context: TaskContext,
) -> TaskOutcome:
    folder = next(iter(files.values()))
    given = read_folder(folder) if folder.is_dir() else _search_set(name, declared, rows)
    return search_given(given.limited(context.limit), model, context)


def _search_set(name: str, declared: Declared, rows: _Rows) -> RetrievalSet:
    query, document = (declared.column(role) for role in COLUMNS["retrieval"])
    ids: dict[str, str] = {}
    queries, relevant = {}, {}
    for item, where, row in rows():
        found = ids.setdefault(text_of(row, document, where), f"d{len(ids)}")
        queries[item], relevant[item] = text_of(row, query, where), {found: 1}
    return checked_set(name, {place: text for text, place in ids.items()}, queries, relevant)


def _similarity(
    _name: str, declared: Declared, _metric: str, _files: Any, rows: _Rows, model: TextModel, context: TaskContext
) -> TaskOutcome:
    first, second, score = (declared.column(role) for role in COLUMNS["similarity"])
    names, pairs = [], []
    for name, where, row in rows():
        names.append(name)
        pairs.append(ScoredPair(text_of(row, first, where), text_of(row, second, where), _number(row, score, where)))
    if len(pairs) < 4:
        raise EvaluationError("a correlation needs more pairs", seen=len(pairs), allowed="4 or more")
    outcome = rank_pairs(context.limited(pairs), model, context)
    items = [item.model_copy(update={"id": own}) for item, own in zip(outcome.items, names, strict=False)]
    return replace(outcome, items=items)


_KINDS: dict[str, Callable[..., TaskOutcome]] = {
    "minimal_pairs": _pairs,
    "choices": _choices,
    "continuation": _continuation,
    "labelled": _labelled,
    "retrieval": _retrieval,
    "similarity": _similarity,
}
