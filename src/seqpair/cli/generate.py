"""The verb `generate`: a model of either direction continues texts."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from seqpair.cli.options import AsClassOption, DeviceOption, JsonOption, ModelArgument


def generate(
    source: ModelArgument,
    prompts: Annotated[list[str] | None, typer.Argument(help="Continue these texts.")] = None,
    prompt_file: Annotated[
        Path | None, typer.Option("--file", help="Read more texts from this file's key `text`; `-` is standard input.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Add at most this many tokens to each text.")] = 64,
    temperature: Annotated[
        float, typer.Option(help="0 takes the most likely token; higher values sample more freely.")
    ] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Sample among this many most likely tokens only.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample among the fewest tokens whose probabilities sum to this.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the samples: the same seed gives the same text.")] = 0,
    tokens_per_step: Annotated[
        int | None, typer.Option(min=1, help="Encoders: fill this many masks per forward pass; 1 unless given.")
    ] = None,
    block_tokens: Annotated[
        int | None, typer.Option(min=1, help="Encoders: fill the masks in blocks of this many tokens, left to right.")
    ] = None,
    batch_rows: Annotated[int, typer.Option(min=1, help="Continue this many texts at once.")] = 32,
    as_class: AsClassOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Continue texts and print each text with its continuation.

    A decoder's text ends where the model writes [SEP], after the given number of tokens, or at the length the model was
    trained on. An encoder (best trained with diffusion) starts from that number of masks and fills the surest first.
    A continuation does not depend on the other texts. An export needs no transformers.

    Example: seqpair generate runs/demo/decoder/export "def read_lines(path):" --max-new-tokens 40
    """
    from seqpair.models.generate import Unmasking, continue_texts
    from seqpair.models.open import open_model
    from seqpair.models.text_file import read_texts
    from seqpair.nn.decode.generate import Sampling
    from seqpair.text import Progress, checked_text, printable

    asked = [checked_text(prompt, f"prompt {number}") for number, prompt in enumerate(prompts or (), 1)]
    texts = [*asked, *(given.text for given in (read_texts(prompt_file) if prompt_file else ()))]
    if not texts:
        raise typer.BadParameter("give at least one text, or --file", param_hint="PROMPTS")
    sampling = Sampling(temperature, top_k, top_p, seed)
    model = open_model(source, device=device, as_class=as_class)
    progress = Progress("generate", len(texts) * max_new_tokens, "tokens")
    started = time.perf_counter()
    unmasking = Unmasking(tokens_per_step or 1, block_tokens) if tokens_per_step or block_tokens else None
    options = {"unmasking": unmasking, "batch_rows": batch_rows, "watch": progress.update}
    found = continue_texts(model, texts, max_new_tokens, sampling, **options)
    seconds = time.perf_counter() - started
    if as_json:
        tokens, results = sum(len(item.ids) for item in found), [item.as_json() for item in found]
        print(json.dumps({"model": model.name, "results": results, "tokens": tokens, "seconds": seconds}))
        return
    for number, item in enumerate(found):
        if number:
            print("-" * 20)
        print(printable(item.prompt + item.text))
