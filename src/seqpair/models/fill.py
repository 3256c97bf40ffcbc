"""Filling the masks of a text with an encoder, read where the model predicts them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from seqpair.errors import EvaluationError
from seqpair.models.score import masked_predictions
from seqpair.models.text_model import TextModel

DEFAULT_TOP = 5


@dataclass(frozen=True)
class Prediction:
    """A token's text, its id, and the probability that the model gives it."""

    token: str
    id: int
    probability: float


@dataclass(frozen=True)
class FilledMask:
    """What a model says for one mask.

    Attributes:
        position: The mask's position in the row, `[CLS]` being 0.
        read_at: The position whose logits were read: the same, or one less.
        predictions: The likeliest tokens, likeliest first.
    """

    position: int
    read_at: int
    predictions: tuple[Prediction, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the values as JSON."""
        return asdict(self)


def fill_masks(model: TextModel, text: str, top: int = DEFAULT_TOP) -> list[FilledMask]:
    """Return the likeliest tokens for every `[MASK]` of a text, in order; all masks stay hidden throughout.

    Args:
        model: An encoder.
        text: Text that contains the tokenizer's mask token at least once.
        top: How many tokens to return for each mask.

    Raises:
        EvaluationError: The model is a decoder, the text has no mask or is too long, or `top` is out of range.
    """
    if model.direction != "bidirectional":
        raise EvaluationError(
            "only an encoder can fill masks",
            seen=f"{model.name}: a decoder",
            allowed="an encoder: a member trained with mlm, mntp, diffusion or hybrid",
            fix="let the decoder continue a text with `seqpair generate`",
        )
    if not 1 <= top <= model.vocab_size:
        raise EvaluationError("this many tokens cannot be shown", seen=f"top {top}", allowed=f"1 to {model.vocab_size}")
    content = model.encode([text])[0]
    places = np.flatnonzero(content == model.mask_id)
    room = model.max_tokens - len(model.wrap(content[:0]))
    if not len(places):
        raise EvaluationError(
            "the text has no mask", seen=repr(text), allowed=f"one {model.decode([model.mask_id])} or more"
        )
    if len(content) > room:
        raise EvaluationError(
            "the text is too long for this model", seen=f"{len(content)} tokens", allowed=f"at most {room}"
        )
    tokens, values = masked_predictions(model, [content], [places], top)[0]
    return [
        FilledMask(
            position=int(place) + 1,
            read_at=int(place) + 1 - model.shift,
            predictions=tuple(
                Prediction(model.decode([int(token)]), int(token), math.exp(float(value)))
                for token, value in zip(row, row_values, strict=True)
            ),
        )
        for place, row, row_values in zip(places, tokens, values, strict=True)
    ]
