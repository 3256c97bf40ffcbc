"""The verb `fill`: an encoder says what it would put in place of each mask."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from seqpair.cli.options import AsClassOption, DeviceOption, JsonOption, ModelArgument


def fill(
    model: ModelArgument,
    text: Annotated[str, typer.Argument(help="Fill this text; it contains one [MASK] or more.")],
    top: Annotated[int, typer.Option(min=1, help="Print this many tokens per mask.")] = 5,
    as_class: AsClassOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Print the most likely tokens for each mask of a text, with their probabilities.

    A member trained with `mntp` predicts a masked token one position to its left. This verb reads that position;
    the fill-mask pipeline of transformers does not.

    Example: seqpair fill runs/demo/encoder/export "Return the length of the [MASK]."
    """
    from seqpair.models.fill import fill_masks
    from seqpair.models.open import open_model
    from seqpair.text import checked_text

    checked_text(text, "the text to fill")
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
