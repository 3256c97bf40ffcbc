"""The verb `export`: a checkpoint becomes a Hugging Face folder, proven or not written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from seqpair.cli.options import AsClassOption, JsonOption, MemberOption, OverwriteOption, SetOption


def export(
    source: Annotated[
        str,
        typer.Argument(metavar="STUDY|CHECKPOINT", help="A checkpoint's folder, or a study in any of its forms."),
    ],
    out: Annotated[Path, typer.Argument(help="Write this folder.")],
    member: MemberOption = "",
    as_class: AsClassOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint as ModernBertForMaskedLM or ModernBertDecoderForCausalLM, a member's newest one by default.

    The files are loaded again and must give the trained model's logits on real text; otherwise nothing is written. The
    text is the study's held-out text where its stores are at hand.

    Example: seqpair export runs/demo/encoder exports/demo-encoder
    """
    from seqpair.evaluate.study_text import held_out_texts
    from seqpair.hub.export import export_checkpoint

    checkpoint = _checkpoint(source, member, overrides or [])
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


def _checkpoint(source: str, member: str, overrides: list[str]) -> Path:
    """Return the checkpoint's folder that the command means."""
    from seqpair.checkpoint.manifest import MANIFEST_NAME
    from seqpair.hub.export import checkpoint_at
    from seqpair.suite.places import find_study

    if (Path(source) / MANIFEST_NAME).is_file():
        return Path(source)
    return checkpoint_at(find_study(source, overrides).run(member).path)
