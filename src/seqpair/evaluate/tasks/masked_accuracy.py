"""Masked accuracy on held-out text, for models that fill masks.

An item is a held-out sequence: 15 % of its tokens, chosen by a hash of the item and the place, are all
replaced by `[MASK]`; its value is the share that the model's likeliest token gets right, weighted by
how many were masked. The baseline always says the most frequent token of the training stores.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from seqpair.counter import as_fraction_threshold, hash_words, key_words
from seqpair.evaluate.held_out import HeldOutSequence, held_out_sequences
from seqpair.evaluate.results import ItemOutcome, weighted_mean
from seqpair.evaluate.tasks.task import TaskInputs, TaskOutcome, TaskSkippedError, TaskSpec
from seqpair.models.score import masked_predictions
from seqpair.models.text_model import TextModel

NAME, VERSION = "masked_accuracy", 1
BUDGET_TOKENS = 100_000
MASK_FRAC = 0.15


def chosen_places(sequence: HeldOutSequence, special_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which tokens of a sequence are masked, ascending; special ids inside the text never are."""
    key = key_words("evaluate", NAME, VERSION, sequence.id)
    words = hash_words(key, np.arange(len(sequence.content), dtype=np.int64))
    chosen = (words < as_fraction_threshold(MASK_FRAC)) & ~np.isin(sequence.content, special_ids)
    return np.flatnonzero(chosen)


def run(model: TextModel, inputs: TaskInputs) -> TaskOutcome:
    """Measure a bidirectional model.

    Raises:
        TaskSkippedError: The study holds out no text.
    """
    held_out, special_ids = inputs.prepared.held_out, inputs.prepared.tokenizer.special_ids
    sequences = held_out_sequences(held_out, inputs.seq_len, BUDGET_TOKENS, f"{NAME} {VERSION}")
    places = [chosen_places(sequence, special_ids) for sequence in sequences]
    kept = [(sequence, chosen) for sequence, chosen in zip(sequences, places, strict=True) if len(chosen)]
    if not kept:
        raise TaskSkippedError("the study holds out no text", fix="set held_out_frac of its sources above 0")
    found = masked_predictions(model, [sequence.content for sequence, _ in kept], [chosen for _, chosen in kept])
    items, baseline = [], []
    for (sequence, chosen), (tokens, _) in zip(kept, found, strict=True):
        answers = sequence.content[chosen]
        right = float((tokens[:, 0] == answers).mean())
        simple = float((answers == inputs.unigram.most_frequent).mean())
        detail = {"source": sequence.source, "masked": len(chosen), "unigram": simple}
        items.append(ItemOutcome(id=sequence.id, value=right, weight=len(chosen), detail=detail))
        baseline.append(ItemOutcome(id=sequence.id, value=simple, weight=len(chosen)))
    accuracy, unigram = weighted_mean(items), weighted_mean(baseline)
    return TaskOutcome(
        items=items,
        settings={"seq_len": inputs.seq_len, "budget_tokens": BUDGET_TOKENS, "mask_frac": MASK_FRAC},
        baselines={"unigram": unigram},
        figures={"times_unigram": accuracy / unigram} if unigram > 0 else {},
    )


SPEC = TaskSpec(
    name=NAME,
    version=VERSION,
    title="Held-out text, masked tokens",
    metric="accuracy",
    unit="share of masked tokens",
    higher_is_better=True,
    directions=("bidirectional",),
    run=run,
)
