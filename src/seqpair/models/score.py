"""How likely a model finds text: continuations of a context, whole texts, and what stands at a mask.

An encoder scores a continuation t1 .. tm left to right, one row a token, nothing to the right shown:

    [CLS] context t1 .. t(k-1) [MASK] [MASK] [MASK] [SEP]      log P(tk) read at the first mask

(one position earlier for a model that predicts `masked_next`). The rows of all requests are independent,
so they are batched by length, and equal rows are computed once: the first row is shared by all
continuations of a context. How many masks, what ends the row, and whether that is scored too, are
`ScoringOptions`. A decoder needs one row: `[CLS]` context continuation.

A pseudo-log-likelihood shows all of a text but what is hidden. `plain` hides one token at a time: the other pieces of
a word then give the hidden piece away, so long words look likely; `word_left_to_right` hides a token together with the
later tokens of its word. Neither is a probability of the text: every token sees its future.

Source: Samuel 2024, arXiv 2406.04823 (fill the first of several masks), as used by arXiv 2507.11412 for its generative
tasks; facts and differences in docs/evaluation.md. Salazar et al. 2020, arXiv 1910.14659 (plain); Kauf and Ivanova
2023, arXiv 2305.10588 (within words from left to right). Words are those of the tokenizer's own first splitting.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from seqpair.counter import hash_words, key_words
from seqpair.errors import EvaluationError
from seqpair.models.forward import Ids
from seqpair.models.text_model import TextModel

Part = str | Sequence[int] | Ids
Request = tuple[Part, Part]
"""A context and a continuation, each a text or content ids; the context may be empty."""
MOST_MASKS = 64
"""Masks after what is known: a row of more would hold little else."""
PseudoForm = Literal["plain", "word_left_to_right"]


@dataclass(frozen=True)
class Score:
    """A continuation's score.

    Attributes:
        log_prob: log P(continuation | context), in nats, summed over its tokens.
        is_greedy: Whether every token scored is the model's likeliest at its place.
        tokens: How many tokens the continuation has.
        truncated: Whether the context was cut on the left, so that the row fits the model.
    """

    log_prob: float
    is_greedy: bool
    tokens: int
    truncated: bool = False


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
            EvaluationError: No mask or too many, an unknown end, or an end to be scored that is not there.
        """
        if not 1 <= self.masks <= MOST_MASKS:
            raise EvaluationError(
                "an encoder cannot score with this many masks", seen=f"masks {self.masks}", allowed=f"1 to {MOST_MASKS}"
            )
        if self.end not in ("sep", "period", "none"):
            raise EvaluationError("there is no such end token", seen=self.end, allowed="sep, period, none")
        if self.score_end and self.end == "none":
            raise EvaluationError(
                "an end that is not there cannot be scored",
                seen="end none, score_end true",
                fix="set `score_end` to false, or choose another end",
            )

    def as_json(self) -> dict[str, Any]:
        """Return the values as JSON."""
        return asdict(self)

    def end_ids(self, model: TextModel) -> list[int]:
        """Return the id of the end token, or nothing."""
        if self.end == "none":
            return []
        return [model.sep_id] if self.end == "sep" else [int(model.encode(["."])[0][-1])]


DEFAULT_SCORING = ScoringOptions()


def score_continuations(
    model: TextModel, requests: Sequence[Request], options: ScoringOptions = DEFAULT_SCORING
) -> list[Score]:
    """Return the sum of log P(tk | context, t1 .. t(k-1)) of each request, in order.

    A context too long for the model is cut on the left; its score says so.

    Args:
        model: A model of either direction.
        requests: Contexts and continuations.
        options: An encoder's masks and end token.

    Raises:
        EvaluationError: A continuation is empty or longer than the model can read, or the model has no head.
    """
    encoder = model.direction == "bidirectional"
    end = options.end_ids(model) if encoder else []
    tail = [model.mask_id] * options.masks + end if encoder else []
    added_tokens = 1 + len(tail) + options.score_end if encoder else 1
    wanted, lengths, cuts = RowReads(), [], []
    for index, (whole, continuation) in enumerate(encode_requests(model, requests)):
        room = model.max_tokens - added_tokens - len(continuation)
        if len(continuation) == 0 or room < 0:
            raise EvaluationError(
                "a continuation cannot be scored",
                seen=f"{len(continuation)} tokens",
                allowed=f"1 to {model.max_tokens - added_tokens} tokens",
            )
        context = whole[max(0, len(whole) - room) :]
        lengths.append(len(continuation))
        cuts.append(len(whole) > room)
        if not encoder:
            begin = model.begin(len(context))
            row = np.concatenate((begin, context, continuation)).astype(np.int64)
            first = len(begin) + len(context) - 1  # the output that predicts the continuation's first token
            wanted.add(row, [(first + done, int(token), index) for done, token in enumerate(continuation)])
            continue
        targets = [*continuation, *(end if options.score_end else [])]
        for done, token in enumerate(targets):
            row = np.concatenate(([model.cls_id], context, targets[:done], tail)).astype(np.int64)
            wanted.add(row, [(len(row) - len(tail) - model.shift, int(token), index)])
    return wanted.totals(model, lengths, cuts)


def encode_requests(model: TextModel, requests: Sequence[Request]) -> list[tuple[Ids, Ids]]:
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

    def totals(self, model: TextModel, lengths: Sequence[int], cuts: Sequence[bool] = ()) -> list[Score]:
        """Return the scores of the requests, whose continuations have so many tokens and whose contexts were cut."""
        totals, greedy = np.zeros(len(lengths), dtype=np.float64), np.ones(len(lengths), dtype=bool)
        places = [np.unique([position for position, _, _ in reads]) for reads in self._reads]
        for batch, states in model.read_at(self.rows, places):
            table = model.log_probabilities(states).cpu()  # (spots, V)
            found, first = [], 0  # (row of the table, token, request) of all that is read in this batch
            for index in batch:
                spot_of = {int(position): first + spot for spot, position in enumerate(places[index])}
                found += [(spot_of[position], token, request) for position, token, request in self._reads[index]]
                first += len(places[index])
            spot, token, request = np.array(found, dtype=np.int64).T
            best = table.argmax(-1).numpy()[spot]
            values = table[torch.from_numpy(spot), torch.from_numpy(token)]
            # A request may be read at many places of one batch: `+=` would count an index that repeats only once.
            np.add.at(totals, request, values.double().numpy())
            np.logical_and.at(greedy, request, best == token)
        cuts = cuts or [False] * len(lengths)
        return [
            Score(float(total), bool(all_best), tokens, cut)
            for total, all_best, tokens, cut in zip(totals, greedy, lengths, cuts, strict=True)
        ]


def pseudo_log_likelihoods(model: TextModel, texts: Sequence[str], form: PseudoForm) -> list[Score]:
    """Return each text's sum of log P(token | the tokens that are not hidden with it).

    Args:
        model: An encoder.
        texts: Texts that fit the model whole.
        form: Which tokens are hidden together.

    Raises:
        EvaluationError: The model is a decoder, or a text has no token or too many.
    """
    if model.direction != "bidirectional":
        raise EvaluationError(
            "only an encoder has pseudo-log-likelihoods",
            seen=f"{model.name}: a decoder",
            fix="score it with `score_continuations`",
        )
    encoded = model.tokenizer(list(texts), add_special_tokens=False, verbose=False)
    wanted, lengths = RowReads(), []
    for index, ids in enumerate(encoded["input_ids"]):
        content = np.asarray(ids, dtype=np.int64)
        if not 1 <= len(content) <= model.max_tokens - 2:
            raise EvaluationError(
                "a text has no pseudo-log-likelihood",
                seen=f"{len(content)} tokens: {texts[index][:60]!r}",
                allowed=f"1 to {model.max_tokens - 2} tokens",
            )
        lengths.append(len(content))
        words = encoded.word_ids(index)
        row = model.wrap(content)
        begin = len(model.begin(len(content)))
        for place, token in enumerate(content):
            hidden = row.copy()
            hidden[begin + place] = model.mask_id
            if form == "word_left_to_right":
                later = place + 1
                while later < len(content) and words[later] is not None and words[later] == words[place]:
                    hidden[begin + later] = model.mask_id
                    later += 1
            wanted.add(hidden, [(begin + place - model.shift, int(token), index)])
    return wanted.totals(model, lengths)


def token_log_probabilities(model: TextModel, contents: Sequence[Ids]) -> list[NDArray[np.float32]]:
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
        for index, own in zip(batch, torch.split(states, [len(contents[i]) for i in batch]), strict=True):
            targets = torch.from_numpy(contents[index])
            table = model.log_probabilities(own).cpu()  # (T, V)
            found[index] = table.gather(1, targets[:, None])[:, 0].numpy()
    return found


def masked_predictions(
    model: TextModel, contents: Sequence[Ids], chosen: Sequence[NDArray[np.int64]], top: int = 1
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
    found: list[tuple[Ids, NDArray[np.float32]]] = [(np.empty(0, np.int64), np.empty(0, np.float32))] * len(contents)
    for index, table in _masked_tables(model, contents, chosen):
        table[:, model.empty_ids] = -torch.inf
        best = table.topk(top, dim=-1)
        found[index] = (best.indices.numpy(), best.values.numpy())
    return found


def masked_log_probabilities(
    model: TextModel, contents: Sequence[Ids], chosen: Sequence[NDArray[np.int64]]
) -> list[NDArray[np.float32]]:
    """Mask the chosen tokens of each text and return the log-probabilities (M,), in nats, of what stood there.

    The arguments are those of `masked_predictions`.
    """
    found: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(contents)
    for index, table in _masked_tables(model, contents, chosen):
        hidden = torch.from_numpy(contents[index][chosen[index]])
        found[index] = table.gather(1, hidden[:, None])[:, 0].numpy()
    return found


def _masked_tables(
    model: TextModel, contents: Sequence[Ids], chosen: Sequence[NDArray[np.int64]]
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield each text's index and the log-probabilities (M, V) of every token at its masks."""
    rows = []
    for content, places in zip(contents, chosen, strict=True):
        row = model.wrap(content)
        row[places + 1] = model.mask_id
        rows.append(row)
    for batch, states in model.read_at(rows, [places + 1 - model.shift for places in chosen]):
        for index, own in zip(batch, torch.split(states, [len(chosen[i]) for i in batch]), strict=True):
            yield index, model.log_probabilities(own).cpu()


def likelihood_bounds(
    model: TextModel, contents: Sequence[Ids], names: Sequence[str], draws: int
) -> NDArray[np.float64]:
    """Return estimates, in nats, of a bound that the negative log-likelihood of each text is never above.

    A bidirectional model generates a text of a given length by unmasking its tokens in an order chosen uniformly at
    random. With T tokens, a uniform k in 1 .. T and a uniform set of k masks, (T / k) sum -log P(masked token) has
    the expectation E_order[-log P(text | order)], which is at least -log P(text).

    Args:
        model: A bidirectional model.
        contents: Content ids, one array per text, none empty; each at most `max_tokens` - 2 long.
        names: A name for each text; its masks are a hash of it and of the draw.
        draws: Masks per text. Draw j takes its k from the j-th of as many equal parts of 1 .. T.

    Returns:
        (texts, draws); each row's mean is unbiased.

    Source: arXiv 2502.09992, equation 6; the order-agnostic form is that of arXiv 1310.1757.
    Differs: k is stratified over the draws.
    """
    chosen = []
    for content, name in zip(contents, names, strict=True):
        for draw in range(draws):
            words = hash_words(key_words("likelihood bound", name, draw), np.arange(1 + len(content), dtype=np.int64))
            k = 1 + int(len(content) * (draw + float(words[0]) / 2**32) / draws)
            chosen.append(np.sort(np.argsort(words[1:], kind="stable")[:k]))
    repeated = [content for content in contents for _ in range(draws)]
    found = masked_log_probabilities(model, repeated, chosen)
    sums = np.array([float(hidden.sum(dtype="float64")) for hidden in found])
    scales = np.array([len(content) / len(hidden) for content, hidden in zip(repeated, chosen, strict=True)])
    return (-scales * sums).reshape(len(contents), draws)
