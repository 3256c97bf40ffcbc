"""The verb `fill`: an encoder says what it would put in place of each mask."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def fill(
    model: Annotated[str, typer.Argument(help="An export, a checkpoint, a run, or a Hugging Face folder or name.")],
    text: Annotated[str, typer.Argument(help="Text with one [MASK] or more.")],
    top: Annotated[int, typer.Option(help="How many tokens to show for each mask.")] = 5,
    as_class: Annotated[
        str | None, typer.Option("--as", help="For a checkpoint trained with `hybrid`: `mntp` (the default) or `clm`.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda, cuda:1.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Fill the masks of a text, read at the position where this model predicts them.

    A member trained with `mntp` predicts a masked token one position to its left: transformers' fill-mask
    pipeline reads the wrong place for it, this verb the right one.

    Example: seqpair fill runs/demo/encoder/export "Return the length of the [MASK]."
    """
    from seqpair.models.fill import fill_masks
    from seqpair.models.open import open_model

    opened = open_model(model, device=device, as_class=as_class)
    masks = fill_masks(opened, text, top)
    if as_json:
        print(json.dumps({"text": text, "predicts": opened.predicts, "masks": [mask.as_json() for mask in masks]}))
        return
    for number, mask in enumerate(masks, 1):
        if len(masks) > 1:
            print(f"mask {number}, position {mask.position}:")
        for guess in mask.predictions:
            print(f"{guess.probability:8.4f}  {guess.token!r}")
