"""Questions to a model: rows of a file worded as lm-eval does, with solved examples in front, and their outcomes.

Source: lm-evaluation-harness 0.4.13, the task named in each column; zero examples in the prompt.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from seqpair.data.sources.tables import table_rows
from seqpair.errors import EvaluationError
from seqpair.evaluate.results import ItemOutcome
from seqpair.evaluate.task import Outcomes, TaskContext, TaskOutcome
from seqpair.models.generate import complete_texts
from seqpair.models.score import Score, ScoringOptions, score_continuations
from seqpair.models.text_model import TextModel

GAP = "\n\n"
CHUNK_ROWS = 64
STOP = ("\n", ".", ",")
ANSWER_TOKENS = 32


@dataclass(frozen=True)
class ScoredRow:
    """A row whose candidates are scored.

    Attributes:
        id: The row's name.
        pairs: Context and continuation of each candidate.
        lengths: Characters that each candidate's score may be divided by.
        gold: The right candidate; for one candidate alone, it is right if the model says it greedily.
        blank: The same question without content, which says what the model prefers whatever is asked, or `None`.
        cluster: What it shares with other rows, such as a schema of which it is one form; or empty.
    """

    id: str
    pairs: tuple[tuple[str, str], ...]
    lengths: tuple[int, ...]
    gold: int
    blank: str | None = None
    cluster: str = ""

    @property
    def requests(self) -> tuple[tuple[str, str], ...]:
        """What is scored: every candidate, and then every candidate after the question without content."""
        blanks = () if self.blank is None else tuple((self.blank, continuation) for _, continuation in self.pairs)
        return self.pairs + blanks


@dataclass(frozen=True)
class AnswerRow:
    """A row whose answer is generated: the prompt and all answers that are right."""

    id: str
    prompt: str
    answers: tuple[str, ...]


Row = ScoredRow | AnswerRow


def _choices(name: str, query: str, choices: list[str], gold: int) -> ScoredRow:
    bare = [choice.strip() for choice in choices]
    return ScoredRow(name, tuple((query, " " + choice) for choice in bare), tuple(map(len, bare)), gold)


def _question(name: str, row: dict[str, Any]) -> ScoredRow:
    return _choices(name, row["query"].rstrip("\n") + "\nAnswer:", row["choices"], row["gold"])


def _bare(name: str, row: dict[str, Any]) -> ScoredRow:
    if "endings" in row:  # HellaSwag as the hub has it
        context = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
        return _choices(name, _unbracketed(context), [*map(_unbracketed, row["endings"])], int(row["label"]))
    return _choices(name, row["query"], row["choices"], row["gold"])


def _unbracketed(text: str) -> str:
    """Return a text of HellaSwag without the marks of WikiHow, as lm-eval cleans it."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def _partial(name: str, row: dict[str, Any]) -> ScoredRow:
    ending = " " + row["continuation"]
    pairs = tuple((context, ending) for context in row["context_options"])
    # The two forms of one schema have the same pair of contexts, in either order: what comes before the names.
    schema = os.path.commonprefix(row["context_options"])
    return ScoredRow(name, pairs, tuple(len(ending) for _ in pairs), row["gold"], cluster=schema)


def _last_word(name: str, row: dict[str, Any]) -> ScoredRow:
    ending = " " + row["continuation"]
    return ScoredRow(name, ((row["context"], ending),), (len(ending),), 0)


def _answer(name: str, row: dict[str, Any]) -> AnswerRow:
    if "question" in row:  # TriviaQA as the hub has it; lm-eval adds a question mark to the question's own
        return AnswerRow(name, f"Question: {row['question']}?\nAnswer:", tuple(dict.fromkeys(row["answer"]["aliases"])))
    return AnswerRow(name, row["context"], tuple(dict.fromkeys([row["answer"], *row["aliases"]])))


def _sciq(name: str, row: dict[str, Any]) -> ScoredRow:
    query = f"{row['support'].lstrip()}\nQuestion: {row['question']}\nAnswer:"
    return _choices(name, query, [*(row[f"distractor{n}"] for n in (1, 2, 3)), row["correct_answer"]], 3)


def _social_iqa(name: str, row: dict[str, Any]) -> ScoredRow:
    query = f"Q: {row['context']} {row['question']}\nA:"
    return _choices(name, query, [row[f"answer{letter}"] for letter in "ABC"], int(row["label"]) - 1)


READERS: dict[str, Callable[[str, dict[str, Any]], Row]] = {
    "question": _question,
    "bare": _bare,
    "partial": _partial,
    "last_word": _last_word,
    "answer": _answer,
    "sciq": _sciq,
    "social_iqa": _social_iqa,
}
"""How a file's columns are read, by the kind of its rows."""


def read_question_rows(path: Path, kind: str) -> list[Row]:
    """Return the rows of a JSON Lines file; a row's name is its number.

    Raises:
        EvaluationError: A line lacks a column, or names a right candidate that does not exist.
        DataError: A line is not JSON or not UTF-8.
    """
    rows = []
    for where, content in table_rows(path):
        number = int(where.rpartition(" ")[2])
        try:
            row = READERS[kind](str(number), content)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            what = f"no column {error}" if isinstance(error, KeyError) else error
            raise EvaluationError(
                f"{path.name}, line {number} cannot be read", seen=what, fix="correct the line"
            ) from error
        if isinstance(row, ScoredRow) and not 0 <= row.gold < len(row.pairs):
            raise EvaluationError(
                f"{path.name}, line {number} names a right candidate that does not exist",
                seen=row.gold,
                allowed=f"0 to {len(row.pairs) - 1}",
            )
        rows.append(row)
    return rows


def solved_text(row: Row) -> str:
    """Return a row with its right answer, as a reader would see it."""
    if isinstance(row, AnswerRow):
        return f"{row.prompt} {row.answers[0]}"
    context, continuation = row.pairs[row.gold]
    return context + continuation


def _asked(row: Row) -> tuple[str, ...]:
    return (row.prompt,) if isinstance(row, AnswerRow) else tuple(context for context, _ in row.pairs)


def draw_shots(row: Row, pool: Sequence[Row], shots: int, seed: int) -> list[Row]:
    """Return this many rows of the pool for one row; never the row itself or one that asks the same.

    Args:
        row: The row that the shots are for.
        pool: What is sampled from, without replacement.
        shots: How many.
        seed: The seed of the choice.

    Raises:
        EvaluationError: The pool is too small.
    """
    # Seed and row alone decide: the shots of a row are the same for all models, under any limit and in any order.
    digest = hashlib.sha256(f"{seed} {row.id}".encode()).digest()
    order = np.random.default_rng(int.from_bytes(digest[:8], "little")).permutation(len(pool))
    own = _asked(row)  # the question, not the id: a pool may contain the row under another id
    found: list[Row] = []
    for index in order:
        if len(found) == shots:
            break
        if _asked(pool[index]) != own:
            found.append(pool[index])
    if len(found) < shots:
        raise EvaluationError(
            "there are too few other rows to take examples from", seen=f"{len(found)} rows", allowed=f"{shots}"
        )
    return found


def with_shots(
    model: TextModel, options: ScoringOptions, rows: Sequence[Row], drawn: Sequence[Sequence[Row]], new_tokens: int
) -> list[tuple[Row, int]]:
    """Return rows with as many of their shots in front as the model has room for, and how many these are.

    Shots are whole or left out, the first ones first. A row that does not even fit alone is left to the scorer, which
    cuts its context on the left and counts that.

    Args:
        model: The model whose length and tokenizer count.
        options: An encoder's masks and end token.
        rows: The rows.
        drawn: The shots of each, in the order they are shown.
        new_tokens: Tokens that a generated answer needs.
    """
    added = 1  # the beginning token
    if model.direction == "bidirectional":
        added += options.masks + len(options.end_ids(model)) + options.score_end
    room = model.max_tokens - added
    kept = [len(shots) for shots in drawn]
    made = [_prompt(row, shots) for row, shots in zip(rows, drawn, strict=True)]
    # Tokenising is the cost, and most rows fit at once: all rows in doubt are tokenised together, those too long lose
    # one shot each and are tried again. Lengths do not add up over texts, so no shot's tokens can be subtracted.
    unsure = [index for index, count in enumerate(kept) if count]
    while unsure:
        texts = [text for index in unsure for text in _longest(made[index])]
        sizes = iter([len(ids) for ids in model.encode(texts)])
        over = []
        for index in unsure:
            need = max(next(sizes) for _ in _longest(made[index]))
            need += new_tokens if isinstance(made[index], AnswerRow) else 0
            if need > room:
                kept[index] -= 1
                shots = drawn[index][len(drawn[index]) - kept[index] :]  # not [-kept:], which would keep all at 0
                made[index] = _prompt(rows[index], shots)
                if kept[index]:
                    over.append(index)
        unsure = over
    return list(zip(made, kept, strict=True))


def _longest(row: Row) -> tuple[str, ...]:
    """Return the texts of which one is the longest that the model must read."""
    if isinstance(row, AnswerRow):
        return (row.prompt,)
    return tuple(context + continuation for context, continuation in row.pairs)


def _prompt(row: Row, shots: Sequence[Row]) -> Row:
    before = "".join(solved_text(shot) + GAP for shot in shots)
    if isinstance(row, AnswerRow):
        return replace(row, prompt=before + row.prompt)
    pairs = tuple((before + context, continuation) for context, continuation in row.pairs)
    return replace(row, pairs=pairs, blank=None if row.blank is None else before + row.blank)


def measure_rows(
    model: TextModel, context: TaskContext, rows: Sequence[Row], pool: Sequence[Row], metric: str
) -> TaskOutcome:
    """Measure a model on rows, scored or generated, with or without shots, by one seed or several.

    With several seeds an item's value is its mean over the seeds, so the standard error over items stays one over
    items; how much the seeds differ is a figure of its own.

    Args:
        model: The model.
        context: How many shots, which seeds, how an encoder scores.
        rows: The rows that count.
        pool: The rows that shots are sampled from; unused without shots.
        metric: `acc`, `acc_norm` or `exact_match`.

    Returns:
        One item per row, with the figures and settings of shots and seeds.

    Raises:
        EvaluationError: A candidate is longer than the model, or the pool is too small.
    """
    shots = context.shots
    seeds = context.seeds if shots else context.seeds[:1]

    def compute(chunk: Sequence[tuple[int, Row]]) -> Outcomes:
        drawn = [draw_shots(row, pool, shots, seed) if shots else [] for seed, row in chunk]
        prompted = with_shots(model, context.scoring, [row for _, row in chunk], drawn, ANSWER_TOKENS)
        own = [row for row, _ in prompted]
        # One call for all scored rows and one for all generated ones, so that batches are full; then both are dealt
        # out again in the order of the rows.
        requests = [pair for row in own if isinstance(row, ScoredRow) for pair in row.requests]
        scored = score_continuations(model, requests, context.scoring)
        asked = [row.prompt for row in own if isinstance(row, AnswerRow)]
        written = complete_texts(model, asked, STOP, ANSWER_TOKENS, context.scoring)
        scores, texts, found = iter(scored), iter(written.texts), []
        for row, shown in prompted:
            if isinstance(row, ScoredRow):
                item = outcome_of(row, [next(scores) for _ in row.requests], metric)
            else:
                item = _answered(row, next(texts))
            found.append(item.model_copy(update={"detail": item.detail | {"shots": shown}}) if shots else item)
        return Outcomes(found, written.truncated + sum(score.truncated for score in scored))

    # Seed after seed, so that one list of chunks can be resumed and split by seed again below.
    tries = [(seed, row) for seed in seeds for row in rows]
    outcomes, truncated = context.by_chunks(tries, compute, CHUNK_ROWS)
    by_seed = [outcomes[start : start + len(rows)] for start in range(0, len(outcomes), len(rows))]
    items = [_over_seeds(own) for own in zip(*by_seed, strict=True)]
    figures = _shot_figures(by_seed, seeds, shots)
    return TaskOutcome(items, {"shots": shots}, figures=figures, truncated=truncated)


def _shot_figures(by_seed: Sequence[Sequence[ItemOutcome]], seeds: Sequence[int], shots: int) -> dict[str, float]:
    """Return how many shots were shown, and how much the choice of shots moves the value."""
    figures: dict[str, float] = {}
    if shots:
        counts = [item.detail["shots"] for own in by_seed for item in own]
        figures["shots_shown"] = math.fsum(counts) / len(counts)
        figures["rows_with_fewer_shots"] = float(sum(count < shots for count in counts)) / len(seeds)
    if len(by_seed) > 1:
        means = [math.fsum(item.value for item in own) / len(own) for own in by_seed]
        figures |= {f"seed_{seed}": mean for seed, mean in zip(seeds, means, strict=True)}
        middle = math.fsum(means) / len(means)
        spread = math.fsum((mean - middle) ** 2 for mean in means) / (len(means) - 1)
        figures["standard_deviation_over_seeds"] = math.sqrt(spread)
    return figures


def _over_seeds(own: Sequence[ItemOutcome]) -> ItemOutcome:
    """Return one item of a row's outcomes at each seed: means, and the detail of the first seed."""
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
    return own[0].model_copy(update={"value": value, "detail": detail})


def outcome_of(row: ScoredRow, scores: Sequence[Score], metric: str) -> ItemOutcome:
    """Return a scored row's outcome by its column's metric; `acc` is kept beside `acc_norm`.

    Args:
        row: The row.
        scores: One for each of its requests.
        metric: `acc` or `acc_norm`.
    """
    values = [score.log_prob for score in scores[: len(row.pairs)]]
    detail: dict[str, Any] = {"scores": [round(value, 4) for value in values], "gold": row.gold}
    detail["gold_bytes"] = len(row.pairs[row.gold][1].encode())
    if len(values) == 1:  # LAMBADA: nothing to choose from, so the one candidate must be what the model says greedily
        return ItemOutcome(id=row.id, value=float(scores[0].is_greedy), detail=detail, cluster=row.cluster)
    normed = [value / max(1, length) for value, length in zip(values, row.lengths, strict=True)]
    detail["acc"] = _point(values, row.gold)
    if row.blank is not None:  # what the model prefers whatever is asked, subtracted as log-probabilities
        without = [score.log_prob for score in scores[len(row.pairs) :]]
        detail["acc_calibrated"] = _point([a - b for a, b in zip(values, without, strict=True)], row.gold)
    value = _point(normed, row.gold) if metric == "acc_norm" else detail["acc"]
    return ItemOutcome(id=row.id, value=value, detail=detail, cluster=row.cluster)


def _point(values: Sequence[float], gold: int) -> float:
    """Return 1 if the right candidate is the best, a share of it among those that tie, else 0."""
    best = max(values)
    return float(values[gold] == best) / sum(value == best for value in values)


def plain_words(text: str) -> str:
    """Return a text in lower case, without punctuation and outer spaces, as exact matches are compared."""
    return text.lower().translate(str.maketrans("", "", string.punctuation)).strip()


def _answered(row: AnswerRow, text: str) -> ItemOutcome:
    right = plain_words(text) in {plain_words(answer) for answer in row.answers}
    return ItemOutcome(id=row.id, value=float(right), detail={"answer": text.strip()})
