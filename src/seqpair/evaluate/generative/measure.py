"""Measuring rows: scored or generated, with or without examples in front, by one seed or several.

With several seeds an item's value is its mean over the seeds, so that the standard error over items stays one over
items; what the seeds differ by is a figure of its own.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seqpair.evaluate.generative.rows import AnswerRow, ScoredRow
from seqpair.evaluate.generative.shots import Row, draw_shots, with_shots
from seqpair.evaluate.results import ItemOutcome
from seqpair.evaluate.suites.task import Outcomes, TaskContext
from seqpair.models.generate import complete_texts
from seqpair.models.score import Score, score_continuations
from seqpair.models.text_model import TextModel

CHUNK_ROWS = 64
STOP = ("\n", ".", ",")
ANSWER_TOKENS = 32


@dataclass(frozen=True)
class Measured:
    """What rows gave: one item a row, and figures and settings of shots and seeds; how many were cut."""

    items: list[ItemOutcome]
    figures: dict[str, float]
    settings: dict[str, Any]
    truncated: int


def measure_rows(
    model: TextModel, context: TaskContext, rows: Sequence[Row], pool: Sequence[Row], metric: str
) -> Measured:
    """Measure a model on rows.

    Args:
        model: The model.
        context: How many shots, which seeds, how an encoder scores.
        rows: The rows that count.
        pool: The rows that shots are drawn from; unused without shots.
        metric: `acc`, `acc_norm` or `exact_match`.

    Raises:
        EvaluationError: A candidate is longer than the model, or the pool is too small.
    """
    shots = context.shots
    seeds = context.seeds if shots else context.seeds[:1]

    def compute(chunk: Sequence[tuple[int, Row]]) -> Outcomes:
        drawn = [draw_shots(row, pool, shots, seed) if shots else [] for seed, row in chunk]
        prompted = with_shots(model, context.scoring, [row for _, row in chunk], drawn, ANSWER_TOKENS)
        own = [entry.row for entry in prompted]
        requests = [pair for row in own if isinstance(row, ScoredRow) for pair in row.requests]
        scored = score_continuations(model, requests, context.scoring)
        asked = [row.prompt for row in own if isinstance(row, AnswerRow)]
        written = complete_texts(model, asked, STOP, ANSWER_TOKENS, context.scoring)
        scores, texts, found = iter(scored), iter(written.texts), []
        for entry in prompted:
            if isinstance(entry.row, ScoredRow):
                item = outcome_of(entry.row, [next(scores) for _ in entry.row.requests], metric)
            else:
                item = _answered(entry.row, next(texts))
            found.append(item.model_copy(update={"detail": item.detail | {"shots": entry.shots}}) if shots else item)
        return Outcomes(found, written.truncated + sum(score.truncated for score in scored))

    tries = [(seed, row) for seed in seeds for row in rows]
    outcomes, truncated = context.by_chunks(tries, compute, CHUNK_ROWS)
    by_seed = [outcomes[start : start + len(rows)] for start in range(0, len(outcomes), len(rows))]
    settings: dict[str, Any] = {"shots": shots}
    figures: dict[str, float] = {}
    if shots:
        counts = [item.detail["shots"] for item in outcomes]
        figures["shots_shown"] = math.fsum(counts) / len(counts)
        figures["rows_with_fewer_shots"] = float(sum(count < shots for count in counts)) / len(seeds)
    if len(by_seed) > 1:
        means = [math.fsum(item.value for item in own) / len(own) for own in by_seed]
        figures |= {f"seed_{seed}": mean for seed, mean in zip(seeds, means, strict=True)}
        middle = math.fsum(means) / len(means)
        spread = math.fsum((mean - middle) ** 2 for mean in means) / (len(means) - 1)
        figures["standard_deviation_over_seeds"] = math.sqrt(spread)
    return Measured([_over_seeds(own) for own in zip(*by_seed, strict=True)], figures, settings, truncated)


def _over_seeds(own: Sequence[ItemOutcome]) -> ItemOutcome:
    """Return one item of a row's outcomes, one a seed: means, and the detail of the first seed."""
    if len(own) == 1:
        return own[0]
    detail = own[0].detail | {"values": [item.value for item in own]}
    for name in ("acc", "acc_calibrated"):
        if name in detail:
            detail[name] = math.fsum(item.detail[name] for item in own) / len(own)
    if "scores" in detail:
        columns = zip(*(item.detail["scores"] for item in own), strict=True)
        detail["scores"] = [math.fsum(column) / len(own) for column in columns]
    value = math.fsum(item.value for item in own) / len(own)
    return ItemOutcome(id=own[0].id, value=value, detail=detail)


def outcome_of(row: ScoredRow, scores: Sequence[Score], metric: str) -> ItemOutcome:
    """Return a scored row's outcome by its column's metric; `acc` is kept beside `acc_norm`.

    Args:
        row: The row.
        scores: One for each of its requests.
        metric: `acc` or `acc_norm`.
    """
    values = [score.log_prob for score in scores[: len(row.pairs)]]
    detail: dict[str, Any] = {"scores": [round(value, 4) for value in values], "gold": row.gold}
    if len(values) == 1:
        return ItemOutcome(id=row.id, value=float(scores[0].is_greedy), detail=detail)
    normed = [value / max(1, length) for value, length in zip(values, row.lengths, strict=True)]
    detail["acc"] = _point(values, row.gold)
    if row.blank is not None:
        without = [score.log_prob for score in scores[len(row.pairs) :]]
        detail["acc_calibrated"] = _point([a - b for a, b in zip(values, without, strict=True)], row.gold)
    value = _point(normed, row.gold) if metric == "acc_norm" else detail["acc"]
    return ItemOutcome(id=row.id, value=value, detail=detail)


def _point(values: Sequence[float], gold: int) -> float:
    best = max(values)
    return float(values[gold] == best) / sum(value == best for value in values)


def plain_words(text: str) -> str:
    """Return a text in lower case, without punctuation and outer spaces, as exact matches are compared."""
    return text.lower().translate(str.maketrans("", "", string.punctuation)).strip()


def _answered(row: AnswerRow, text: str) -> ItemOutcome:
    right = plain_words(text) in {plain_words(answer) for answer in row.answers}
    return ItemOutcome(id=row.id, value=float(right), detail={"answer": text.strip()})
