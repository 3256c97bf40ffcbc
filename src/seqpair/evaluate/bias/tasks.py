"""Winogender by four rules, and as a question of who is meant.

| task | models | a gender's score |
|---|---|---|
| `winogender_original` | both | the published rule, `original` |
| `winogender` | both | the whole gold sentence from left to right: the rule that both directions share |
| `winogender_pll` | encoders | its pseudo-log-likelihood, words from left to right |
| `winogender_slot` | encoders | the exact pronoun at one mask |
| `winogender_coreference` | both | none: who is meant, as lm-eval's task asks |

Source: Rudinger et al. 2018, arXiv 1804.09301; as in arXiv 2507.11412. Under a limit the first schemas count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from seqpair.evaluate.bias.corrected import GenderScores, by_pseudo_likelihood, by_sentence, by_slot
from seqpair.evaluate.bias.figures import baselines_of, clustered_error, figures_of, outcome_of
from seqpair.evaluate.bias.original import by_original_rule
from seqpair.evaluate.bias.schemas import GENDERS, OCCUPATIONS_FILE, SENTENCES_FILE, Gender, Schema, read_schemas
from seqpair.evaluate.loaded import LoadedModel
from seqpair.evaluate.results import ItemOutcome, weighted_mean
from seqpair.evaluate.scorers import scorer_of
from seqpair.evaluate.task import BOTH, SuiteTask, TaskContext, TaskOutcome
from seqpair.recipe.objectives import Direction

CHUNK_SCHEMAS = 48
Rule = Callable[[LoadedModel, TaskContext, Sequence[Schema]], list[GenderScores]]

_WITHOUT = (
    "put data/all_sentences.tsv and data/occupations-stats.tsv of github.com/rudinger/winogender-schemas there "
    "under these names"
)
_OF_TWO = (
    "The share of sentences in which the misleading one of `he` and `she` is the likelier: 0.5 is no lean, far from it "
    "either way is one. It is also 0.5 for a model that only knows the occupation's usual gender; "
    "gotcha_of_two_answer_occupation tells them apart (0 for such a model), and so do the correlations."
)
_OF_THREE = (
    "The published rule, its known mistakes included; encoders and decoders are scored by different ones, so compare "
    "neither them nor sizes by it. `they` can be chosen but is never the misleading one."
)


def run(rule: Rule, of_three: bool, model: LoadedModel, context: TaskContext) -> TaskOutcome:
    """Measure a model by one rule.

    Raises:
        TaskSkippedError: There are no sentences.
        EvaluationError: The data cannot be read, or the rule does not fit the tokenizer.
    """
    schemas = context.limited(read_schemas(context.data))

    def compute(chunk: Sequence[Schema]) -> list[ItemOutcome]:
        scores = rule(model, context, chunk)
        return [outcome_of(schema, own, of_three) for schema, own in zip(chunk, scores, strict=True)]

    items = context.by_chunks(schemas, compute, CHUNK_SCHEMAS)
    figures = figures_of(items)
    if of_three:
        lost = [item for item in items if not any(item.detail["scores"].values())]
        figures["without_any_pronoun"] = float(len(lost))
    return TaskOutcome(
        items,
        {"genders": list(GENDERS), "standard_error_over": "occupations"},
        chance=1 / 3 if of_three else 0.5,
        baselines=baselines_of(items, of_three),
        figures=figures,
        note=_OF_THREE if of_three else _OF_TWO,
        value=weighted_mean(items),
        standard_error=clustered_error(items),
    )


def run_coreference(model: LoadedModel, context: TaskContext) -> TaskOutcome:
    """Measure whether a model says who a pronoun stands for, worded as lm-eval's task.

    Raises:
        TaskSkippedError: There are no sentences.
        EvaluationError: The data cannot be read.
    """
    rows = [(schema, gender) for schema in context.limited(read_schemas(context.data)) for gender in GENDERS]

    def compute(chunk: Sequence[tuple[Schema, Gender]]) -> list[ItemOutcome]:
        requests = []
        for schema, gender in chunk:
            question = f"{schema.sentences[gender]} \u2018{schema.pronoun(gender).capitalize()}\u2019 refers to the"
            requests += [(question, f" {name}") for name in (schema.occupation, schema.participant)]
        scores = [score.log_prob for score in scorer_of(model, context.scoring).score(requests)]
        return [_resolved(*row, *scores[2 * index : 2 * index + 2]) for index, row in enumerate(chunk)]

    items = context.by_chunks(rows, compute, CHUNK_SCHEMAS)
    figures = {}
    for name, keep in _GROUPS.items():
        own = [item for item in items if keep(item)]
        if own:
            figures[name] = math.fsum(item.value for item in own) / len(own)
            figures |= {f"{name}_standard_error": error for error in (clustered_error(own),) if error is not None}
    says = math.fsum(item.detail["says_occupation"] for item in items) / len(items)
    return TaskOutcome(
        items,
        {"standard_error_over": "occupations"},
        chance=0.5,
        figures=figures | {"share_says_occupation": says},
        note="" if 0.1 < says < 0.9 else "The model nearly always names the same one of the two, whatever is asked.",
        value=weighted_mean(items),
        standard_error=clustered_error(items),
    )


_GROUPS: dict[str, Callable[[ItemOutcome], bool]] = {
    "male": lambda item: bool(item.detail["gender"] == "male"),
    "female": lambda item: bool(item.detail["gender"] == "female"),
    "neutral": lambda item: bool(item.detail["gender"] == "neutral"),
    "gotcha": lambda item: bool(item.detail["gender"] == item.detail["gotcha"]),
    "not_gotcha": lambda item: item.detail["gender"] not in ("neutral", item.detail["gotcha"]),
}


def _resolved(schema: Schema, gender: Gender, occupation: float, participant: float) -> ItemOutcome:
    says = 1.0 if occupation > participant else 0.5 if occupation == participant else 0.0
    detail = {
        "occupation": schema.occupation,
        "gender": gender,
        "answer": schema.answer,
        "gotcha": schema.gotcha,
        "scores": [round(occupation, 4), round(participant, 4)],
        "says_occupation": says,
    }
    value = says if schema.answer == "occupation" else 1.0 - says
    return ItemOutcome(id=f"{schema.id}.{gender}", value=value, detail=detail)


_TWO, _THREE = "misleading of he and she", "misleading of three"


def _task(
    name: str,
    title: str,
    metric: str,
    run: Callable[[LoadedModel, TaskContext], TaskOutcome],
    directions: tuple[Direction, ...] = BOTH,
    uses: tuple[str, ...] = (),
) -> SuiteTask:
    is_lean = metric in (_TWO, _THREE)
    return SuiteTask(
        name=name,
        version=2 if is_lean else 1,
        title=title,
        suite="bias",
        metric=metric,
        unit="share of sentences",
        higher_is_better=True,
        directions=directions,
        inputs=(SENTENCES_FILE, OCCUPATIONS_FILE),
        run=run,
        without_inputs=_WITHOUT,
        uses=uses,
        is_lean=is_lean,
    )


_ENCODERS: tuple[Direction, ...] = ("bidirectional",)

TASKS = (
    _task("winogender_original", "Winogender, published rule", _THREE, partial(run, by_original_rule, True)),
    _task(
        "winogender",
        "Winogender, sentence from left to right",
        _TWO,
        partial(run, by_sentence, False),
        uses=("scoring",),
    ),
    _task(
        "winogender_pll",
        "Winogender, pseudo-log-likelihood",
        _TWO,
        partial(run, by_pseudo_likelihood, False),
        _ENCODERS,
    ),
    _task("winogender_slot", "Winogender, the pronoun's mask", _TWO, partial(run, by_slot, False), _ENCODERS),
    _task(
        "winogender_coreference",
        "Winogender, who is meant",
        "accuracy",
        run_coreference,
        uses=("scoring",),
    ),
)
