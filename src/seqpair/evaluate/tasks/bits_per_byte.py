"""Bits per byte of held-out text, for models that predict the next token.

An item is a held-out sequence: its bits are -sum log2 P(token | [CLS] and the tokens before it) over
its content tokens, divided by their UTF-8 bytes, weighted by these bytes. `[SEP]` is not text and does
not count. The baseline is the unigram model of the same tokenizer on the same items.
"""

from __future__ import annotations

import math

from seqpair.evaluate.held_out import held_out_sequences
from seqpair.evaluate.results import ItemOutcome, weighted_mean
from seqpair.evaluate.tasks.task import TaskInputs, TaskOutcome, TaskSkippedError, TaskSpec
from seqpair.models.score import token_log_probabilities
from seqpair.models.text_model import TextModel

NAME, VERSION = "bits_per_byte", 1
BUDGET_TOKENS = 60_000


def run(model: TextModel, inputs: TaskInputs) -> TaskOutcome:
    """Measure a causal model.

    Raises:
        TaskSkippedError: The study holds out no text.
    """
    held_out, tokenizer = inputs.prepared.held_out, inputs.prepared.tokenizer
    sequences = held_out_sequences(held_out, inputs.seq_len, BUDGET_TOKENS, f"{NAME} {VERSION}")
    text_bytes = [int(tokenizer.token_bytes[sequence.content].sum()) for sequence in sequences]
    kept = [(sequence, size) for sequence, size in zip(sequences, text_bytes, strict=True) if size]
    if not kept:
        raise TaskSkippedError("the study holds out no text", fix="set held_out_frac of its sources above 0")
    found = token_log_probabilities(model, [sequence.content for sequence, _ in kept])
    items, baseline = [], []
    for (sequence, size), values in zip(kept, found, strict=True):
        bits = -float(values.sum(dtype="float64")) / math.log(2)
        simple = float(inputs.unigram.bits[sequence.content].sum())
        detail = {"source": sequence.source, "bytes": size, "tokens": len(values), "unigram": simple / size}
        items.append(ItemOutcome(id=sequence.id, value=bits / size, weight=size, detail=detail))
        baseline.append(ItemOutcome(id=sequence.id, value=simple / size, weight=size))
    unigram = weighted_mean(baseline)
    figures = {"below_unigram_frac": 1.0 - weighted_mean(items) / unigram}
    for source in sorted(held_out):
        own = [item for item in items if item.detail["source"] == source]
        if own:
            figures[f"bits_per_byte_{source}"] = weighted_mean(own)
    return TaskOutcome(
        items=items,
        settings={"seq_len": inputs.seq_len, "budget_tokens": BUDGET_TOKENS, "counts_sep": False},
        baselines={"unigram": unigram},
        figures=figures,
    )


SPEC = TaskSpec(
    name=NAME,
    version=VERSION,
    title="Held-out text, bits per byte",
    metric="bits_per_byte",
    unit="bits per byte",
    higher_is_better=False,
    directions=("causal",),
    run=run,
)
