"""Answers that are a part of a text: finding the likeliest, and comparing two.

Source: the measures of SQuAD (Rajpurkar et al. 2016, arXiv 1606.05250), section 6.1.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from typing import Any

import numpy as np

LONGEST_ANSWER_TOKENS = 30
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def best_span(outputs: Any, places: tuple[int, tuple[tuple[int, int], ...]], text: str) -> str:
    """Return the part of a text whose first and last token have the highest sum of outputs.

    Args:
        outputs: Of a row (T, 2): how well each position begins and ends an answer.
        places: The position of the text's first token, and its tokens' character spans.
        text: The text.
    """
    start, spans = places
    if not spans:
        return ""
    values = np.asarray(outputs, dtype=np.float64)[start : start + len(spans)]
    sums = values[:, 0][:, None] + values[:, 1][None, :]  # (first, last)
    count = np.arange(len(spans))
    distance = count[None, :] - count[:, None]
    sums[(distance < 0) | (distance >= LONGEST_ANSWER_TOKENS)] = -np.inf
    first, last = divmod(int(sums.argmax()), len(spans))
    return text[spans[first][0] : spans[last][1]].strip()


def _plain(text: str) -> list[str]:
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return _ARTICLES.sub(" ", bare).split()


def answer_match(answer: str, text: str) -> float:
    """Return 1 if two answers are the same without case, punctuation and articles."""
    return float(_plain(answer) == _plain(text))


def answer_f1(answer: str, text: str) -> float:
    """Return the F1 of two answers' words, without case, punctuation and articles."""
    a, b = _plain(answer), _plain(text)
    if not a or not b:
        return float(a == b)
    shared = sum((Counter(a) & Counter(b)).values())
    return 2 * shared / (len(a) + len(b))
