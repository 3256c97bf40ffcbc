"""Greedy continuation of texts with stop strings, for decoders and encoders alike.

A decoder's prompts of equal length run together with a cache and without padding, so that a text does not depend on
its neighbours. An encoder fills the first of several masks, puts the token there, and goes on: every step is a new
row, since the states of a bidirectional model change with each token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from seqpair.errors import EvaluationError
from seqpair.evaluate.loaded import Ids, LoadedModel
from seqpair.evaluate.scorers import DEFAULT_SCORING, ScoringOptions

BATCH_ROWS = 64


def generate_texts(
    model: LoadedModel,
    prompts: Sequence[str],
    stop: Sequence[str] = (),
    max_new_tokens: int = 64,
    options: ScoringOptions = DEFAULT_SCORING,
) -> list[str]:
    """Return what the model adds to each prompt, cut before the first stop string.

    A prompt too long is cut on the left and counted; the model's end token ends a text too.

    Args:
        model: A model of either direction.
        prompts: The texts; an empty one begins at the beginning token.
        stop: Strings that end a text; they are not part of it.
        max_new_tokens: Most tokens to add.
        options: An encoder's masks and end token.

    Raises:
        EvaluationError: The model has no room for so many new tokens, or none is asked for.
    """
    tail = 1 + options.masks if model.direction == "bidirectional" else 0
    room = model.max_tokens - 1 - tail - max_new_tokens
    if max_new_tokens < 1 or room < 1:
        raise EvaluationError(
            "this many new tokens cannot be made",
            seen=max_new_tokens,
            allowed=f"1 to {model.max_tokens - 2 - tail}",
        )
    contents = []
    for content in model.encode(prompts):
        model.truncated += len(content) > room
        contents.append(content[max(0, len(content) - room) :])
    cut = _Stops(model, stop)
    if model.direction == "bidirectional":
        made = _fill(model, contents, cut, max_new_tokens, options)
    else:
        made = _continue(model, contents, cut, max_new_tokens)
    return [cut.text(ids) for ids in made]


class _Stops:
    """Says when a text is at its end, and what of it counts."""

    def __init__(self, model: LoadedModel, stop: Sequence[str]) -> None:
        self.end_id, self.strings = model.sep_id, [text for text in stop if text]
        self._decode: Callable[..., str] = model.tokenizer.decode

    def done(self, ids: Sequence[int]) -> bool:
        return ids[-1] == self.end_id or any(text in self._decode(ids) for text in self.strings)

    def text(self, ids: Sequence[int]) -> str:
        whole = self._decode([token for token in ids if token != self.end_id])
        return whole[: min([whole.find(text) for text in self.strings if text in whole], default=len(whole))]


@torch.no_grad()
def _continue(model: LoadedModel, contents: Sequence[Ids], cut: _Stops, limit: int) -> list[list[int]]:
    made: list[list[int]] = [[] for _ in contents]
    by_length: dict[int, list[int]] = {}
    for index, content in enumerate(contents):
        by_length.setdefault(len(content), []).append(index)
    for same in by_length.values():
        for start in range(0, len(same), BATCH_ROWS):
            group = same[start : start + BATCH_ROWS]
            rows = [np.concatenate((model.begin(len(contents[i])), contents[i])).astype(np.int64) for i in group]
            inputs, cache = torch.from_numpy(np.stack(rows)).to(model.device), None
            open_rows = set(range(len(group)))
            for _ in range(limit):
                out = model.model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache, chosen = out.past_key_values, out.logits[:, -1].argmax(-1)
                for place in sorted(open_rows):
                    made[group[place]].append(int(chosen[place]))
                    if cut.done(made[group[place]]):
                        open_rows.discard(place)
                if not open_rows:
                    break
                inputs = chosen[:, None]
    return made


def _fill(
    model: LoadedModel, contents: Sequence[Ids], cut: _Stops, limit: int, options: ScoringOptions
) -> list[list[int]]:
    made: list[list[int]] = [[] for _ in contents]
    tail = [model.mask_id] * options.masks + options.end_ids(model)
    back = len(tail) + (1 if model.predicts == "masked_next" else 0)
    still_open = list(range(len(contents)))
    for _ in range(limit):
        rows = [np.array([model.cls_id, *contents[i], *made[i], *tail], dtype=np.int64) for i in still_open]
        for batch, states in model.read_at(rows, [np.array([len(row) - back]) for row in rows]):
            table = model.log_probabilities(states)
            for place, token in zip(batch, table.argmax(-1).tolist(), strict=True):
                made[still_open[place]].append(token)
        still_open = [index for index in still_open if not cut.done(made[index])]
        if not still_open:
            break
    return made
