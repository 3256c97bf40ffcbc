"""The verb `convert`: a model of one class becomes a folder of the other class, with the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from seqpair.cli.options import AsClassOption, JsonOption, ModelArgument
from seqpair.errors import ExportError


def convert(
    source: ModelArgument,
    out: Annotated[Path, typer.Argument(help="Write this folder; it must not exist.")],
    to: Annotated[str, typer.Option(help="The class to write: `encoder` or `decoder`.")],
    as_class: AsClassOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a model as an encoder or as a decoder, with the same weights, window and RoPE bases.

    The weights are equal bit for bit. A changed token must move earlier outputs of the result exactly as its direction
    says: not at all in a decoder, always in an encoder. Record and card state what was measured.

    Example: seqpair convert runs/demo/decoder/export decoder-as-encoder --to encoder
    """
    from seqpair.hub.convert import DIRECTIONS
    from seqpair.hub.convert import convert as convert_model
    from seqpair.models.place import find_model
    from seqpair.suite.starts import read_start

    if to not in DIRECTIONS:
        raise ExportError("there is no such class to convert to", seen=to, allowed=" or ".join(DIRECTIONS))
    done = convert_model(read_start(find_model(source, as_class)), out, DIRECTIONS[to], source)
    if as_json:
        print(json.dumps(done.as_json()))
        return
    leak = done.leakage
    print(f"{out}: {done.hub_class} with the weights of {source}, bit for bit")
    print(
        f"a changed token moves earlier logits by {leak.least_before:.2g} to {leak.most_before:.2g}, "
        f"its own and later ones by {leak.least_from:.2g} or more"
    )
