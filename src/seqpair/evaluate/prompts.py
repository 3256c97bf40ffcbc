"""The tasks of the suite `prompts`: labelled sets asked as questions, and two sets of questions beside the columns.

The rows that count are the test rows of the suite `classification`, examples come from its training rows; so prompting
and fine-tuning are measured on the same rows and against the same chance level, the best constant answer. A label's
score is the log-probability of its word after the question. Small models prefer one word whatever is asked;
`acc_calibrated` takes away what they say to the same question without content ("N/A" for each text), the same examples
before it.

Source: wording of SNLI and QNLI as lm-evaluation-harness words MNLI and QNLI; calibration as Zhao et al. 2021, arXiv
2102.09690. Differs: there the label's probabilities are divided, here the log-probabilities are subtracted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from seqpair.evaluate.classification.sets import SETS, NamedSet
from seqpair.evaluate.finetune.sets import Example, shuffled
from seqpair.evaluate.questions import Row, ScoredRow, measure_rows, read_question_rows
from seqpair.evaluate.results import ItemOutcome
from seqpair.evaluate.task import BOTH, SuiteTask, TaskContext, TaskOutcome, TaskSkippedError
from seqpair.models.text_model import TextModel

BLANK = "N/A"


@dataclass(frozen=True)
class Wording:
    """How a row is asked, with `{text}` and `{pair}` in it, and the word of each label in the set's order."""

    question: str
    words: tuple[str, ...]

    def row(self, example: Example) -> ScoredRow:
        """Return a labelled row as a question with the labels' words as candidates."""
        context = self._filled(example.text.strip(), (example.pair or "").strip())
        pairs = tuple((context, " " + word) for word in self.words)
        lengths = tuple(map(len, self.words))
        return ScoredRow(example.id, pairs, lengths, example.label, blank=self._filled(BLANK, BLANK))

    def _filled(self, text: str, pair: str) -> str:
        return self.question.replace("{pair}", "\0").replace("{text}", text).replace("\0", pair)


_SENTIMENT = Wording("Review: {text}\nSentiment:", ("negative", "positive"))
WORDINGS: dict[str, Wording] = {
    "snli": Wording("{text}\nQuestion: {pair} True, False or Neither?\nAnswer:", ("True", "Neither", "False")),
    "qnli_dev": Wording("{text}\n{pair}\nQuestion: Does this response answer the question?\nAnswer:", ("yes", "no")),
    "sentence_polarity": _SENTIMENT,
    "movie_reviews": _SENTIMENT,
    "subjectivity": Wording("Text: {text}\nIs this the plot of a film or an opinion?\nAnswer:", ("plot", "opinion")),
    "dbpedia": Wording(
        "{text}\nTopic:",
        (
            "company",
            "school",
            "artist",
            "athlete",
            "politician",
            "transport",
            "building",
            "nature",
            "village",
            "animal",
            "plant",
            "album",
            "film",
            "book",
        ),
    ),
}


def _labelled(local: NamedSet, context: TaskContext) -> tuple[list[Row], list[Row]]:
    labelled, wording = local.read(context.data), WORDINGS[local.name]
    counted: list[Row] = [wording.row(example) for example in shuffled(labelled.reported)]
    return counted, [wording.row(example) for example in labelled.train]


def _questions(file: str, context: TaskContext) -> tuple[list[Row], list[Row]]:
    rows = read_question_rows(context.input(file), "question")
    return rows, rows


def measure_prompts(
    read: Callable[[TaskContext], tuple[list[Row], list[Row]]],
    words: Sequence[str],
    model: TextModel,
    context: TaskContext,
) -> TaskOutcome:
    """Measure a model on questions.

    Raises:
        TaskSkippedError: There are no rows.
        EvaluationError: The data cannot be read, or a candidate is longer than the model.
    """
    counted, pool = read(context)
    if not counted:
        raise TaskSkippedError("the file has no rows", seen=0, fix="download the file again")
    asked = context.limited(counted)
    outcome = measure_rows(model, context, asked, pool, "acc" if words else "acc_norm")
    items, figures, settings = outcome.items, outcome.figures, outcome.settings
    if context.shots:
        settings["shots_from"] = "the other rows of the same file" if pool is counted else "the set's training rows"
    for name in ("acc", "acc_calibrated"):
        if name in items[0].detail and not (name == "acc" and words):  # with words, acc is the value itself
            figures[name] = math.fsum(item.detail[name] for item in items) / len(items)
    chance, note = _chance(asked, items), ""
    if words:
        shares = {f"share_says_{word}": _share(items, place) for place, word in enumerate(words)}
        most = max(shares, key=lambda name: shares[name])
        if shares[most] > 0.9:
            note = f"The model says {most.removeprefix('share_says_')} to {shares[most]:.0%} of the questions."
        figures |= shares
        settings["words"] = list(words)
    return replace(outcome, chance=chance, note=note)


def _chance(asked: Sequence[Row], items: Sequence[ItemOutcome]) -> float:
    """Return what the best constant answer gives where all rows have the same candidates, else what guessing does."""
    candidates = {tuple(said for _, said in row.pairs) for row in asked if isinstance(row, ScoredRow)}
    if len(candidates) > 1:
        return math.fsum(1 / len(item.detail["scores"]) for item in items) / len(items)
    return max(Counter(item.detail["gold"] for item in items).values()) / len(items)


def _share(items: Sequence[ItemOutcome], place: int) -> float:
    def chosen(item: ItemOutcome) -> bool:
        scores: list[float] = item.detail["scores"]
        return scores.index(max(scores)) == place

    return sum(map(chosen, items)) / len(items)


def _task(name: str, title: str, inputs: tuple[str, ...], run: Callable[..., TaskOutcome], metric: str) -> SuiteTask:
    return SuiteTask(
        name=name,
        version=2,
        title=title,
        suite="prompts",
        metric=metric,
        unit="share of items",
        higher_is_better=True,
        directions=BOTH,
        inputs=inputs,
        run=run,
        uses=("scoring", "shots"),
    )


TASKS = (
    *(
        _task(
            f"prompt_{local.name}",
            f"{local.title}, as a question",
            local.inputs,
            partial(measure_prompts, partial(_labelled, local), WORDINGS[local.name].words),
            "acc",
        )
        for local in SETS
        if local.name in WORDINGS
    ),
    *(
        _task(f"prompt_{name}", title, (file,), partial(measure_prompts, partial(_questions, file), ()), "acc_norm")
        for name, title, file in (
            ("boolq", "BoolQ", "generative/boolq.jsonl"),
            ("arc_easy", "ARC, easy", "generative/arc_easy.jsonl"),
        )
    ),
)
