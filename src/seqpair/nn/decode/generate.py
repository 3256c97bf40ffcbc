"""Continuing prompts with a causal model, many at a time, by the likeliest tokens or by sampled ones.

A sampled token is a hash of (seed, the prompt's number, the token's number): it depends neither on the batch a prompt
is in, nor on the device, nor on any global generator.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from seqpair.counter import hash_words, key_words
from seqpair.errors import SeqpairError
from seqpair.nn.decode.cache import KeyValueCache
from seqpair.nn.decode.cached_decoder import CachedDecoder
from seqpair.text import checked_number

BATCH_ROWS = 32
CHUNK_TOKENS = 2048

FIRST_CANDIDATES = 1024
"""Candidates that top-p looks at before it sorts the whole vocabulary: almost always enough."""

ARGMAX_BLOCK = 64


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: What logits are divided by; 0 takes the likeliest token.
        top_k: Draw among this many likeliest tokens only.
        top_p: Then draw among the fewest likeliest tokens whose probabilities sum to at least this.
        seed: The key of the draws.
        never: Ids that are never chosen: the vocabulary's rows that have no token.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    never: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SeqpairError: One of them makes no sense, or has no effect because tokens are not drawn.
        """
        number = isinstance(self.temperature, int | float) and not isinstance(self.temperature, bool)
        if not number or not 0.0 <= self.temperature < float("inf"):
            raise SeqpairError(
                "the temperature is not a number of 0 or more",
                seen=self.temperature,
                allowed="0 (the likeliest token) or more",
            )
        if self.top_k is not None and self.top_k < 1:
            raise SeqpairError("top-k keeps no token", seen=self.top_k, allowed="1 or more")
        if self.top_p is not None and not 0.0 < self.top_p <= 1.0:
            raise SeqpairError("top-p is not a probability", seen=self.top_p, allowed="above 0, at most 1")
        checked_number(self.seed, "a seed", 0)
        if self.greedy and (self.top_k is not None or self.top_p is not None):
            raise SeqpairError(
                "top-k and top-p have no effect on the likeliest token",
                seen=f"temperature 0, top-k {self.top_k}, top-p {self.top_p}",
                fix="set a temperature above 0, or leave them out",
            )

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature == 0.0


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


def choose_tokens(logits: Tensor, sampling: Sampling, prompts: Tensor, step: int) -> Tensor:
    """Return the next token of each row.

    Args:
        logits: (B, V).
        sampling: How to choose.
        prompts: (B,) int64 the prompts' numbers, part of a draw's key.
        step: How many tokens were chosen before this one.

    Returns:
        (B,) int64 ids.
    """
    if sampling.never:
        logits = logits.index_fill(1, torch.tensor(sampling.never, device=logits.device), -torch.inf)
    if sampling.greedy:
        return likeliest(logits)
    scaled = logits.float() / sampling.temperature
    words = hash_words(key_words("generate", sampling.seed), prompts, torch.full_like(prompts, step))
    draws = (words.double() + 0.5) / 2**32  # (B,), in (0, 1)
    candidates, probabilities = _candidates(scaled, sampling)
    cumulative = probabilities.cumsum(dim=-1)
    if sampling.top_p is not None:
        probabilities = probabilities.masked_fill(cumulative - probabilities >= sampling.top_p, 0.0)
        cumulative = probabilities.cumsum(dim=-1)
    aims = draws[:, None] * cumulative[:, -1:]
    # The first token whose cumulative share exceeds the aim; rounding must not reach past the last possible one.
    place = torch.searchsorted(cumulative, aims, right=True)
    last = (probabilities.shape[-1] - 1) - probabilities.flip(-1).ne(0).int().argmax(dim=-1, keepdim=True)
    place = torch.minimum(place, last)
    return (place if candidates is None else candidates.gather(-1, place))[:, 0]


def likeliest(logits: Tensor) -> Tensor:
    """Return the (B,) indices of the largest of (B, V) values, the first of equal ones, as `argmax` does.

    Numpy's `argmax` is vectorised, torch's over a row is not: 3 us against 73 for a row of 50,368. Elsewhere than
    on a CPU a maximum over blocks comes first.
    """
    if logits.device.type == "cpu" and logits.dtype == torch.float32:
        return torch.from_numpy(logits.detach().numpy().argmax(axis=-1))
    rows, entries = logits.shape
    if entries % ARGMAX_BLOCK:
        return logits.argmax(dim=-1)
    blocks = logits.view(rows, -1, ARGMAX_BLOCK)
    block = blocks.amax(dim=-1).argmax(dim=-1)  # (B,)
    inside = blocks[torch.arange(rows, device=logits.device), block].argmax(dim=-1)
    return block * ARGMAX_BLOCK + inside


def _candidates(scaled: Tensor, sampling: Sampling) -> tuple[Tensor | None, Tensor]:
    """Return the tokens that can be drawn, likeliest first, and their fp64 probabilities; `None` for all in order."""
    entries = scaled.shape[-1]
    if sampling.top_k is not None:
        values, candidates = scaled.topk(min(sampling.top_k, entries), dim=-1)
        return candidates, values.double().softmax(dim=-1)
    if sampling.top_p is None:
        return None, scaled.double().softmax(dim=-1)
    total = scaled.double().logsumexp(dim=-1, keepdim=True)
    for count in sorted({min(FIRST_CANDIDATES, entries), entries}):
        values, candidates = scaled.topk(count, dim=-1)
        probabilities = (values.double() - total).exp()
        if bool((probabilities.sum(dim=-1) >= sampling.top_p).all()):
            break
    return candidates, probabilities
