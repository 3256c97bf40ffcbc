"""Questions that were written down before anything was measured, read from a YAML file and answered.

Whoever looks at thirty tasks finds one that suits; a few questions fixed beforehand are corrected for being few, and
nobody can say that they were chosen for their answers.

```yaml
written: 2026-11-25, before any model was evaluated
questions:
  grammar: {tasks: [blimp], margin: 0.02}
  masked tokens: {tasks: [masked_accuracy], first: biphasic, second: encoder}
  retrieval and similarity: {tasks: [xquad_passages, stsb_vectors]}
```

Source of the two one-sided tests: D. J. Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15, 1987.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seqpair.compare.estimates import average_estimate, difference_estimate
from seqpair.compare.pairing import Paired, pair_sides
from seqpair.compare.questions import (
    DEFAULT,
    Options,
    answers_of,
    compare,
    corrected,
    judged,
    mean_over_tasks,
    sizes_of,
)
from seqpair.compare.values import NOT_COMPARED, PLANNED, Comparison, Scores, Side, Task
from seqpair.errors import EvaluationError
from seqpair.recipe.tree import read_tree, strip
from seqpair.text import decoded_text


@dataclass(frozen=True)
class PlannedQuestion:
    """One question: does one member do better than another on a task, or on the mean of several?

    Attributes:
        name: What is asked, in a few words.
        tasks: Names of tasks, each `task`, or `task@choices` where it was done in several ways.
        first: The member, or model from elsewhere, that differences are of.
        second: The one that is taken from it.
        margin: The largest difference that counts as none, in the tasks' unit; None asks only who is ahead.
        may_differ: Parts of the pairs' identity in which the two may differ, such as `optimizer`.
    """

    name: str
    tasks: tuple[str, ...]
    first: str = "encoder"
    second: str = "decoder"
    margin: float | None = None
    may_differ: tuple[str, ...] = ()


@dataclass(frozen=True)
class AskedBefore:
    """A file's content.

    Attributes:
        questions: The questions, in the file's order.
        written: When it was written, as the file says; empty where it does not.
        clusters: By task the cluster of each item, for results that name none.
    """

    questions: tuple[PlannedQuestion, ...]
    written: str = ""
    clusters: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


class _Question(BaseModel):
    model_config = ConfigDict(extra="forbid")

    tasks: list[str] = Field(min_length=1)
    first: str = "encoder"
    second: str = "decoder"
    margin: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    may_differ: tuple[str, ...] = ()


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    questions: dict[str, _Question] = Field(min_length=1)
    written: str = ""
    clusters: dict[str, str] = Field(default_factory=dict)


def read_questions(path: Path) -> AskedBefore:
    """Return the questions of a file.

    Args:
        path: A YAML file: `questions`, a mapping of a name to `tasks`, and `first` and `second` where they are not
            the encoder and the decoder, and `margin`, within which the two count as level, and `may_differ`, the parts
            of a pair that differ on purpose (`optimizer`); and `written`, if it says when it was written; and
            `clusters`, a mapping of a task to a CSV file with the columns `id` and `cluster`, beside the questions'
            file, for items whose results name no cluster.

    Raises:
        EvaluationError: There is no such file, it is not of this form, or a question names one member twice.
        DataError: It is not UTF-8.
        RecipeError: It is not YAML.
    """
    if not path.is_file():
        raise EvaluationError("there is no such file of questions", seen=path, fix="check the spelling")
    try:
        read = _File.model_validate(strip(read_tree(decoded_text(path.read_bytes(), str(path)), str(path))))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise EvaluationError(
            f"{path}: {place}: {first['msg'][:1].lower()}{first['msg'][1:]}",
            seen=first["input"],
            allowed="`questions`, each a name with `tasks`, perhaps `first`, `second`, `margin`, `may_differ`; "
            "`written`; `clusters`",
        ) from error
    found = []
    for name, question in read.questions.items():
        if question.first == question.second:
            raise EvaluationError(
                f"{path}: the question '{name}' compares a member with itself",
                seen=question.first,
                fix="name two members",
            )
        tasks = tuple(dict.fromkeys(question.tasks))
        found.append(
            PlannedQuestion(name, tasks, question.first, question.second, question.margin, question.may_differ)
        )
    clusters = {task: _read_clusters(path.parent / name) for task, name in read.clusters.items()}
    return AskedBefore(tuple(found), read.written, clusters)


def _read_clusters(path: Path) -> dict[str, str]:
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            return {row["id"]: row["cluster"] for row in csv.DictReader(handle)}
    except (OSError, UnicodeDecodeError, KeyError) as error:
        raise EvaluationError(
            f"the clusters in {path} cannot be read", seen=error, allowed="a CSV file with the columns id and cluster"
        ) from error


def planned_answers(
    scores: Sequence[Scores], questions: Sequence[PlannedQuestion], options: Options = DEFAULT
) -> list[Comparison]:
    """Return an answer to each question at each size, p corrected over the questions of the size.

    What cannot be compared is an answer too, with the reason: no question is left out.

    Args:
        scores: All scores of the study.
        questions: The questions.
        options: How to compare.
    """
    found: list[Comparison] = []
    for size in sizes_of(scores) or [""]:
        own = [_answer(scores, question, size, options, len(questions)) for question in questions]
        if options.correct:
            own = corrected(own)
        found += own
    return found


def _answer(
    scores: Sequence[Scores], question: PlannedQuestion, size: str, options: Options, family: int
) -> Comparison:
    try:
        kept = []
        for task in question.tasks:
            sides = _side(scores, size, question.first, task), _side(scores, size, question.second, task)
            # Naming a model from elsewhere is asking for a comparison of what is no pair.
            named = any(side[0].model.is_elsewhere for side in sides)
            options = replace(
                options,
                unpaired=options.unpaired or named,
                may_differ=tuple(dict.fromkeys([*options.may_differ, *question.may_differ])),
            )
            paired = pair_sides(*sides, may_differ=options.may_differ, unpaired=options.unpaired)
            kept.append((compare(PLANNED, *sides, options), paired))
        if len(kept) == 1:
            return _with_margin(replace(kept[0][0], name=question.name), question, kept, options, family)
        if any(paired.task.is_lean for _, paired in kept):
            raise EvaluationError(
                "one of the tasks is a lean, of which neither end is better, so they have no mean",
                fix="ask about such a task alone",
            )
        if len({paired.task.higher_is_better for _, paired in kept}) > 1:
            raise EvaluationError(
                "more is better in some of the tasks and worse in others, so they have no mean",
                fix="ask two questions, one for each direction",
            )
        cautions = tuple(dict.fromkeys(caution for one, _ in kept for caution in one.cautions))
        mean = replace(mean_over_tasks(kept, options, cautions), name=question.name)
        return _with_margin(mean, question, kept, options, family)
    except EvaluationError as fault:
        bare = [Side(member, size, "", (), None, None) for member in (question.first, question.second)]
        tasks = tuple(Task(name) for name in question.tasks)
        reason = str(fault).replace("\n", "; ")
        return Comparison(
            PLANNED, tasks, bare[0], bare[1], None, NOT_COMPARED, NOT_COMPARED, reason=reason, name=question.name
        )


def _with_margin(
    answer: Comparison,
    question: PlannedQuestion,
    kept: Sequence[tuple[Comparison, Paired]],
    options: Options,
    family: int,
) -> Comparison:
    """Return the answer, judged, with the interval that shows the sides level if it lies within the margin.

    Two one-sided tests at alpha reject together exactly where the interval of level 1 - 2 alpha lies within the margin;
    alpha is divided by the number of questions (Bonferroni), so that all claims of a file keep its level.
    """
    if question.margin is None:
        return judged(answer)
    level = 1 - 2 * (1 - options.level) / (family if options.correct else 1)
    pairs = [paired for _, paired in kept]
    found = difference_estimate(pairs[0], level) if len(pairs) == 1 else average_estimate(pairs, level)
    return judged(replace(answer, margin=question.margin, within=found.interval))


def _side(scores: Sequence[Scores], size: str, member: str, task: str) -> list[Scores]:
    """Return a final model's scores on a task, one a seed.

    Raises:
        EvaluationError: There are none, or the task was done in several ways and none of them is named.
    """
    finals = [one for one in scores if one.model.member == member and not one.model.checkpoint]
    own = [one for one in finals if one.model.size == size or one.model.is_elsewhere]
    exact = [one for one in own if one.task.name == task]
    meant = exact or [one for one in own if one.task.name.split("@")[0] == task]
    ways = sorted({one.task.name for one in meant})
    if not meant:
        raise EvaluationError(
            f"the {size} {member} has no result of {task}", fix="evaluate it, or leave the task out of the question"
        )
    if len(ways) > 1:
        raise EvaluationError(
            f"the {size} {member} did {task} in several ways", seen=", ".join(ways), fix="name one of them"
        )
    return meant


def answers_to(
    scores: Sequence[Scores], asked: AskedBefore | None = None, options: Options = DEFAULT
) -> list[Comparison]:
    """Return the answers to what was asked beforehand, then those to all questions of a study."""
    if asked is None:
        return answers_of(scores, options)
    named = [
        replace(one, clusters=one.clusters or asked.clusters.get(one.task.name.partition("@")[0], {})) for one in scores
    ]
    return [*planned_answers(named, asked.questions, options), *answers_of(named, options)]
