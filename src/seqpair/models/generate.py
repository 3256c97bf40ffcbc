"""Continuing texts, for decoders and encoders alike.

A decoder keeps its past in a cache: ours in its own, a model of transformers in the library's, where prompts of equal
length run together without padding, so that a text does not depend on its neighbours. An encoder fills the first of
several masks, puts the token there, and goes on; or it starts from as many masks as tokens are wanted and fills the
surest ones at each step. Every step is a new row, since the states of a bidirectional model change with each token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from seqpair.errors import EvaluationError
from seqpair.models.forward import Ids
from seqpair.models.score import DEFAULT_SCORING, ScoringOptions
from seqpair.models.text_model import TextModel
from seqpair.nn.decode.cached_decoder import CachedDecoder
from seqpair.nn.decode.generate import BATCH_ROWS, Continuation, Sampling, choose_tokens, generate

DEFAULT_NEW_TOKENS = 64
Watch = Callable[[int], None]


@dataclass(frozen=True)
class ContinuedText:
    """A prompt and what the model adds.

    Attributes:
        prompt: The text given.
        text: The text added.
        ids: Its token ids, without `[SEP]`.
        prompt_tokens: Tokens of the prompt, `[CLS]` included.
        stopped: `stop`: the model ended the text with `[SEP]`; `length`: it was cut.
    """

    prompt: str
    text: str
    ids: list[int]
    prompt_tokens: int
    stopped: str

    def as_json(self) -> dict[str, Any]:
        """Return the values as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Unmasking:
    """How an encoder fills the masks behind a prompt.

    Attributes:
        tokens_per_step: Masks filled by one forward pass, the surest first.
        block_tokens: Masks are filled block by block from left to right, each of this many tokens; null for one block.
    """

    tokens_per_step: int = 1
    block_tokens: int | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            EvaluationError: One of them is below 1.
        """
        for name, value in (("tokens per step", self.tokens_per_step), ("tokens per block", self.block_tokens)):
            if value is not None and value < 1:
                raise EvaluationError(f"this many {name} cannot be filled", seen=value, allowed="1 or more")


@dataclass(frozen=True)
class CompletedTexts:
    """What a model added to each prompt, and how many prompts were cut on the left so that it had room."""

    texts: list[str]
    truncated: int


def continue_texts(
    model: TextModel,
    prompts: Sequence[str],
    max_new_tokens: int = DEFAULT_NEW_TOKENS,
    sampling: Sampling | None = None,
    *,
    unmasking: Unmasking | None = None,
    batch_rows: int = BATCH_ROWS,
    watch: Watch | None = None,
) -> list[ContinuedText]:
    """Continue texts: with a decoder up to its end token, with an encoder by exactly so many tokens.

    Args:
        model: A model of either direction.
        prompts: The texts; an empty one begins at `[CLS]`.
        max_new_tokens: Most tokens to add; the length the model was trained on may allow fewer.
        sampling: How tokens are chosen; by default the likeliest.
        unmasking: How an encoder fills its masks; for a decoder it must be left out.
        batch_rows: Prompts that a decoder continues at once.
        watch: Called after every step with the tokens made so far.

    Raises:
        EvaluationError: A prompt leaves no room, no new token is asked for, or a decoder is asked to fill masks.
    """
    contents = model.encode(prompts)
    if model.direction == "bidirectional":
        _require_room(model, contents, max_new_tokens)
        found = _unmask(model, contents, max_new_tokens, sampling or Sampling(), unmasking or Unmasking(), watch)
    elif unmasking is not None:
        raise EvaluationError(
            "only an encoder fills masks",
            seen=f"{model.name}: a decoder",
            fix="leave out the tokens per step and per block",
        )
    else:
        found = continue_contents(model, contents, max_new_tokens, sampling, batch_rows=batch_rows, watch=watch)
    return [
        ContinuedText(
            prompt,
            model.decode(made.ids, skip_specials=True),
            made.ids,
            len(model.begin(len(content))) + len(content),
            made.stopped,
        )
        for prompt, content, made in zip(prompts, contents, found, strict=True)
    ]


def continue_contents(
    model: TextModel,
    contents: Sequence[Ids],
    max_new_tokens: int,
    sampling: Sampling | None = None,
    *,
    batch_rows: int = BATCH_ROWS,
    watch: Watch | None = None,
) -> list[Continuation]:
    """Continue content ids as `continue_texts` does: `[CLS]` before them, never past the trained length.

    Raises:
        EvaluationError: The model is an encoder, a prompt leaves no room, or no new token is asked for.
    """
    if model.direction != "causal":
        raise EvaluationError(
            "only a decoder can continue a text",
            seen=f"{model.name}: a bidirectional model",
            allowed="a decoder, or a member last trained with clm (or hybrid, with --as clm)",
            fix="continue texts with `continue_texts`, which fills masks for an encoder",
        )
    _require_room(model, contents, max_new_tokens)
    return _decode(model, contents, max_new_tokens, sampling or Sampling(), None, batch_rows, watch)


def _require_room(model: TextModel, contents: Sequence[Ids], max_new_tokens: int) -> None:
    """Check that every prompt can get a token.

    Raises:
        EvaluationError: A prompt leaves no room, or no new token is asked for.
    """
    if max_new_tokens < 1:
        raise EvaluationError("this many new tokens cannot be made", seen=max_new_tokens, allowed="1 or more")
    for number, content in enumerate(contents):
        room = model.max_tokens - 1 - len(model.ends())
        if len(content) >= room:
            raise EvaluationError(
                f"prompt {number} leaves no room in what the model was trained on",
                seen=f"{len(content)} tokens",
                allowed=f"at most {room - 1}",
                fix="shorten it",
            )


def complete_texts(
    model: TextModel,
    prompts: Sequence[str],
    stop: Sequence[str] = (),
    max_new_tokens: int = DEFAULT_NEW_TOKENS,
    options: ScoringOptions = DEFAULT_SCORING,
) -> CompletedTexts:
    """Return what a model of either direction adds greedily to each prompt, cut before the first stop string.

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
    whole = model.encode(prompts)
    contents = [content[max(0, len(content) - room) :] for content in whole]
    strings = [text for text in stop if text]

    def is_done(ids: Sequence[int]) -> bool:
        text = model.decode(ids) if strings else ""
        return any(string in text for string in strings)

    if model.direction == "bidirectional":
        made = _fill_on(model, contents, is_done, max_new_tokens, options)
    else:
        made = [found.ids for found in _decode(model, contents, max_new_tokens, Sampling(), is_done)]
    texts = []
    for ids in made:
        text = model.decode(ids)
        texts.append(text[: min([text.find(string) for string in strings if string in text], default=len(text))])
    return CompletedTexts(texts, sum(len(content) > room for content in whole))


def _decode(
    model: TextModel,
    contents: Sequence[Ids],
    max_new_tokens: int,
    sampling: Sampling,
    is_done: Callable[[Sequence[int]], bool] | None,
    batch_rows: int = BATCH_ROWS,
    watch: Watch | None = None,
) -> list[Continuation]:
    prompts = [[*model.begin(len(content)), *content.tolist()] for content in contents]
    limits = [min(max_new_tokens, model.max_tokens - len(prompt)) for prompt in prompts]
    if model.native is None:
        sampling = replace(sampling, never=tuple(model.empty_ids))
        return _decode_by_transformers(model, prompts, limits, sampling, is_done, batch_rows, watch)
    return generate(
        CachedDecoder(model.native.model, model.native.rope, never=model.empty_ids),
        prompts,
        limits,
        stop_ids=[model.sep_id],
        is_done=is_done,
        sampling=sampling,
        batch_rows=batch_rows,
        watch=watch,
    )


@torch.no_grad()
def _decode_by_transformers(
    model: TextModel,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    sampling: Sampling,
    is_done: Callable[[Sequence[int]], bool] | None,
    batch_rows: int,
    watch: Watch | None,
) -> list[Continuation]:
    found = [Continuation([]) for _ in prompts]
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(index)
    groups = [same[at : at + batch_rows] for same in by_length.values() for at in range(0, len(same), batch_rows)]
    for group in groups:
        inputs, cache = torch.tensor([prompts[index] for index in group], device=model.device), None
        numbers, running = torch.tensor(group, device=model.device), set(range(len(group)))
        for step in range(max(limits[index] for index in group)):
            out = model.network(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, chosen = out.past_key_values, choose_tokens(out.logits[:, -1].float(), sampling, numbers, step)
            for place, token in enumerate(chosen.tolist()):
                own = found[group[place]]
                if place not in running:
                    continue
                if token == model.sep_id:
                    own.stopped, own.stop_id = "stop", token
                else:
                    own.ids.append(token)
                if own.stop_id is not None or len(own.ids) >= limits[group[place]] or (is_done and is_done(own.ids)):
                    running.discard(place)
            if watch is not None:
                watch(sum(len(own.ids) for own in found))
            if not running:
                break
            inputs = chosen[:, None]
    return found


def _fill_on(
    model: TextModel,
    contents: Sequence[Ids],
    is_done: Callable[[Sequence[int]], bool],
    limit: int,
    options: ScoringOptions,
) -> list[list[int]]:
    made: list[list[int]] = [[] for _ in contents]
    tail = [model.mask_id] * options.masks + options.end_ids(model)
    running = list(range(len(contents)))
    for _ in range(limit):
        rows = [np.array([model.cls_id, *contents[i], *made[i], *tail], dtype=np.int64) for i in running]
        first_masks = [np.array([len(row) - len(tail) - model.shift]) for row in rows]
        chosen: dict[int, int] = {}
        for batch, readings in model.read_at(rows, first_masks):
            table = model.log_probabilities(readings)
            table[:, model.empty_ids] = -torch.inf
            best = table.argmax(-1).tolist()
            chosen |= {running[place]: token for place, token in zip(batch, best, strict=True)}
        for index, token in chosen.items():
            made[index] += [] if token == model.sep_id else [token]
        running = [index for index in running if chosen[index] != model.sep_id and not is_done(made[index])]
        if not running:
            break
    return made


def _unmask(
    model: TextModel,
    contents: Sequence[Ids],
    max_new_tokens: int,
    sampling: Sampling,
    unmasking: Unmasking,
    watch: Watch | None,
) -> list[Continuation]:
    """Fill masks behind each prompt, at every step those whose chosen token has the highest probability.

    Source: arXiv 2502.09992, section 2.4 (low-confidence remasking, and blocks from left to right).
    """
    rows, first, open_places = [], [], []
    for content in contents:
        begin = [*model.begin(len(content)), *content.tolist()]
        count = min(max_new_tokens, model.max_tokens - len(begin) - len(model.ends()))
        rows.append(np.array([*begin, *[model.mask_id] * count, *model.ends()], dtype=np.int64))
        first.append(len(begin))
        open_places.append(np.arange(len(begin), len(begin) + count))
    stops = [int(places[-1]) + 1 for places in open_places]
    size = unmasking.block_tokens or model.max_tokens
    step = 0
    while running := [index for index, places in enumerate(open_places) if places.size]:
        asked = []
        for index in running:
            blocks = (open_places[index] - first[index]) // size
            asked.append(open_places[index][blocks == blocks[0]])
        for batch, readings in model.read_at([rows[i] for i in running], [places - model.shift for places in asked]):
            places = [asked[k] for k in batch]
            # A token's draw is keyed by its text and place, so it does not depend on what is computed together.
            keys = np.concatenate([running[k] * model.max_tokens + asked[k] for k in batch])
            chosen, sureness = _choose_for_masks(model, model.log_probabilities(readings), sampling, keys, step)
            cuts = np.cumsum([len(own) for own in places])[:-1]
            split = zip(batch, places, np.split(chosen, cuts), np.split(sureness, cuts), strict=True)
            for k, own, tokens, sure in split:
                best = np.argsort(-sure, kind="stable")[: unmasking.tokens_per_step]
                rows[running[k]][own[best]] = tokens[best]
                open_places[running[k]] = np.setdiff1d(open_places[running[k]], own[best])
        step += 1
        if watch is not None:
            watch(sum(stop - begin - len(left) for stop, begin, left in zip(stops, first, open_places, strict=True)))
    return [Continuation(row[begin:stop].tolist()) for row, begin, stop in zip(rows, first, stops, strict=True)]


def _choose_for_masks(
    model: TextModel, log_probs: torch.Tensor, sampling: Sampling, keys: Ids, step: int
) -> tuple[Ids, NDArray[np.float32]]:
    """Return a token for each row of log-probabilities, and the logarithm of the model's probability for it."""
    # A mask among the tokens would be filled again and again, and no other special token was ever a target.
    log_probs[:, [model.cls_id, model.sep_id, model.mask_id, model.pad_id, *model.empty_ids]] = -torch.inf
    chosen = choose_tokens(log_probs, sampling, torch.from_numpy(keys).to(log_probs.device), step)
    sureness = log_probs.gather(1, chosen.to(log_probs.device)[:, None])[:, 0]
    return chosen.cpu().numpy(), sureness.cpu().numpy()
