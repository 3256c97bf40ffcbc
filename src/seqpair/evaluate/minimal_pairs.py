"""Suites of minimal pairs as data: BLiMP, Zorro, BabyLM's and anybody's, by three rules of what a sentence's score is.

The plain rule is the one that both directions share: the log-probability of the whole sentence from left to right, for
an encoder by filling masks. `_pll` and `_pll_word` are an encoder's own: pseudo-log-likelihoods. A tie is half a point.
Under a limit the pairs are taken in turn from all paradigms.

Source: Warstadt et al. 2020, arXiv 1912.00582 (BLiMP); Huebner et al. 2021, CoNLL (Zorro); Warstadt et al. 2023, CoNLL
(BabyLM). Differs from lm-eval's task: no space before the sentence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from seqpair.data.sources.tables import table_rows
from seqpair.errors import EvaluationError, SeqpairError
from seqpair.evaluate.results import ItemOutcome, weighted_mean
from seqpair.evaluate.task import BOTH, Outcomes, SuiteTask, TaskContext, TaskOutcome, TaskSkippedError
from seqpair.evaluate.trigram import trigram_log_probabilities
from seqpair.models.score import PseudoForm, Score, pseudo_log_likelihoods, score_continuations
from seqpair.models.text_model import TextModel
from seqpair.recipe.objectives import Direction
from seqpair.text import decoded_text

CHUNK_PAIRS = 256
_Sentences = Callable[[TextModel, TaskContext, list[str]], list[Score]]


@dataclass(frozen=True)
class Pair:
    """A good and a bad sentence, and what they belong to.

    Attributes:
        id: The pair's name in its suite.
        good, bad: The sentences.
        paradigm: The cluster of pairs that are made alike.
        groups: Larger groups by what they are: a phenomenon, a field.
    """

    id: str
    good: str
    bad: str
    paradigm: str
    groups: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PairSuite:
    """How the files of a suite are read; a `*.txt` file has the bad sentence on odd lines and the good on even ones.

    Attributes:
        name, title: Of the task.
        folder, pattern: Where its files are in the data folder.
        good, bad: The columns of the sentences.
        paradigm: The column of the paradigm; empty where each file is one, named by the file.
        id: The column of the pair's name in its paradigm; empty counts the rows.
        groups: Larger groups, each with its column.
        paradigms: How many the whole suite has; 0 if unknown.
    """

    name: str
    title: str
    folder: str
    pattern: str = "*.jsonl"
    good: str = "sentence_good"
    bad: str = "sentence_bad"
    paradigm: str = ""
    id: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)
    paradigms: int = 0

    def read(self, data: Path) -> list[Pair]:
        """Return all pairs, the first of every paradigm, then the second of every paradigm, and so on.

        Raises:
            TaskSkippedError: The folder has no pairs.
            EvaluationError: A column has no text, or a sentence no partner.
            DataError: A row lacks a column, or a file cannot be read.
        """
        found = self.of_files(sorted((data / self.folder).glob(self.pattern)))
        if not found:
            allowed = f"files named {self.pattern}"
            raise TaskSkippedError(f"the folder of {self.title} has no pairs", seen=data / self.folder, allowed=allowed)
        return found

    def of_files(self, paths: Iterable[Path]) -> list[Pair]:
        """Return the pairs of some files, as `read` does."""
        counts: Counter[str] = Counter()
        found = [numbered for path in paths for numbered in self._pairs(path, counts)]
        return [pair for _, pair in sorted(found, key=lambda entry: (entry[0], entry[1].paradigm))]

    def _pairs(self, path: Path, counts: Counter[str]) -> Iterator[tuple[int, Pair]]:
        """Yield the pairs of a file, each with how many of its paradigm came before it."""
        if path.suffix == ".txt":
            lines = [line.strip() for line in decoded_text(path.read_bytes(), str(path)).splitlines() if line.strip()]
            if len(lines) % 2:
                raise EvaluationError(
                    f"{path}: its last sentence has no partner",
                    seen=f"{len(lines)} sentences",
                    fix="download the file again",
                )
            for number, (bad, good) in enumerate(zip(lines[::2], lines[1::2], strict=True)):
                yield number, Pair(f"{path.stem}-{number}", good, bad, path.stem)
            return
        wanted = [self.good, self.bad, *filter(None, (self.paradigm, self.id))]
        for where, row in table_rows(path, columns=wanted):
            good, bad = (text_of(row, name, where) for name in (self.good, self.bad))
            paradigm = str(row[self.paradigm]) if self.paradigm else path.stem
            number = counts[paradigm]
            counts[paradigm] += 1
            name = str(row[self.id]) if self.id else str(number)
            # One set of BLiMP spells its field `syntax/semantics`, all others `syntax_semantics`.
            groups = {group: str(row.get(column, "unknown")).replace("/", "_") for group, column in self.groups.items()}
            yield number, Pair(f"{paradigm}-{name}", good, bad, paradigm, groups)


def text_of(row: Mapping[str, Any], column: str, where: str) -> str:
    """Return the text in a column of a row.

    Raises:
        EvaluationError: It is missing, is not a text, or is empty.
    """
    value = row.get(column)
    if not isinstance(value, str) or not value.strip():
        seen = f"no such column; it has {', '.join(map(str, row))}" if column not in row else repr(value)
        raise EvaluationError(f"{where}: the column {column!r} has no text", seen=seen, allowed="a text")
    return value


def left_to_right(model: TextModel, context: TaskContext, sentences: list[str]) -> list[Score]:
    """Return the score of each sentence as a whole, from left to right."""
    return score_continuations(model, [("", sentence) for sentence in sentences], context.scoring)


def _pseudo(form: PseudoForm, model: TextModel, _context: TaskContext, sentences: list[str]) -> list[Score]:
    return pseudo_log_likelihoods(model, sentences, form)


def measure_suite(suite: PairSuite, rule: _Sentences, model: TextModel, context: TaskContext) -> TaskOutcome:
    """Measure a model on a suite by one rule.

    Raises:
        TaskSkippedError: There are no pairs.
        EvaluationError: The data cannot be read.
    """
    outcome = measure_pairs(suite.read(context.data), rule, model, context)
    sets = int(outcome.settings["sets"])
    note = f"Only {sets} of the {suite.paradigms} sets of {suite.title}." if sets < suite.paradigms else ""
    return replace(outcome, note=note)


def measure_pairs(pairs: Sequence[Pair], rule: _Sentences, model: TextModel, context: TaskContext) -> TaskOutcome:
    """Measure a model on pairs by one rule.

    Raises:
        EvaluationError: A sentence is longer than the model.
    """
    pairs = context.limited(pairs)

    def compute(chunk: Sequence[Pair]) -> Outcomes:
        found = rule(model, context, [text for pair in chunk for text in (pair.good, pair.bad)])
        scores = [score.log_prob for score in found]
        items = [_outcome(pair, *scores[2 * index : 2 * index + 2]) for index, pair in enumerate(chunk)]
        return Outcomes(items, sum(score.truncated for score in found))

    items, truncated = context.by_chunks(pairs, compute, CHUNK_PAIRS)
    figures = {}
    for name in (*pairs[0].groups, "paradigm"):
        groups: dict[str, list[ItemOutcome]] = {}
        for item in items:
            groups.setdefault(item.detail[name], []).append(item)
        figures |= {f"{name}_{group}": weighted_mean(own) for group, own in sorted(groups.items())}
    sets = len({pair.paradigm for pair in pairs})
    # The baseline is a model of whole sentences from left to right, so it stands beside that rule alone.
    baselines = _trigram(pairs, model, context) if rule is left_to_right else {}
    settings = {"tie": 0.5, "sets": sets}
    return TaskOutcome(items, settings, 0.5, baselines, figures=figures, truncated=truncated)


def _outcome(pair: Pair, good: float, bad: float) -> ItemOutcome:
    detail: dict[str, Any] = {
        "paradigm": pair.paradigm,
        **pair.groups,
        "scores": [round(good, 4), round(bad, 4)],
        "gold_bytes": len(pair.good.encode()),
    }
    return ItemOutcome(id=pair.id, value=_point(good, bad), detail=detail, cluster=pair.paradigm)


def _point(good: float, bad: float) -> float:
    return 1.0 if good > bad else 0.5 if good == bad else 0.0


def _trigram(pairs: Sequence[Pair], model: TextModel, context: TaskContext) -> dict[str, float]:
    """Return the accuracy of a trigram model of the study's training text; nothing where that is not at hand."""
    try:
        study = context.study_of(model)
    except SeqpairError:
        return {}
    found = trigram_log_probabilities(study.prepared, [text for pair in pairs for text in (pair.good, pair.bad)])
    points = [_point(*found[2 * index : 2 * index + 2]) for index in range(len(pairs))]
    return {"trigram": sum(points) / len(points)}


_ENCODERS: tuple[Direction, ...] = ("bidirectional",)
_RULES: tuple[tuple[str, str, _Sentences, tuple[Direction, ...], tuple[str, ...]], ...] = (
    ("", "sentence from left to right", left_to_right, BOTH, ("scoring",)),
    ("_pll", "pseudo-log-likelihood", partial(_pseudo, "plain"), _ENCODERS, ()),
    (
        "_pll_word",
        "pseudo-log-likelihood, words from left to right",
        partial(_pseudo, "word_left_to_right"),
        _ENCODERS,
        (),
    ),
)


def pair_tasks(suite: PairSuite, suite_name: str, **more: Any) -> tuple[SuiteTask, ...]:
    """Return the tasks of one suite of pairs, one for each rule; `more` are other fields of `SuiteTask`."""
    return tuple(
        SuiteTask(
            name=suite.name + ending,
            version=1,
            title=f"{suite.title}, {words}",
            suite=suite_name,
            metric="accuracy",
            unit="share of pairs",
            higher_is_better=True,
            directions=directions,
            inputs=(suite.folder,),
            run=partial(measure_suite, suite, rule),
            uses=uses,
            **more,
        )
        for ending, words, rule, directions, uses in _RULES
    )


BLIMP = PairSuite(
    "blimp",
    "BLiMP",
    "blimp",
    paradigm="UID",
    id="pairID",
    groups={"field": "field", "phenomenon": "linguistics_term"},
    paradigms=67,
)
ZORRO = PairSuite("zorro", "Zorro", "zorro", "*.txt", paradigms=23)
BABYLM = (
    PairSuite("babylm_blimp", "BabyLM's BLiMP", "babylm/blimp_filtered", groups={"phenomenon": "linguistics_term"}),
    PairSuite("babylm_supplement", "BabyLM's supplement", "babylm/supplement_filtered"),
)
TASKS = pair_tasks(BLIMP, "blimp")
ZORRO_TASKS = pair_tasks(ZORRO, "zorro")
BABYLM_TASKS = tuple(task for suite in BABYLM for task in pair_tasks(suite, "babylm"))
