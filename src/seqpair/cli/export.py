"""The verb `export`: a checkpoint becomes a Hugging Face folder and further formats, proven or not written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqpair.cli.options import AsClassOption, JsonOption, MemberOption, OverwriteOption, SetOption

if TYPE_CHECKING:
    from seqpair.hub.export import ExportReport


def export(
    source: Annotated[
        str,
        typer.Argument(metavar="STUDY|CHECKPOINT", help="A checkpoint's folder, or a study in any of its forms."),
    ],
    out: Annotated[Path, typer.Argument(help="Write this folder.")],
    member: MemberOption = "",
    every: Annotated[
        bool, typer.Option("--all", help="Export every kept checkpoint, each into OUT/MEMBER/CHECKPOINT.")
    ] = False,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="Also write `onnx`, `onnx-int8` or `gguf` (encoders only); repeatable."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="Store the weights as `fp32` or `bf16`.")] = "fp32",
    as_class: AsClassOption = None,
    overrides: SetOption = None,
    overwrite: OverwriteOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a checkpoint as ModernBertForMaskedLM or ModernBertDecoderForCausalLM, a member's newest one by default.

    The files are loaded again and must give the trained model's logits on real text; otherwise nothing is written. The
    text is the study's held-out text if its stores are prepared. Lower precision (bf16, int8) is measured, not
    refused: the folder's record and card state the differences.

    Example: seqpair export runs/demo/encoder exports/demo-encoder --format onnx --format gguf
    """
    from seqpair.evaluate.study_text import held_out_texts
    from seqpair.hub.export import export_checkpoint
    from seqpair.text import note

    reports = []
    for checkpoint, folder in (
        _all_of(source, out, member, overrides or [])
        if every
        else [(_checkpoint(source, member, overrides or []), out)]
    ):
        if every and not overwrite and _is_there(folder, checkpoint):
            note(f"{folder}: exported already")
            continue
        reports.append(
            export_checkpoint(
                checkpoint,
                folder,
                held_out_texts(checkpoint),
                as_class=as_class,
                overwrite=overwrite,
                dtype=dtype,  # type: ignore[arg-type]  # checked there
                formats=formats or (),  # type: ignore[arg-type]  # checked there
            )
        )
        if not as_json:
            _print_report(reports[-1])
    if as_json:
        found = [report.as_json() for report in reports]
        print(json.dumps(found if every else found[0]))


def _print_report(report: ExportReport) -> None:
    proof = report.verification
    print(f"{report.folder}: {report.hub_class} from {report.checkpoint}")
    print(
        f"max |difference| of logits {proof.max_abs_difference:.2g} (tolerance {proof.tolerance:g}) "
        f"over {proof.checked_tokens} tokens of {proof.checked_texts} texts"
    )
    for name, found in report.formats.items():
        if "loss_change" in found:
            print(
                f"{name}: max |difference| {found['max_abs_difference']:.2g}, equal likeliest token "
                f"{found['equal_argmax']:.2%}, change of loss {found['loss_change']:+.4f} nats"
            )
        elif "max_abs_difference" in found:
            print(f"{name}: max |difference| {found['max_abs_difference']:.2g}")
        else:
            print(f"{name}: read back, {found['read_back']}")


def _checkpoint(source: str, member: str, overrides: list[str]) -> Path:
    """Return the checkpoint's folder that the command means."""
    from seqpair.checkpoint.manifest import MANIFEST_NAME
    from seqpair.hub.export import checkpoint_at
    from seqpair.suite.places import find_study

    if (Path(source) / MANIFEST_NAME).is_file():
        return Path(source)
    return checkpoint_at(find_study(source, overrides).run(member).path)


def _all_of(source: str, out: Path, member: str, overrides: list[str]) -> Iterator[tuple[Path, Path]]:
    """Yield every kept checkpoint of the chosen members, oldest first, and the folder that it goes to."""
    from seqpair.checkpoint.catalog import checkpoint_folders
    from seqpair.checkpoint.manifest import read_checkpoint_manifest
    from seqpair.suite.places import find_study

    for run in find_study(source, overrides).chosen([member] if member else []):
        steps = {folder: read_checkpoint_manifest(folder).total_steps for folder in checkpoint_folders(run.path)}
        for checkpoint in sorted(steps, key=lambda folder: steps[folder]):
            yield checkpoint, out / run.path.name / checkpoint.name


def _is_there(folder: Path, checkpoint: Path) -> bool:
    """Say whether a folder is an export of the same checkpoint of the same plan."""
    from seqpair.checkpoint.manifest import read_checkpoint_manifest
    from seqpair.hub.export import RECORD_NAME, read_export_record

    if not (folder / RECORD_NAME).is_file():
        return False
    record, manifest = read_export_record(folder), read_checkpoint_manifest(checkpoint)
    return (record["checkpoint"], record["plan_digest"]) == (manifest.name, manifest.plan_digest)
