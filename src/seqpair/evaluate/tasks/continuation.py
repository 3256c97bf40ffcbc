"""Choosing the true continuation among four, for every model that can score one.

An item is a window of a held-out document: 48 tokens of context and the 12 that follow. The three other
candidates are the continuations of windows of other documents of the same source, none equal to
another. All four have the same number of tokens, so the plain sum of log-probabilities decides. A tie
shares the point among the candidates that tie.
"""

from __future__ import annotations

import numpy as np

from seqpair.evaluate.held_out import HeldOutSequence, held_out_windows
from seqpair.evaluate.results import ItemOutcome
from seqpair.evaluate.tasks.task import BOTH, TaskInputs, TaskOutcome, TaskSkippedError, TaskSpec
from seqpair.models.score import Request, score_continuations
from seqpair.models.text_model import TextModel

NAME, VERSION = "continuation", 1
CONTEXT_TOKENS = 48
CONTINUATION_TOKENS = 12
CHOICES = 4
MOST_ITEMS = 200


def choices_of(windows: list[HeldOutSequence], index: int) -> list[HeldOutSequence] | None:
    """Return a window and the next windows in order whose documents and continuations all differ.

    Returns:
        The window itself first, then the distractors; `None` if there are too few.
    """
    chosen = [windows[index]]
    rows = {windows[index].row}
    endings = {windows[index].content[CONTEXT_TOKENS:].tobytes()}
    for step in range(1, len(windows)):
        other = windows[(index + step) % len(windows)]
        ending = other.content[CONTEXT_TOKENS:].tobytes()
        if other.row not in rows and ending not in endings:
            rows.add(other.row)
            endings.add(ending)
            chosen.append(other)
            if len(chosen) == CHOICES:
                return chosen
    return None


def run(model: TextModel, inputs: TaskInputs) -> TaskOutcome:
    """Measure a model of either direction.

    Raises:
        TaskSkippedError: The held-out documents are too few or too short.
    """
    size = CONTEXT_TOKENS + CONTINUATION_TOKENS
    by_source = held_out_windows(inputs.prepared.held_out, size, f"{NAME} {VERSION}")
    quota = MOST_ITEMS // max(1, len(by_source))
    items: list[list[HeldOutSequence]] = []
    for windows in by_source.values():
        found = (choices_of(windows, index) for index in range(min(quota, len(windows))))
        items.extend(choices for choices in found if choices is not None)
    if not items:
        raise TaskSkippedError(
            "the held-out documents are too few or too short for the continuation task",
            allowed=f"at least {CHOICES} documents of {size} tokens in one source",
            fix="hold out more documents",
        )
    requests: list[Request] = [
        (choices[0].content[:CONTEXT_TOKENS], choice.content[CONTEXT_TOKENS:])
        for choices in items
        for choice in choices
    ]
    found = score_continuations(model, requests)
    scores = np.array([score.log_prob for score in found]).reshape(len(items), CHOICES)
    best = scores.max(axis=1, keepdims=True)
    ties = scores == best
    outcomes = [
        ItemOutcome(
            id=choices[0].id,
            value=float(ties[index, 0]) / float(ties[index].sum()),
            detail={"source": choices[0].source, "scores": [round(float(score), 4) for score in scores[index]]},
        )
        for index, choices in enumerate(items)
    ]
    return TaskOutcome(
        items=outcomes,
        settings={
            "context_tokens": CONTEXT_TOKENS,
            "continuation_tokens": CONTINUATION_TOKENS,
            "choices": CHOICES,
            "most_items": MOST_ITEMS,
        },
        chance=1.0 / CHOICES,
        note="Several items can come from one document; the interval takes them as independent.",
        truncated=sum(score.truncated for score in found),
    )


SPEC = TaskSpec(
    name=NAME,
    version=VERSION,
    title="True continuation among four",
    metric="accuracy",
    unit="share of items",
    higher_is_better=True,
    directions=BOTH,
    run=run,
)
