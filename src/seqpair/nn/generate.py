"""Continuing prompts with a causal model, many at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from seqpair.errors import SeqpairError
from seqpair.nn.cache import KeyValueCache
from seqpair.nn.cached_decoder import CachedDecoder
from seqpair.nn.sampling import Sampling, choose_tokens

BATCH_ROWS = 32
CHUNK_TOKENS = 2048


@dataclass
class Continuation:
    """What follows a prompt.

    Attributes:
        ids: The new ids, without the stop id that ended them.
        stopped: `stop` (a stop id came), or `length` (as many tokens as were allowed).
        stop_id: The stop id that came.
    """

    ids: list[int]
    stopped: Literal["stop", "length"] = "length"
    stop_id: int | None = None


@torch.inference_mode()
def generate(
    decoder: CachedDecoder,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: Sequence[int] | int,
    *,
    stop_ids: Collection[int] = (),
    is_done: Callable[[Sequence[int]], bool] | None = None,
    sampling: Sampling | None = None,
    batch_rows: int = BATCH_ROWS,
    chunk_tokens: int = CHUNK_TOKENS,
    watch: Callable[[int], None] | None = None,
) -> list[Continuation]:
    """Continue prompts, token after token.

    A prompt's continuation does not depend on the prompts beside it (beyond float error in its logits), on
    `batch_rows` or on `chunk_tokens`.

    Args:
        decoder: The model.
        prompts: Token ids with specials, each at least one.
        max_new_tokens: Most tokens to add, for all prompts or for each.
        stop_ids: Ids that end a continuation.
        is_done: Says after every token whether a continuation, these new ids, is at its end.
        sampling: How tokens are chosen; by default the likeliest.
        batch_rows: Prompts continued at once; those of similar length go together.
        chunk_tokens: Most prompt tokens computed at once.
        watch: Called after every step with how many tokens there are by now.

    Returns:
        One continuation a prompt, in their order.

    Raises:
        SeqpairError: A prompt is empty or holds an id that the model does not have.
    """
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else list(max_new_tokens)
    _require_usable(prompts, limits, decoder.plan.vocab_size)
    results = [Continuation([]) for _ in prompts]
    order = sorted((n for n in range(len(prompts)) if limits[n] > 0), key=lambda n: (-len(prompts[n]), n))
    made = 0
    for begin in range(0, len(order), batch_rows):
        batch = order[begin : begin + batch_rows]
        before = made
        for made_here in _generate_batch(
            decoder, prompts, batch, limits, frozenset(stop_ids), is_done, sampling or Sampling(), chunk_tokens, results
        ):
            made = before + made_here
            if watch is not None:
                watch(made)
    return results


def _require_usable(prompts: Sequence[Sequence[int]], limits: Sequence[int], entries: int) -> None:
    for number, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
        if len(prompt) == 0:
            raise SeqpairError(f"prompt {number} is empty", allowed="one token or more, such as [CLS]")
        if not 0 <= int(min(prompt)) <= int(max(prompt)) < entries:
            raise SeqpairError(
                f"prompt {number} holds an id that the model does not have",
                seen=f"ids {min(prompt)} to {max(prompt)}",
                allowed=f"0 to {entries - 1}",
            )
        if limit < 0:
            raise SeqpairError("this many new tokens cannot be made", seen=limit, allowed="0 or more")


def _generate_batch(
    decoder: CachedDecoder,
    prompts: Sequence[Sequence[int]],
    batch: Sequence[int],
    limits: Sequence[int],
    stop_ids: Collection[int],
    is_done: Callable[[Sequence[int]], bool] | None,
    sampling: Sampling,
    chunk_tokens: int,
    results: Sequence[Continuation],
) -> Iterator[int]:
    """Continue the prompts of a batch, longest first, into `results`; yield the tokens made, step after step."""
    device = decoder.table.device
    rows = [torch.as_tensor(prompts[number], dtype=torch.int64, device=device) for number in batch]
    # The last token chosen is never read, so the cache needs no column for it.
    room = max(limits[number] for number in batch) - 1
    cache = KeyValueCache(decoder.plan, [len(row) for row in rows], room, decoder.table)
    states = decoder.read_prompts(cache, rows, chunk_tokens)
    running = list(batch)
    numbers = torch.tensor(running, device=device)
    step = made = 0
    chosen: list[int] = choose_tokens(decoder.logits(states), sampling, numbers, step).tolist()
    likeliest: Iterator[int] | None = None
    while True:
        going = []
        for place, (number, token) in enumerate(zip(running, chosen, strict=True)):
            result = results[number]
            if token in stop_ids:
                result.stopped, result.stop_id = "stop", token
                continue
            result.ids.append(token)
            made += 1
            if len(result.ids) < limits[number] and not (is_done and is_done(result.ids)):
                going.append(place)
        yield made
        if not going:
            return
        if len(going) < len(running):
            running, chosen = [running[place] for place in going], [chosen[place] for place in going]
            numbers = numbers[torch.tensor(going, device=device)]
            cache.keep_rows(going)
        step += 1
        if likeliest is None and sampling.greedy and len(running) == 1:
            likeliest = decoder.likeliest_tokens(cache, chosen[0])
        if likeliest is not None:
            chosen = [next(likeliest)]
            continue
        states = decoder.read_tokens(cache, torch.tensor(chosen, device=device))
        chosen = choose_tokens(decoder.logits(states), sampling, numbers, step).tolist()
