"""The ten generative columns of the published table as tasks on local files.

Eight columns have files in the data folder; SciQ and SIQA are done where their rows are put there too, with the
hub's columns. HellaSwag and TriviaQA have a part of the published items there; a file of all, with the hub's columns,
is named by `hellaswag_file` and `triviaqa_file`.

`acc_norm` divides a candidate's score by its characters; candidates that tie share the point.
LAMBADA counts a row if every token of the last word is the model's likeliest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from seqpair.evaluate.questions import ANSWER_TOKENS, STOP, measure_rows, read_question_rows
from seqpair.evaluate.results import TaskResult
from seqpair.evaluate.task import BOTH, SuiteTask, TaskContext, TaskOutcome, TaskSkippedError
from seqpair.models.text_model import TextModel

_FROM_HUB = "put the rows of its evaluation split there, one JSON object per line, with the hub's columns"


@dataclass(frozen=True)
class GenerativeColumn:
    """A column: its file, how its rows read, and its metric."""

    name: str
    title: str
    file: str
    kind: str
    metric: str
    chance: float | None
    note: str = ""


COLUMNS = (
    GenerativeColumn("arc_challenge", "ARC, challenge", "arc_challenge", "question", "acc_norm", 0.25),
    GenerativeColumn(
        "hellaswag",
        "HellaSwag",
        "hellaswag_val_subset",
        "bare",
        "acc_norm",
        0.25,
        "1,000 of the 10,042 published items.",
    ),
    GenerativeColumn("lambada_openai", "LAMBADA, last word", "lambada_openai", "last_word", "acc", 0.0),
    GenerativeColumn("openbookqa", "OpenBookQA", "openbook_qa", "bare", "acc_norm", 0.25),
    GenerativeColumn("piqa", "PIQA", "piqa", "question", "acc_norm", 0.5),
    GenerativeColumn("sciq", "SciQ", "sciq", "sciq", "acc_norm", 0.25),
    GenerativeColumn("social_iqa", "Social IQA", "social_iqa", "social_iqa", "acc", 1 / 3),
    GenerativeColumn(
        "triviaqa", "TriviaQA", "triviaqa_sm_sub", "answer", "exact_match", 0.0, "3,000 of the 17,944 published items."
    ),
    GenerativeColumn("winogrande", "WinoGrande", "winogrande", "partial", "acc", 0.5),
    GenerativeColumn("wsc273", "Winograd schemas", "winograd_wsc", "partial", "acc", 0.5),
)


def _file(column: GenerativeColumn) -> str:
    return f"generative/{column.file}.jsonl"


def _named(column: GenerativeColumn) -> str:
    """Return the setting that names a file of all published items; empty for a column whose file has all."""
    return f"{column.name}_file" if column.note else ""


def _train_file(column: GenerativeColumn) -> str:
    return f"generative/{column.file}_train.jsonl"


def measure_column(column: GenerativeColumn, model: TextModel, context: TaskContext) -> TaskOutcome:
    """Measure a model on one column.

    Raises:
        TaskSkippedError: The file has no rows.
        EvaluationError: A file cannot be read, a candidate is longer than the model, or examples are too few.
    """
    given = context.settings.get(_named(column))
    found = read_question_rows(context.input(str(given or _file(column))), column.kind)
    if not found:
        raise TaskSkippedError("the file has no rows", seen=column.file, fix="download the file again")
    train = _train_file(column)
    own = context.shots > 0 and context.input(train).is_file()
    pool = read_question_rows(context.input(train), column.kind) if own else found
    outcome = measure_rows(model, context, context.limited(found), pool, column.metric)
    items, figures, settings = outcome.items, outcome.figures, outcome.settings | {"kind": column.kind}
    if context.shots:
        settings["shots_from"] = train if own else "the other rows of the same file"
    if column.metric == "acc_norm":
        figures["acc"] = math.fsum(item.detail["acc"] for item in items) / len(items)
    if column.kind == "last_word":
        mean = math.fsum(item.detail["scores"][0] for item in items) / len(items)
        figures["log_perplexity_of_the_word"] = -mean
    if column.kind == "answer":
        settings |= {"stop": list(STOP), "max_new_tokens": ANSWER_TOKENS}
    return replace(outcome, settings=settings, chance=column.chance, note="" if given else column.note)


TASKS = tuple(
    SuiteTask(
        name=column.name,
        version=1,
        title=column.title,
        suite="generative",
        metric=column.metric,
        unit="share of items",
        higher_is_better=True,
        directions=BOTH,
        inputs=() if column.note else (_file(column),),
        run=partial(measure_column, column),
        uses=("scoring", "shots", *([_named(column)] if column.note else [])),
        files=((_named(column), _file(column)),) if column.note else (),
        shot_inputs=(_train_file(column),),
        without_inputs=_FROM_HUB if column.name in ("sciq", "social_iqa") else "",
    )
    for column in COLUMNS
)


def average_of(results: Sequence[TaskResult]) -> dict[str, Any] | None:
    """Return the plain mean of the columns that were done, saying which and how many of the ten.

    Its standard error takes the columns as independent. `None` without a column.
    """
    done = [result for result in results if result.suite == "generative"]
    if not done:
        return None
    errors = [result.standard_error or 0.0 for result in done]
    limits = {result.settings.get("limit") for result in done} - {None}
    shots = {result.settings.get("shots") for result in done} - {None, 0}
    label = f"mean of {len(done)} of the {len(COLUMNS)} columns"
    label += f", {shots.pop()} shots" if shots else ""
    label += f", at most {limits.pop()} items each" if limits else ""
    return {
        "label": label,
        "value": math.fsum(result.value for result in done) / len(done),
        "standard_error": math.sqrt(math.fsum(error * error for error in errors)) / len(done),
        "chance": math.fsum(result.chance or 0.0 for result in done) / len(done),
        "columns": [result.task for result in done],
        "missing": [column.name for column in COLUMNS if column.name not in {result.task for result in done}],
    }
