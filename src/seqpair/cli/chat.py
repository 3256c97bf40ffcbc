"""The verb `chat`: a decoder that was tuned on messages answers in the terminal."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from seqpair.cli.options import DeviceOption, ModelArgument


def chat(
    source: ModelArgument,
    system: Annotated[str, typer.Option(help="Begin the chat with this turn of the role `system`.")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Write at most this many tokens per answer.")] = 64,
    temperature: Annotated[
        float, typer.Option(help="0 takes the most likely token; higher values sample more freely.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the samples: the same chat gives the same answers.")] = 0,
    device: DeviceOption = "auto",
) -> None:
    """Answer line by line in the terminal, or the lines of standard input; an empty line or its end ends the chat.

    The model is a decoder that `seqpair finetune --kind text` tuned on messages, or any other decoder with a chat
    template. The oldest tokens are left out when a chat becomes longer than the model reads.

    Example: seqpair chat finetuned/chats/model --system "Answer in one sentence."
    """
    from seqpair.models.chat import Turn, chat_answer, require_chat
    from seqpair.models.open import open_model
    from seqpair.nn.decode.generate import Sampling
    from seqpair.text import checked_text, printable

    model = open_model(source, device=device)
    require_chat(model)
    turns: list[Turn] = [{"role": "system", "content": system}] if system else []
    while True:
        if sys.stdin.isatty():
            print("> ", end="", flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            break
        turns.append({"role": "user", "content": checked_text(line, "the line")})
        answer = chat_answer(model, turns, max_new_tokens, Sampling(temperature, seed=seed))
        turns.append({"role": "assistant", "content": answer})
        print(printable(answer), flush=True)
