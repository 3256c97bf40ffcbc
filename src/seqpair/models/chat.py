"""Chats with a decoder: one form of prompt for tuning, for the terminal, and for programs that load the folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from seqpair.errors import EvaluationError
from seqpair.models.generate import continue_contents
from seqpair.models.text_model import TextModel
from seqpair.nn.decode.generate import Sampling

Turn = dict[str, str]
"""A turn of a chat: its `role` and its `content`."""


def plain_chat_template(begin: str) -> str:
    """Return the chat template of a tokenizer that has none: `role: content` lines after the beginning token."""
    # A line end after a variable stays; Jinja as transformers sets it up drops only those after a statement.
    return (
        f"{{{{ {json.dumps(begin)} }}}}"
        "{% for turn in messages %}{{ turn['role'] }}: {{ turn['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )


def chat_prompt(tokenizer: Any, turns: Sequence[Turn], begin: str) -> str:
    """Return the text before the assistant's next answer, in the tokenizer's template if it has one.

    Args:
        tokenizer: A tokenizer of transformers.
        turns: The turns so far.
        begin: The text of the beginning token, which stands before every row and is left out.
    """
    template = getattr(tokenizer, "chat_template", None) or plain_chat_template(begin)
    text = tokenizer.apply_chat_template(
        list(turns), chat_template=template, tokenize=False, add_generation_prompt=True
    )
    return str(text).removeprefix(begin)


def require_chat(model: TextModel) -> None:
    """Check that a model is a decoder that was tuned on messages.

    Raises:
        EvaluationError: It is not.
    """
    has_template = model.direction == "causal" and bool(getattr(model.tokenizer, "chat_template", None))
    if not has_template:
        kind = "a decoder without a chat template" if model.direction == "causal" else "an encoder"
        raise EvaluationError(
            "this model was not tuned to chat",
            seen=f"{model.name}: {kind}",
            allowed="a decoder whose tokenizer has a chat template",
            fix="tune a decoder with `seqpair finetune MODEL --data CHATS --kind text --choice messages=COLUMN`",
        )


def chat_answer(model: TextModel, turns: Sequence[Turn], max_new_tokens: int, sampling: Sampling | None = None) -> str:
    """Return the assistant's next answer; a chat that is too long loses its oldest tokens, as in tuning.

    Raises:
        EvaluationError: The model was not tuned to chat, or has no room for so many new tokens.
    """
    require_chat(model)
    begin = model.begin(0) if model.adds_begin else []
    prompt = chat_prompt(model.tokenizer, turns, model.decode(begin))
    room = model.max_tokens - 1 - max_new_tokens
    if room < 1:
        raise EvaluationError(
            "this many new tokens cannot be made", seen=max_new_tokens, allowed=f"1 to {model.max_tokens - 2}"
        )
    content = model.encode([prompt])[0]
    made = continue_contents(model, [content[max(0, len(content) - room) :]], max_new_tokens, sampling)[0]
    return model.decode(made.ids, skip_specials=True).strip()
