"""Continuing a text with a decoder: from text to text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from seqpair.errors import EvaluationError
from seqpair.evaluate.loaded import Ids
from seqpair.hub.opened import OpenedModel
from seqpair.nn.decode.cached_decoder import CachedDecoder
from seqpair.nn.decode.generate import BATCH_ROWS, Continuation, Sampling, generate

DEFAULT_NEW_TOKENS = 64


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


def continue_contents(
    model: OpenedModel,
    contents: Sequence[Ids],
    max_new_tokens: int,
    sampling: Sampling,
    *,
    batch_rows: int = BATCH_ROWS,
    watch: Callable[[int], None] | None = None,
) -> list[Continuation]:
    """Continue content ids: `[CLS]` before them, `[SEP]` ends the text, never past the trained length.

    Raises:
        EvaluationError: The model is an encoder, a prompt leaves no room, or no new token is asked for.
    """
    if model.native.direction != "causal":
        raise EvaluationError(
            "only a decoder can continue a text",
            seen=f"{model.place}: a bidirectional model",
            allowed="an export or a checkpoint of a member last trained with clm (or hybrid, with --as clm)",
            fix="let the encoder fill masks with `seqpair fill`",
        )
    if max_new_tokens < 1:
        raise EvaluationError("this many new tokens cannot be made", seen=max_new_tokens, allowed="1 or more")
    for number, content in enumerate(contents):
        if 1 + len(content) >= model.max_tokens:
            raise EvaluationError(
                f"prompt {number} leaves no room in what the model was trained on",
                seen=f"{len(content)} tokens",
                allowed=f"at most {model.max_tokens - 2}",
                fix="shorten it",
            )
    specials = model.tokenizer.specials
    prompts = [[specials.cls, *content.tolist()] for content in contents]
    limits = [min(max_new_tokens, model.max_tokens - len(prompt)) for prompt in prompts]
    decoder = CachedDecoder(model.native.model, model.native.rope)
    return generate(
        decoder, prompts, limits, stop_ids=[specials.sep], sampling=sampling, batch_rows=batch_rows, watch=watch
    )


def continue_texts(
    model: OpenedModel,
    prompts: Sequence[str],
    max_new_tokens: int = DEFAULT_NEW_TOKENS,
    sampling: Sampling | None = None,
    *,
    batch_rows: int = BATCH_ROWS,
    watch: Callable[[int], None] | None = None,
) -> list[ContinuedText]:
    """Continue texts.

    Args:
        model: A decoder.
        prompts: The texts; an empty one begins at `[CLS]`.
        max_new_tokens: Most tokens to add; the model's trained length may allow fewer.
        sampling: How tokens are chosen; by default the likeliest.
        batch_rows: Prompts continued at once.
        watch: Called after every step with the tokens made so far.

    Raises:
        EvaluationError: The model is an encoder, a prompt leaves no room, or no new token is asked for.
    """
    contents = model.tokenizer.encode(prompts)
    found = continue_contents(
        model, contents, max_new_tokens, sampling or Sampling(), batch_rows=batch_rows, watch=watch
    )
    return [
        ContinuedText(prompt, model.tokenizer.decode(made.ids), made.ids, 1 + len(content), made.stopped)
        for prompt, content, made in zip(prompts, contents, found, strict=True)
    ]
