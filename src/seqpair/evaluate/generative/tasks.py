"""The ten generative columns of the published table as tasks on local files.

Owns which column has which metric, and the average. Entry points: `TASKS`, `average_of`.

Eight columns have files in the data folder; SciQ and SIQA are done where their rows are put there too, with the
hub's columns. `acc_norm` divides a candidate's score by its characters; candidates that tie share the point.
LAMBADA counts a row if every token of the last word is the model's likeliest.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from seqpair.evaluate.generative.rows import AnswerRow, ScoredRow, read_rows
from seqpair.evaluate.greedy import generate_texts
from seqpair.evaluate.loaded import LoadedModel
from seqpair.evaluate.results import ItemOutcome, TaskResult
from seqpair.evaluate.scorers import Score, scorer_of
from seqpair.evaluate.suites.task import SuiteTask, TaskContext
from seqpair.evaluate.tasks.task import BOTH, TaskOutcome, TaskSkippedError

CHUNK_ROWS = 64
STOP = ("\n", ".", ",")
ANSWER_TOKENS = 32
_FROM_HUB = "put the rows of its evaluation split there, one JSON object a line, with the hub's columns"


@dataclass(frozen=True)
class Column:
    """A column: its file, how its rows read, and its metric."""

    name: str
    title: str
    file: str
    kind: str
    metric: str
    chance: float | None
    note: str = ""


COLUMNS = (
    Column("arc_challenge", "ARC, challenge", "arc_challenge", "question", "acc_norm", 0.25),
    Column(
        "hellaswag",
        "HellaSwag",
        "hellaswag_val_subset",
        "bare",
        "acc_norm",
        0.25,
        "1,000 of the 10,042 published items.",
    ),
    Column("lambada_openai", "LAMBADA, last word", "lambada_openai", "last_word", "acc", 0.0),
    Column("openbookqa", "OpenBookQA", "openbook_qa", "bare", "acc_norm", 0.25),
    Column("piqa", "PIQA", "piqa", "question", "acc_norm", 0.5),
    Column("sciq", "SciQ", "sciq", "sciq", "acc_norm", 0.25),
    Column("social_iqa", "Social IQA", "social_iqa", "social_iqa", "acc", 1 / 3),
    Column(
        "triviaqa", "TriviaQA", "triviaqa_sm_sub", "answer", "exact_match", 0.0, "3,000 of the 17,944 published items."
    ),
    Column("winogrande", "WinoGrande", "winogrande", "partial", "acc", 0.5),
    Column("wsc273", "Winograd schemas", "winograd_wsc", "partial", "acc", 0.5),
)


def outcome_of(row: ScoredRow, scores: Sequence[Score], metric: str) -> ItemOutcome:
    """Return a scored row's outcome by its column's metric; `acc` is kept beside `acc_norm`."""
    values = [score.log_prob for score in scores]
    detail: dict[str, Any] = {"scores": [round(value, 4) for value in values], "gold": row.gold}
    if len(values) == 1:
        return ItemOutcome(id=row.id, value=float(scores[0].is_greedy), detail=detail)
    normed = [value / max(1, length) for value, length in zip(values, row.lengths, strict=True)]
    detail["acc"] = _point(values, row.gold)
    value = _point(normed, row.gold) if metric == "acc_norm" else detail["acc"]
    return ItemOutcome(id=row.id, value=value, detail=detail)


def _point(values: Sequence[float], gold: int) -> float:
    best = max(values)
    return float(values[gold] == best) / sum(value == best for value in values)


def plain_words(text: str) -> str:
    """Return a text in lower case, without punctuation and outer spaces, as exact matches are compared."""
    return text.lower().translate(str.maketrans("", "", string.punctuation)).strip()


def run(column: Column, model: LoadedModel, context: TaskContext) -> TaskOutcome:
    """Measure a model on one column.

    Raises:
        TaskSkippedError: The file has no rows.
        EvaluationError: The file cannot be read, or a candidate is longer than the model.
    """
    rows = context.limited(read_rows(context.input(f"generative/{column.file}.jsonl"), column.kind))
    if not rows:
        raise TaskSkippedError("the file has no rows", seen=column.file)
    scorer = scorer_of(model, context.scoring)

    def compute(chunk: Sequence[ScoredRow | AnswerRow]) -> list[ItemOutcome]:
        scored = [row for row in chunk if isinstance(row, ScoredRow)]
        if scored:
            scores = iter(scorer.score([pair for row in scored for pair in row.pairs]))
            return [outcome_of(row, [next(scores) for _ in row.pairs], column.metric) for row in scored]
        answered = [row for row in chunk if isinstance(row, AnswerRow)]
        texts = generate_texts(model, [row.prompt for row in answered], STOP, ANSWER_TOKENS, context.scoring)
        return [_answered(row, text) for row, text in zip(answered, texts, strict=True)]

    items = context.by_chunks(rows, compute, CHUNK_ROWS)
    figures, settings = {}, {"shots": 0, "kind": column.kind}
    if column.metric == "acc_norm":
        figures["acc"] = math.fsum(item.detail["acc"] for item in items) / len(items)
    if column.kind == "last_word":
        mean = math.fsum(item.detail["scores"][0] for item in items) / len(items)
        figures["log_perplexity_of_the_word"] = -mean
    if column.kind == "answer":
        settings |= {"stop": list(STOP), "max_new_tokens": ANSWER_TOKENS}
    return TaskOutcome(items, settings, chance=column.chance, figures=figures, note=column.note)


def _answered(row: AnswerRow, text: str) -> ItemOutcome:
    right = plain_words(text) in {plain_words(answer) for answer in row.answers}
    return ItemOutcome(id=row.id, value=float(right), detail={"answer": text.strip()})


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
        inputs=(f"generative/{column.file}.jsonl",),
        run=partial(run, column),
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
    return {
        "label": f"mean of {len(done)} of the {len(COLUMNS)} columns",
        "value": math.fsum(result.value for result in done) / len(done),
        "standard_error": math.sqrt(math.fsum(error * error for error in errors)) / len(done),
        "chance": math.fsum(result.chance or 0.0 for result in done) / len(done),
        "columns": [result.task for result in done],
        "missing": [column.name for column in COLUMNS if column.name not in {result.task for result in done}],
    }
