"""What a set's predictions are worth: every metric of its kind, each row's own value, and what guessing gives.

This file imports neither torch nor a model, because comparisons compute metrics again from written items. A metric that
is undefined without variation, such as a correlation with a constant guess, counts as 0, and the result says so.
Source of the measures of answers: SQuAD (Rajpurkar et al. 2016, arXiv 1606.05250), section 6.1.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpair.errors import EvaluationError, needs_extra
from seqpair.evaluate.finetune.sets import OUTSIDE, LabelledSet

LONGEST_ANSWER_TOKENS = 30
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def all_metrics(labelled: LabelledSet, gold: Sequence[Any], predicted: Sequence[Any]) -> dict[str, float]:
    """Return every metric of a set's kind.

    Args:
        labelled: The set; its labels' names say which tags are entities, and the last of two classes is the
            positive one of `f1` (for three and more classes `f1` is the mean weighted by the classes' rows).
        gold: The rows' labels.
        predicted: Indices, numbers, tuples of tag indices, or texts.
    """
    if labelled.kind == "classes":
        return _classes(len(labelled.labels), np.asarray(gold), np.asarray(predicted))
    if labelled.kind == "number":
        return _numbers(np.asarray(gold, dtype=float), np.asarray(predicted, dtype=float))
    if labelled.kind == "tags":
        return _tags(labelled.labels, gold, predicted)
    if labelled.kind == "text":
        return _texts(gold, predicted)
    pairs = list(zip(gold, predicted, strict=True))
    return {
        "f1": _mean([_best(answer_f1, answers, text) for answers, text in pairs]),
        "exact_match": _mean([_best(answer_match, answers, text) for answers, text in pairs]),
    }


def row_values(labelled: LabelledSet, gold: Sequence[Any], predicted: Sequence[Any]) -> list[float]:
    """Return each row's own value: right or wrong, minus the squared error, share of right tags, or an answer's F1.

    For accuracy and answers their mean is the metric; for the others the metric is of all rows together.
    """
    pairs = list(zip(gold, predicted, strict=True))
    if labelled.kind == "classes":
        return [float(label == guess) for label, guess in pairs]
    if labelled.kind == "number":
        return [-float((label - guess) ** 2) for label, guess in pairs]
    if labelled.kind == "tags":
        return [_mean([float(a == b) for a, b in zip(tags, guess, strict=True)]) for tags, guess in pairs]
    if labelled.kind == "text":
        return [same_text(text, guess) for text, guess in pairs]
    rule = answer_match if labelled.metric == "exact_match" else answer_f1
    return [_best(rule, answers, text) for answers, text in pairs]


def is_mean_of_rows(labelled: LabelledSet) -> bool:
    """Say whether the set's metric is the mean of its rows' values."""
    return labelled.metric in ("accuracy", "exact_match") or labelled.kind == "span"


def constant_guess(labelled: LabelledSet, gold: Sequence[Any]) -> float:
    """Return the best value of the set's metric that one constant answer gives."""
    if labelled.kind != "classes":
        return 0.0
    guesses = range(len(labelled.labels))
    return max(all_metrics(labelled, gold, [guess] * len(gold))[labelled.metric] for guess in guesses)


def undefined_note(labelled: LabelledSet, gold: Sequence[Any], guesses: Sequence[Sequence[Any]]) -> str:
    """Return what a reader must know if the set's metric is undefined for some seeds' guesses, or nothing."""
    if labelled.metric not in ("spearman", "pearson", "matthews", "f1"):
        return ""
    if labelled.kind == "classes":
        classes = len(labelled.labels)
        lost = [math.isnan(class_metrics(_counts(classes, gold, own))[labelled.metric]) for own in guesses]
    elif labelled.kind == "number":
        lost = [_is_flat(np.asarray(gold, dtype=float), np.asarray(own, dtype=float)) for own in guesses]
    else:
        return ""
    if not any(lost):
        return ""
    which = f"{sum(lost)} of {len(lost)} seeds" if len(lost) > 1 else "these guesses"
    return f"{labelled.metric} is undefined for {which}, which do not vary; it counts as 0 there."


def _classes(classes: int, gold: Any, predicted: Any) -> dict[str, float]:
    found = class_metrics(_counts(classes, gold, predicted))
    return {name: 0.0 if math.isnan(value) else value for name, value in found.items()}


def _counts(classes: int, gold: Any, predicted: Any) -> npt.NDArray[np.float64]:
    counts = np.zeros((classes, classes))
    # `counts[gold, predicted] += 1` would count a pair that occurs twice only once.
    np.add.at(counts, (np.asarray(gold), np.asarray(predicted)), 1.0)
    return counts


def class_metrics(counts: npt.NDArray[np.float64]) -> dict[str, float]:
    """Return the metrics of classes from their confusion counts, gold by predicted; NaN where one is undefined."""
    classes = len(counts)
    right, total = np.diag(counts), counts.sum()
    rows, columns = counts.sum(1), counts.sum(0)
    f1 = 2 * right / np.maximum(rows + columns, 1e-12)
    # A class that is neither in the rows nor guessed has no F1 and must not lower the mean, as in scikit-learn.
    present = (rows + columns) > 0
    weighted = float((f1 * rows).sum() / total)
    # The correlation of K classes, which is Matthews' for two; 0 / 0 where all rows or all guesses are one class.
    spread = np.sqrt((total**2 - (columns**2).sum()) * (total**2 - (rows**2).sum()))
    matthews = math.nan if spread == 0 else float((right.sum() * total - (rows * columns).sum()) / spread)
    positive = float(f1[-1]) if present[-1] else math.nan
    return {
        "accuracy": float(right.sum() / total),
        "f1": positive if classes == 2 else weighted,
        "f1_macro": float(f1[present].mean()),
        "matthews": matthews,
    }


def _numbers(gold: Any, predicted: Any) -> dict[str, float]:
    with needs_extra("a correlation", "eval", EvaluationError):
        from scipy import stats
    flat = _is_flat(gold, predicted)
    pearson = 0.0 if flat else float(stats.pearsonr(gold, predicted).statistic)
    spearman = 0.0 if flat else float(stats.spearmanr(gold, predicted).statistic)
    distance = float(np.sqrt(np.mean((gold - predicted) ** 2)))
    return {"spearman": spearman, "pearson": pearson, "root_mean_square_error": distance}


def _is_flat(gold: Any, predicted: Any) -> bool:
    """Return whether a correlation is undefined."""
    return len(gold) < 2 or np.ptp(gold) == 0 or np.ptp(predicted) == 0 or not bool(np.isfinite(predicted).all())


def same_text(text: str, guess: str) -> float:
    """Return 1 if two texts are the same but for the white space around them."""
    return float(text.strip() == guess.strip())


def _texts(gold: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    """Return BLEU and chrF, 0 to 100, and the share of exact matches."""
    with needs_extra("BLEU", "eval", EvaluationError):
        import sacrebleu
    guesses, texts = [guess.strip() for guess in predicted], [[text.strip() for text in gold]]
    return {
        "bleu": float(sacrebleu.corpus_bleu(guesses, texts, force=True).score),
        "chrf": float(sacrebleu.corpus_chrf(guesses, texts).score),
        "exact_match": _mean([same_text(a, b) for a, b in zip(gold, predicted, strict=True)]),
    }


def entities(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """Return the entities of a row: first word, word after the last, and type.

    `B-x` begins one, `I-x` goes on; an `I-x` after another type or nothing begins one too, as the CoNLL 2003 script
    has it. Tags without a prefix are types whose neighbouring words belong together.
    """
    found, start, kind = set(), 0, ""
    # The tag outside at the end closes an entity that lasts to the last word.
    for index, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, rest = tag.partition("-")
        # A label such as `B-x` names a type; one such as `NOUN`, or `B` alone, is a type itself.
        name = "" if tag == OUTSIDE else (rest if rest and prefix in ("B", "I") else tag)
        begins = name != kind or (prefix == "B" and bool(rest))
        if kind and begins:
            found.add((start, index, kind))
        if begins:
            start, kind = index, name
    return found


def _tags(labels: Sequence[str], gold: Sequence[Sequence[int]], predicted: Sequence[Sequence[int]]) -> dict[str, float]:
    # Counted over all rows before dividing, as the CoNLL script does: a mean of the rows' F1 would be another number.
    both = in_gold = in_predicted = right = words = 0
    for tags, guess in zip(gold, predicted, strict=True):
        a, b = entities([labels[tag] for tag in tags]), entities([labels[tag] for tag in guess])
        both, in_gold, in_predicted = both + len(a & b), in_gold + len(a), in_predicted + len(b)
        right += sum(one == other for one, other in zip(tags, guess, strict=True))
        words += len(tags)
    return {
        "f1_entities": 2 * both / max(1, in_gold + in_predicted),
        "precision_entities": both / max(1, in_predicted),
        "recall_entities": both / max(1, in_gold),
        "accuracy_words": right / max(1, words),
    }


def _best(rule: Any, answers: Sequence[str], text: str) -> float:
    return max((rule(answer, text) for answer in answers), default=rule("", text))


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
    # All pairs of a first and a last token at once; pairs in the wrong order or too far apart can never win.
    sums = values[:, 0][:, None] + values[:, 1][None, :]  # (first, last)
    count = np.arange(len(spans))
    distance = count[None, :] - count[:, None]
    sums[(distance < 0) | (distance >= LONGEST_ANSWER_TOKENS)] = -np.inf
    first, last = divmod(int(sums.argmax()), len(spans))
    return text[spans[first][0] : spans[last][1]].strip()


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


def _plain(text: str) -> list[str]:
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return _ARTICLES.sub(" ", bare).split()


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
