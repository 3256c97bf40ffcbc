"""The verb `export`: a checkpoint becomes a Hugging Face folder, proven or not written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def export(
    source: Annotated[Path, typer.Argument(help="A checkpoint's folder, or a run's (its newest checkpoint).")],
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    as_class: Annotated[
        str | None, typer.Option("--as", help="For a member trained with `hybrid`: `mntp` (the default) or `clm`.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Write a checkpoint as ModernBertForMaskedLM or ModernBertDecoderForCausalLM.

    The files are loaded again and must give the trained model's logits on real text; if they do not,
    nothing is written. The text is the study's held-out text where its stores are at hand.

    A member trained with `hybrid` exports as either class: `--as clm` writes the decoder.

    Example: seqpair export runs/demo/encoder exports/demo-encoder
    """
    from seqpair.evaluate.held_out import held_out_texts
    from seqpair.hub.export import checkpoint_at, export_checkpoint

    checkpoint = checkpoint_at(source)
    report = export_checkpoint(checkpoint, out, held_out_texts(checkpoint), as_class=as_class, overwrite=overwrite)
    if as_json:
        print(json.dumps(report.as_json()))
        return
    proof = report.verification
    print(f"{out}: {report.hub_class} from {report.checkpoint}")
    print(
        f"max |difference| of logits {proof.max_abs_difference:.2g} (tolerance {proof.tolerance:g}) "
        f"over {proof.checked_tokens} tokens of {proof.checked_texts} texts"
    )
