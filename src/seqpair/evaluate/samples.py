"""Samples for the page: filled masks and continued texts, from held-out text, with a fixed seed.

Samples are shown, never scored.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from seqpair.counter import hash_words, key_words
from seqpair.data.tokenizer.tokenizer import Tokenizer
from seqpair.evaluate.study_text import HeldOutSequence, held_out_windows
from seqpair.evaluate.task import TaskContext
from seqpair.models.forward import Ids
from seqpair.models.generate import continue_contents
from seqpair.models.score import masked_predictions
from seqpair.models.text_model import TextModel
from seqpair.nn.decode.generate import Sampling

FILLED_A_SOURCE = 3
CONTINUED_A_SOURCE = 2
TOP = 3
FILL_TOKENS = 32
PROMPT_TOKENS = 24
NEW_TOKENS = 48
TEMPERATURE = 0.8
TOP_P = 0.95
SEED = 0

Sample = dict[str, Any]


def make_samples(model: TextModel, context: TaskContext) -> dict[str, list[Sample]]:
    """Return what this model can show.

    Returns:
        `fill_mask`: [{text, answer, predictions: [{token, probability}]}] and `generation`:
        [{prompt, text, mode}]; the list it cannot do is empty.
    """
    samples: dict[str, list[Sample]] = {"fill_mask": [], "generation": []}
    bidirectional = model.direction == "bidirectional"
    size = FILL_TOKENS if bidirectional else PROMPT_TOKENS
    count = FILLED_A_SOURCE if bidirectional else CONTINUED_A_SOURCE
    prepared = context.study_of(model).prepared
    tokenizer = prepared.tokenizer
    chosen: list[HeldOutSequence] = []
    for windows in held_out_windows(prepared.held_out, size, "samples").values():
        whole = (window for window in windows if tokenizer.decode(window.content)[:1].isspace())
        chosen.extend(itertools.islice(whole, count))
    if bidirectional:
        samples["fill_mask"] = [_filled(model, tokenizer, window) for window in chosen]
    else:
        samples["generation"] = _continued(model, tokenizer, chosen)
    return samples


def _filled(model: TextModel, tokenizer: Tokenizer, window: HeldOutSequence) -> Sample:
    """Mask one token in the middle half of a window, a whole word if there is one, and show the likeliest."""
    content = window.content
    middle = range(len(content) // 4, len(content) - len(content) // 4)
    words = [place for place in middle if _is_word(tokenizer, content[place : place + 2])]
    places = words or list(middle)
    place = places[hash_words(key_words("evaluate", "samples", window.id), 0) % len(places)]
    tokens, values = masked_predictions(model, [content], [np.array([place])], top=TOP)[0]
    answer = tokenizer.decode(content[place : place + 1])
    return {
        "text": tokenizer.decode(content[:place]) + tokenizer.names["mask"] + tokenizer.decode(content[place + 1 :]),
        "answer": answer,
        "source": window.source,
        "predictions": [
            {"token": tokenizer.decode([int(token)]), "probability": round(math.exp(float(value)), 4)}
            for token, value in zip(tokens[0], values[0], strict=True)
        ],
    }


def _is_word(tokenizer: Tokenizer, pair: Ids) -> bool:
    """Return whether the first of two tokens is a whole word: a space, letters, and no letter after it."""
    word, after = tokenizer.decode(pair[:1]), tokenizer.decode(pair[1:])
    return len(word) > 3 and word[0] == " " and word[1:].isalpha() and not after[:1].isalpha()


def _continued(model: TextModel, tokenizer: Tokenizer, windows: Sequence[HeldOutSequence]) -> list[Sample]:
    """Continue windows by the likeliest token each time, and once by sampling."""
    modes = {
        "greedy": Sampling(),
        f"sampled, temperature {TEMPERATURE:g}, top-p {TOP_P:g}": Sampling(TEMPERATURE, top_p=TOP_P, seed=SEED),
    }
    contents = [window.content for window in windows]
    made = {mode: continue_contents(model, contents, NEW_TOKENS, sampling) for mode, sampling in modes.items()}
    return [
        {
            "prompt": tokenizer.decode(window.content),
            "text": tokenizer.decode(made[mode][number].ids),
            "source": window.source,
            "mode": mode,
        }
        for number, window in enumerate(windows)
        for mode in modes
    ]
