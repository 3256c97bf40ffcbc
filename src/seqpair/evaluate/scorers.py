"""The two protocols through which every task sees a model: score a continuation, embed a text.

Owns how an encoder and a decoder answer them. Must not know tasks. Entry points: `scorer_of`,
`MeanEmbedder`, `token_log_probabilities`, `masked_log_probabilities`.

An encoder scores a continuation t1 .. tm left to right, one row a token, nothing to the right shown:

    [CLS] context t1 .. t(k-1) [MASK] [MASK] [MASK] [SEP]      log P(tk) read at the first mask

(one position earlier for a model that predicts `masked_next`). The rows of all requests are independent,
so they are batched by length, and equal rows are computed once: the first row is shared by all
continuations of a context. The score of `[SEP]` is not part of it.

Source: Samuel 2024, arXiv 2406.04823 (fill the first of several masks), as used by arXiv 2507.11412 for
its generative tasks; facts and differences in docs/evaluation.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from seqpair.errors import EvaluationError
from seqpair.evaluate.loaded import Ids, LoadedModel

MASKS = 3

Request = tuple[Sequence[int] | Ids, Sequence[int] | Ids]
"""A context's and a continuation's content ids; the context may be empty."""


class ContinuationScorer(Protocol):
    """Says how likely a continuation is."""

    def score(self, requests: Sequence[Request]) -> list[float]:
        """Return log P(continuation | context) of each request, in nats, summed over its tokens."""
        ...


class Embedder(Protocol):
    """Turns a text into a vector."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (n, D) vectors."""
        ...


def _checked(requests: Sequence[Request], max_tokens: int, added_tokens: int) -> list[tuple[Ids, Ids]]:
    """Return requests as arrays, contexts cut on the left so that the longest row fits."""
    checked = []
    for context, continuation in requests:
        before, after = np.asarray(context, dtype=np.int64), np.asarray(continuation, dtype=np.int64)
        room = max_tokens - added_tokens - len(after)
        if len(after) == 0 or room < 0:
            raise EvaluationError(
                "a continuation cannot be scored",
                seen=f"{len(after)} tokens",
                allowed=f"1 to {max_tokens - added_tokens} tokens",
            )
        checked.append((before[max(0, len(before) - room) :], after))
    return checked


class _Wanted:
    """Rows, each held once, and which token of which request is read where in them."""

    def __init__(self) -> None:
        self.rows: list[Ids] = []
        self._index: dict[bytes, int] = {}
        self._reads: list[list[tuple[int, int, int]]] = []

    def add(self, row: Ids, reads: Sequence[tuple[int, int, int]]) -> None:
        """Add a row; a read is (position in the row, token, request)."""
        key = row.tobytes()
        if key not in self._index:
            self._index[key] = len(self.rows)
            self.rows.append(row)
            self._reads.append([])
        self._reads[self._index[key]].extend(reads)

    def totals(self, model: LoadedModel, requests: int) -> list[float]:
        """Return the summed log-probabilities of the requests."""
        totals = np.zeros(requests, dtype=np.float64)
        for batch, states in model.states(self.rows):
            reads = [(place, *read) for place, index in enumerate(batch) for read in self._reads[index]]
            place, position, token, request = np.array(reads, dtype=np.int64).T
            spots, inverse = np.unique(np.stack([place, position]), axis=1, return_inverse=True)
            spot_places, spot_positions = torch.from_numpy(spots)
            table = model.log_probabilities(states[spot_places, spot_positions])  # (spots, V)
            values = table[torch.from_numpy(inverse.reshape(-1)), torch.from_numpy(token)]
            np.add.at(totals, request, values.double().numpy())
        return [float(total) for total in totals]


class EncoderScorer:
    """Scores by filling masks left to right."""

    def __init__(self, model: LoadedModel) -> None:
        """Take a bidirectional model."""
        self.model = model

    def score(self, requests: Sequence[Request]) -> list[float]:
        """Return the sum of log P(tk | context, t1 .. t(k-1)) of each request.

        Raises:
            EvaluationError: A continuation is empty or longer than the model can read.
        """
        model = self.model
        shift = 1 if model.predicts == "masked_next" else 0
        tail = [model.mask_id] * MASKS + [model.sep_id]
        wanted = _Wanted()
        for index, (context, continuation) in enumerate(_checked(requests, model.max_tokens, 1 + len(tail))):
            for done, token in enumerate(continuation):
                row = np.concatenate(([model.cls_id], context, continuation[:done], tail)).astype(np.int64)
                wanted.add(row, [(len(row) - len(tail) - shift, int(token), index)])
        return wanted.totals(model, len(requests))


class DecoderScorer:
    """Scores by one pass over `[CLS]` context continuation."""

    def __init__(self, model: LoadedModel) -> None:
        """Take a causal model."""
        self.model = model

    def score(self, requests: Sequence[Request]) -> list[float]:
        """Return the sum of log P(tk | context, t1 .. t(k-1)) of each request.

        Raises:
            EvaluationError: A continuation is empty or longer than the model can read.
        """
        wanted = _Wanted()
        for index, (context, continuation) in enumerate(_checked(requests, self.model.max_tokens, 1)):
            row = np.concatenate(([self.model.cls_id], context, continuation)).astype(np.int64)
            first = len(context)  # the output that predicts the continuation's first token
            wanted.add(row, [(first + done, int(token), index) for done, token in enumerate(continuation)])
        return wanted.totals(self.model, len(requests))


def scorer_of(model: LoadedModel) -> ContinuationScorer:
    """Return the scorer of a model's direction."""
    return EncoderScorer(model) if model.direction == "bidirectional" else DecoderScorer(model)


class MeanEmbedder:
    """The mean of the last hidden states over a text's own tokens, the same for both directions.

    The added `[CLS]` and `[SEP]` are read but not averaged: they differ between the members. A text
    without tokens has the state of `[CLS]`. Long texts are cut on the right.
    """

    def __init__(self, model: LoadedModel) -> None:
        """Take a model of either direction."""
        self.model = model

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (n, D) vectors, not normalised."""
        model = self.model
        room = model.max_tokens - len(model.wrap(np.empty(0, dtype=np.int64)))
        contents = [content[:room] for content in model.encode(texts)]
        rows = [model.wrap(content) for content in contents]
        vectors: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(rows)
        for batch, states in model.states(rows):
            for place, index in enumerate(batch):
                own = states[place, 1 : 1 + len(contents[index])] if len(contents[index]) else states[place, :1]
                vectors[index] = own.double().mean(0).float().numpy()
        return np.stack(vectors) if vectors else np.empty((0, model.model.config.hidden_size), dtype=np.float32)


def token_log_probabilities(model: LoadedModel, contents: Sequence[Ids]) -> list[NDArray[np.float32]]:
    """Return, for a causal model, the log-probability of every content token given those before it.

    Args:
        model: A causal model.
        contents: Content ids, one array a text; each at most `max_tokens` - 1 long.

    Returns:
        One (T,) array a text, in nats.
    """
    rows = [model.wrap(content) for content in contents]
    found: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(rows)
    for batch, states in model.states(rows):
        for place, index in enumerate(batch):
            targets = torch.from_numpy(contents[index])
            table = model.log_probabilities(states[place, : len(targets)])  # (T, V)
            found[index] = table.gather(1, targets[:, None])[:, 0].numpy()
    return found


def masked_predictions(
    model: LoadedModel, contents: Sequence[Ids], chosen: Sequence[NDArray[np.int64]], top: int = 1
) -> list[tuple[Ids, NDArray[np.float32]]]:
    """Mask the chosen tokens of each text and return the likeliest tokens there.

    Args:
        model: A bidirectional model.
        contents: Content ids, one array a text; each at most `max_tokens` - 2 long.
        chosen: For each text, which of its tokens are replaced by `[MASK]`, ascending.
        top: How many tokens to return.

    Returns:
        For each text, tokens (M, top) and their log-probabilities (M, top), likeliest first.
    """
    shift = 1 if model.predicts == "masked_next" else 0
    rows = []
    for content, places in zip(contents, chosen, strict=True):
        row = model.wrap(content)
        row[places + 1] = model.mask_id
        rows.append(row)
    found: list[tuple[Ids, NDArray[np.float32]]] = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(rows)
    for batch, states in model.states(rows):
        for place, index in enumerate(batch):
            spots = torch.from_numpy(chosen[index] + 1 - shift)
            best = model.log_probabilities(states[place, spots]).topk(top, dim=-1)
            found[index] = (best.indices.numpy(), best.values.numpy())
    return found
