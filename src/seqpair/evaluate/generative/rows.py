"""The rows of the generative columns: from a file's columns to prompts and candidates, as lm-eval words them.

Source: lm-evaluation-harness 0.4.13, the task named in each column; zero examples in the prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqpair.errors import EvaluationError


@dataclass(frozen=True)
class ScoredRow:
    """A row whose candidates are scored.

    Attributes:
        id: The row's name.
        pairs: Context and continuation of each candidate.
        lengths: Characters that each candidate's score may be divided by.
        gold: The right candidate; for one candidate alone, it is right if the model says it greedily.
        blank: The same question without content, which says what the model prefers whatever is asked, or `None`.
    """

    id: str
    pairs: tuple[tuple[str, str], ...]
    lengths: tuple[int, ...]
    gold: int
    blank: str | None = None

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


def _choices(name: str, query: str, choices: list[str], gold: int) -> ScoredRow:
    bare = [choice.strip() for choice in choices]
    return ScoredRow(name, tuple((query, " " + choice) for choice in bare), tuple(map(len, bare)), gold)


def _question(name: str, row: dict[str, Any]) -> ScoredRow:
    return _choices(name, row["query"].rstrip("\n") + "\nAnswer:", row["choices"], row["gold"])


def _bare(name: str, row: dict[str, Any]) -> ScoredRow:
    return _choices(name, row["query"], row["choices"], row["gold"])


def _partial(name: str, row: dict[str, Any]) -> ScoredRow:
    ending = " " + row["continuation"]
    pairs = tuple((context, ending) for context in row["context_options"])
    return ScoredRow(name, pairs, tuple(len(ending) for _ in pairs), row["gold"])


def _last_word(name: str, row: dict[str, Any]) -> ScoredRow:
    ending = " " + row["continuation"]
    return ScoredRow(name, ((row["context"], ending),), (len(ending),), 0)


def _answer(name: str, row: dict[str, Any]) -> AnswerRow:
    return AnswerRow(name, row["context"], tuple(dict.fromkeys([row["answer"], *row["aliases"]])))


def _sciq(name: str, row: dict[str, Any]) -> ScoredRow:
    query = f"{row['support'].lstrip()}\nQuestion: {row['question']}\nAnswer:"
    return _choices(name, query, [*(row[f"distractor{n}"] for n in (1, 2, 3)), row["correct_answer"]], 3)


def _social_iqa(name: str, row: dict[str, Any]) -> ScoredRow:
    query = f"Q: {row['context']} {row['question']}\nA:"
    return _choices(name, query, [row[f"answer{letter}"] for letter in "ABC"], int(row["label"]) - 1)


Reader = Callable[[str, dict[str, Any]], ScoredRow | AnswerRow]

READERS: dict[str, Reader] = {
    "question": _question,
    "bare": _bare,
    "partial": _partial,
    "last_word": _last_word,
    "answer": _answer,
    "sciq": _sciq,
    "social_iqa": _social_iqa,
}
"""How a file's columns are read, by the kind of its rows."""


def read_rows(path: Path, kind: str) -> list[ScoredRow | AnswerRow]:
    """Return the rows of a JSON Lines file; a row's name is its number.

    Raises:
        EvaluationError: A line is not JSON, lacks a column, or names a right candidate that is not there.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = READERS[kind](str(number), json.loads(line))
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            what = f"no column {error}" if isinstance(error, KeyError) else error
            raise EvaluationError(f"{path.name}, line {number} cannot be read", seen=what) from error
        if isinstance(row, ScoredRow) and not 0 <= row.gold < len(row.pairs):
            raise EvaluationError(
                f"{path.name}, line {number} names a right candidate that is not there",
                seen=row.gold,
                allowed=f"0 to {len(row.pairs) - 1}",
            )
        rows.append(row)
    return rows
