"""BLiMP's 67 sets of minimal pairs, by three rules of what a sentence's score is.

`blimp` is the rule that both directions share: the log-probability of the whole sentence from left to right, for an
encoder by filling masks. `blimp_pll` and `blimp_pll_word` are an encoder's own: pseudo-log-likelihoods.
A tie is half a point. Under a limit the pairs are taken in turn from all sets.

Source: Warstadt et al. 2020, arXiv 1912.00582. Differs from lm-eval's task: no space before the sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from seqpair.data.sources.tables import table_rows
from seqpair.evaluate.results import ItemOutcome, weighted_mean
from seqpair.evaluate.task import BOTH, Outcomes, SuiteTask, TaskContext, TaskOutcome, TaskSkippedError
from seqpair.models.score import PseudoForm, Score, pseudo_log_likelihoods, score_continuations
from seqpair.models.text_model import TextModel
from seqpair.recipe.objectives import Direction

SETS = 67
CHUNK_PAIRS = 256
FOLDER = "blimp"
_COLUMNS = ("sentence_good", "sentence_bad", "UID", "pairID")
_Sentences = Callable[[TextModel, TaskContext, list[str]], list[Score]]


def read_pairs(folder: Path) -> list[dict[str, str]]:
    """Return all pairs, the first of every set, then the second of every set, and so on.

    Raises:
        TaskSkippedError: The folder has no sets.
        DataError: A row lacks a column, or a file cannot be read.
    """
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        for where, row in table_rows(path, columns=_COLUMNS):
            number = int(where.rpartition(" ")[2]) - 1
            found.append((number, row["UID"], row))
    if not found:
        raise TaskSkippedError("the folder of BLiMP has no sets", seen=folder, allowed="files named *.jsonl")
    return [row for _, _, row in sorted(found, key=lambda entry: entry[:2])]


def _left_to_right(model: TextModel, context: TaskContext, sentences: list[str]) -> list[Score]:
    return score_continuations(model, [("", sentence) for sentence in sentences], context.scoring)


def _pseudo(form: PseudoForm, model: TextModel, _context: TaskContext, sentences: list[str]) -> list[Score]:
    return pseudo_log_likelihoods(model, sentences, form)


def run(rule: _Sentences, model: TextModel, context: TaskContext) -> TaskOutcome:
    """Measure a model by one rule.

    Raises:
        TaskSkippedError: There are no pairs.
        EvaluationError: The data cannot be read.
    """
    pairs = context.limited(read_pairs(context.input(FOLDER)))

    def compute(chunk: Sequence[dict[str, str]]) -> Outcomes:
        found = rule(model, context, [pair[name] for pair in chunk for name in _COLUMNS[:2]])
        scores = [score.log_prob for score in found]
        items = [_outcome(pair, *scores[2 * index : 2 * index + 2]) for index, pair in enumerate(chunk)]
        return Outcomes(items, sum(score.truncated for score in found))

    items, truncated = context.by_chunks(pairs, compute, CHUNK_PAIRS)
    figures = {}
    for name in ("field", "phenomenon", "paradigm"):
        groups: dict[str, list[ItemOutcome]] = {}
        for item in items:
            groups.setdefault(item.detail[name], []).append(item)
        figures |= {f"{name}_{group}": weighted_mean(own) for group, own in sorted(groups.items())}
    sets = len({item.detail["paradigm"] for item in items})
    note = "" if sets == SETS else f"Only {sets} of BLiMP's {SETS} sets."
    return TaskOutcome(items, {"tie": 0.5, "sets": sets}, chance=0.5, figures=figures, note=note, truncated=truncated)


def _outcome(pair: dict[str, str], good: float, bad: float) -> ItemOutcome:
    value = 1.0 if good > bad else 0.5 if good == bad else 0.0
    detail = {
        "paradigm": pair["UID"],
        "phenomenon": pair.get("linguistics_term", "unknown"),
        # One set's file spells its field `syntax/semantics`, all others `syntax_semantics`.
        "field": pair.get("field", "unknown").replace("/", "_"),
        "scores": [round(good, 4), round(bad, 4)],
        "gold_bytes": len(pair["sentence_good"].encode()),
    }
    return ItemOutcome(id=f"{pair['UID']}-{pair['pairID']}", value=value, detail=detail, cluster=pair["UID"])


def _task(
    name: str, rule: _Sentences, title: str, directions: tuple[Direction, ...], uses: tuple[str, ...]
) -> SuiteTask:
    return SuiteTask(
        name=name,
        version=1,
        title=title,
        suite="blimp",
        metric="accuracy",
        unit="share of pairs",
        higher_is_better=True,
        directions=directions,
        inputs=(FOLDER,),
        run=partial(run, rule),
        uses=uses,
    )


_ENCODERS: tuple[Direction, ...] = ("bidirectional",)

TASKS = (
    _task("blimp", _left_to_right, "BLiMP, sentence from left to right", BOTH, ("scoring",)),
    _task("blimp_pll", partial(_pseudo, "plain"), "BLiMP, pseudo-log-likelihood", _ENCODERS, ()),
    _task(
        "blimp_pll_word",
        partial(_pseudo, "word_left_to_right"),
        "BLiMP, pseudo-log-likelihood, words from left to right",
        _ENCODERS,
        (),
    ),
)
