"""Solved examples before a question: which ones, worded how, and how many of them fit.

Every row has shots of its own, drawn by the seed and the row's name alone: they do not depend on the limit, the model
or the order, and are the same for an encoder and a decoder. Shots are whole or left out, the first ones first, and what
was left out is counted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from seqpair.errors import EvaluationError
from seqpair.evaluate.generative.rows import AnswerRow, ScoredRow
from seqpair.models.score import ScoringOptions
from seqpair.models.text_model import TextModel

GAP = "\n\n"
Row = ScoredRow | AnswerRow


@dataclass(frozen=True)
class Prompted:
    """A row with its shots in front, and how many of them fitted."""

    row: Row
    shots: int


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
        pool: What is drawn from, without replacement.
        shots: How many.
        seed: One seed, one choice.

    Raises:
        EvaluationError: The pool is too small.
    """
    digest = hashlib.sha256(f"{seed} {row.id}".encode()).digest()
    order = np.random.default_rng(int.from_bytes(digest[:8], "little")).permutation(len(pool))
    own = _asked(row)
    found: list[Row] = []
    for index in order:
        if len(found) == shots:
            break
        if _asked(pool[index]) != own:
            found.append(pool[index])
    if len(found) < shots:
        raise EvaluationError(
            "there are not enough other rows to draw examples from", seen=f"{len(found)} rows", allowed=f"{shots}"
        )
    return found


def with_shots(
    model: TextModel, options: ScoringOptions, rows: Sequence[Row], drawn: Sequence[Sequence[Row]], new_tokens: int
) -> list[Prompted]:
    """Return rows with as many of their shots in front as the model has room for.

    A row that does not even fit alone is left to the scorer, which cuts its context on the left and counts that.

    Args:
        model: Whose length and tokenizer count.
        options: An encoder's masks and end token.
        rows: The rows.
        drawn: The shots of each, in the order they are shown.
        new_tokens: Tokens that a generated answer needs.
    """
    added = 1
    if model.direction == "bidirectional":
        added += options.masks + len(options.end_ids(model)) + options.score_end
    room = model.max_tokens - added
    kept = [len(shots) for shots in drawn]
    made = [_prompt(row, shots) for row, shots in zip(rows, drawn, strict=True)]
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
                shots = drawn[index][len(drawn[index]) - kept[index] :]
                made[index] = _prompt(rows[index], shots)
                if kept[index]:
                    over.append(index)
        unsure = over
    return [Prompted(row, count) for row, count in zip(made, kept, strict=True)]


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
