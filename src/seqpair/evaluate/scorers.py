"""The two protocols through which every task sees a model: score a continuation, embed a text.

An encoder scores a continuation t1 .. tm left to right, one row a token, nothing to the right shown:

    [CLS] context t1 .. t(k-1) [MASK] [MASK] [MASK] [SEP]      log P(tk) read at the first mask

(one position earlier for a model that predicts `masked_next`). The rows of all requests are independent,
so they are batched by length, and equal rows are computed once: the first row is shared by all
continuations of a context. How many masks, what ends the row, and whether that is scored too, are
`ScoringOptions`.

Source: Samuel 2024, arXiv 2406.04823 (fill the first of several masks), as used by arXiv 2507.11412 for
its generative tasks; facts and differences in docs/evaluation.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from seqpair.errors import EvaluationError
from seqpair.evaluate.loaded import Ids, LoadedModel

POOLINGS = ("mean", "mean-all", "cls", "last", "default")
Part = str | Sequence[int] | Ids
Request = tuple[Part, Part]
"""A context and a continuation, each a text or content ids; the context may be empty."""


@dataclass(frozen=True)
class Score:
    """A continuation's score.

    Attributes:
        log_prob: log P(continuation | context), in nats, summed over its tokens.
        is_greedy: Whether every token scored is the model's likeliest at its place.
        tokens: How many tokens the continuation has.
    """

    log_prob: float
    is_greedy: bool
    tokens: int


@dataclass(frozen=True)
class ScoringOptions:
    """How an encoder reads a continuation.

    Attributes:
        masks: Masks after what is known; the first is read.
        end: What stands after the masks: `[SEP]`, a full stop, or nothing.
        score_end: Whether the end token counts as one more token of the continuation.
    """

    masks: int = 3
    end: Literal["sep", "period", "none"] = "sep"
    score_end: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be computed.

        Raises:
            EvaluationError: No mask, an unknown end, or an end to be scored that is not there.
        """
        if self.masks < 1:
            raise EvaluationError("an encoder scores at a mask", seen=f"masks {self.masks}", allowed="1 or more")
        if self.end not in ("sep", "period", "none"):
            raise EvaluationError("there is no such end token", seen=self.end, allowed="sep, period, none")
        if self.score_end and self.end == "none":
            raise EvaluationError("an end that is not there cannot be scored", seen="end none, score_end true")

    def as_json(self) -> dict[str, Any]:
        """Return the values as JSON."""
        return asdict(self)

    def end_ids(self, model: LoadedModel) -> list[int]:
        """Return the id of the end token, or nothing."""
        if self.end == "none":
            return []
        return [model.sep_id] if self.end == "sep" else [int(model.encode(["."])[0][-1])]


DEFAULT_SCORING = ScoringOptions()


class ContinuationScorer(Protocol):
    """Says how likely a continuation is."""

    def score(self, requests: Sequence[Request]) -> list[Score]:
        """Return the score of each request, in order."""
        ...


class Embedder(Protocol):
    """Turns a text into a vector."""

    def embed(self, texts: Sequence[str], pooling: str = "mean") -> NDArray[np.float32]:
        """Return (n, D) vectors."""
        ...


def encode_requests(model: LoadedModel, requests: Sequence[Request]) -> list[tuple[Ids, Ids]]:
    """Return requests as content ids; texts are tokenised together and cut where the context ends.

    Spaces at a context's end move to the continuation, since a token begins with its space. The continuation's
    ids are those of the whole text past as many tokens as the context alone has, as lm-eval does; where that
    leaves nothing, the continuation is tokenised alone.
    """
    texts = [index for index, (context, _) in enumerate(requests) if isinstance(context, str)]
    found: list[tuple[Ids, Ids]] = [(np.empty(0, np.int64), np.empty(0, np.int64))] * len(requests)
    pairs = []
    for index in texts:
        context, continuation = str(requests[index][0]), str(requests[index][1])
        bare = context.rstrip() if context.strip() else context
        pairs.append((bare, context[len(bare) :] + continuation))
    contexts, wholes = model.encode([a for a, _ in pairs]), model.encode([a + b for a, b in pairs])
    for index, (_, continuation), before, whole in zip(texts, pairs, contexts, wholes, strict=True):
        after = whole[len(before) :]
        found[index] = (before, after if len(after) else model.encode([continuation])[0])
    for index, (ids, continuation_ids) in enumerate(requests):
        if not isinstance(ids, str):
            found[index] = (np.asarray(ids, dtype=np.int64), np.asarray(continuation_ids, dtype=np.int64))
    return found


def _checked(model: LoadedModel, requests: Sequence[Request], added_tokens: int) -> list[tuple[Ids, Ids]]:
    """Return requests as ids, contexts cut on the left so that the longest row fits; cuts are counted."""
    checked = []
    for before, after in encode_requests(model, requests):
        room = model.max_tokens - added_tokens - len(after)
        if len(after) == 0 or room < 0:
            raise EvaluationError(
                "a continuation cannot be scored",
                seen=f"{len(after)} tokens",
                allowed=f"1 to {model.max_tokens - added_tokens} tokens",
            )
        model.truncated += len(before) > room
        checked.append((before[max(0, len(before) - room) :], after))
    return checked


class RowReads:
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

    def totals(self, model: LoadedModel, lengths: Sequence[int]) -> list[Score]:
        """Return the scores of the requests, whose continuations have so many tokens."""
        totals, greedy = np.zeros(len(lengths), dtype=np.float64), np.ones(len(lengths), dtype=bool)
        places = [np.unique([position for position, _, _ in reads]) for reads in self._reads]
        for batch, states in model.read_at(self.rows, places):
            table = model.log_probabilities(states).cpu()  # (spots, V)
            found, first = [], 0
            for index in batch:
                spot_of = {int(position): first + spot for spot, position in enumerate(places[index])}
                found += [(spot_of[position], token, request) for position, token, request in self._reads[index]]
                first += len(places[index])
            spot, token, request = np.array(found, dtype=np.int64).T
            best = table.argmax(-1).numpy()[spot]
            values = table[torch.from_numpy(spot), torch.from_numpy(token)]
            np.add.at(totals, request, values.double().numpy())
            np.logical_and.at(greedy, request, best == token)
        return [
            Score(float(total), bool(all_best), n) for total, all_best, n in zip(totals, greedy, lengths, strict=True)
        ]


class EncoderScorer:
    """Scores by filling masks left to right."""

    def __init__(self, model: LoadedModel, options: ScoringOptions = DEFAULT_SCORING) -> None:
        self.model, self.options = model, options

    def score(self, requests: Sequence[Request]) -> list[Score]:
        """Return the sum of log P(tk | context, t1 .. t(k-1)) of each request.

        Raises:
            EvaluationError: A continuation is empty or longer than the model can read.
        """
        model, end = self.model, self.options.end_ids(self.model)
        shift = 1 if model.predicts == "masked_next" else 0
        tail = [model.mask_id] * self.options.masks + end
        wanted = RowReads()
        checked = _checked(model, requests, 1 + len(tail) + self.options.score_end)
        for index, (context, continuation) in enumerate(checked):
            targets = [*continuation, *(end if self.options.score_end else [])]
            for done, token in enumerate(targets):
                row = np.concatenate(([model.cls_id], context, targets[:done], tail)).astype(np.int64)
                wanted.add(row, [(len(row) - len(tail) - shift, int(token), index)])
        return wanted.totals(model, [len(continuation) for _, continuation in checked])


class DecoderScorer:
    """Scores by one pass over `[CLS]` context continuation."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model

    def score(self, requests: Sequence[Request]) -> list[Score]:
        """Return the sum of log P(tk | context, t1 .. t(k-1)) of each request.

        Raises:
            EvaluationError: A continuation is empty or longer than the model can read.
        """
        wanted = RowReads()
        checked = _checked(self.model, requests, 1)
        for index, (context, continuation) in enumerate(checked):
            begin = self.model.begin(len(context))
            row = np.concatenate((begin, context, continuation)).astype(np.int64)
            first = len(begin) + len(context) - 1  # the output that predicts the continuation's first token
            wanted.add(row, [(first + done, int(token), index) for done, token in enumerate(continuation)])
        return wanted.totals(self.model, [len(continuation) for _, continuation in checked])


def scorer_of(model: LoadedModel, options: ScoringOptions = DEFAULT_SCORING) -> ContinuationScorer:
    """Return the scorer of a model's direction; the options are an encoder's."""
    return EncoderScorer(model, options) if model.direction == "bidirectional" else DecoderScorer(model)


class TextEmbedder:
    """Pooled last hidden states; long texts are cut on the right, and the cuts counted.

    `mean` is over the text's own tokens, the same for both directions: the added `[CLS]` and `[SEP]` are read but
    not averaged, since they differ between the members; a text without tokens has the state of its beginning.
    `cls` and `last` are the first and the last token of the row, `mean-all` all of them, and `default` is what
    sentence-transformers takes by default: `mean-all` for an encoder, `last` for a decoder.
    """

    def __init__(self, model: LoadedModel) -> None:
        self.model = model

    def embed(self, texts: Sequence[str], pooling: str = "mean") -> NDArray[np.float32]:
        """Return (n, D) vectors, not normalised.

        Raises:
            EvaluationError: There is no such pooling.
        """
        model = self.model
        if pooling not in POOLINGS:
            raise EvaluationError("there is no pooling of this name", seen=repr(pooling), allowed=", ".join(POOLINGS))
        if pooling == "default":
            pooling = "mean-all" if model.direction == "bidirectional" else "last"
        room = model.max_tokens - 1 - len(model.ends())
        whole = model.encode(texts)
        model.truncated += sum(len(content) > room for content in whole)
        contents = [content[:room] for content in whole]
        rows = [model.wrap(content) for content in contents]
        vectors: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(rows)
        for batch, states in model.states(rows):
            for place, index in enumerate(batch):
                length, begin = len(rows[index]), len(model.begin(len(contents[index])))
                spans = {"cls": slice(0, 1), "last": slice(length - 1, length), "mean-all": slice(0, length)}
                own = slice(begin, begin + len(contents[index])) if len(contents[index]) else slice(0, 1)
                vectors[index] = states[place, spans.get(pooling, own)].double().mean(0).float().cpu().numpy()
        return np.stack(vectors) if vectors else np.empty((0, model.model.config.hidden_size), dtype=np.float32)


def token_log_probabilities(model: LoadedModel, contents: Sequence[Ids]) -> list[NDArray[np.float32]]:
    """Return, for a causal model, the log-probability of every content token given those before it.

    Args:
        model: A causal model.
        contents: Content ids, one array a text; each at most `max_tokens` - 1 long.

    Returns:
        One (T,) array a text, in nats.
    """
    rows = [np.concatenate(([model.cls_id], content)).astype(np.int64) for content in contents]
    found: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(rows)
    for batch, states in model.read_at(rows, [np.arange(len(content)) for content in contents]):
        for index, own in zip(batch, states.split([len(contents[i]) for i in batch]), strict=True):
            targets = torch.from_numpy(contents[index])
            table = model.log_probabilities(own).cpu()  # (T, V)
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
    for batch, states in model.read_at(rows, [places + 1 - shift for places in chosen]):
        for index, own in zip(batch, states.split([len(chosen[i]) for i in batch]), strict=True):
            best = model.log_probabilities(own).cpu().topk(top, dim=-1)
            found[index] = (best.indices.numpy(), best.values.numpy())
    return found
