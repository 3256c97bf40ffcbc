"""The verb `soup`: an average of checkpoints of one member."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from seqpair.cli.options import JsonOption, MemberOption, SetOption, StudyArgument, names_in
from seqpair.errors import CheckpointError


def soup(
    study: StudyArgument,
    out: Annotated[str, typer.Option(metavar="NAME", help="Name the soup: it goes to <run>/soups/NAME.")],
    member: MemberOption = "",
    checkpoints: Annotated[
        str | None, typer.Option(help="Average these checkpoints, separated by commas: `step100,step200`.")
    ] = None,
    last: Annotated[int | None, typer.Option(metavar="N", help="Average the newest N checkpoints.")] = None,
    weights: Annotated[str, typer.Option(help="Weigh by `uniform`, or by `exponential:R` with R below 1.")] = "uniform",
    start_weight: Annotated[
        float | None, typer.Option(help="Mix in the checkpoint that the member started from, with this weight below 1.")
    ] = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Average the weights of several checkpoints of one member in float64, and write the result as a soup.

    With exponential:R each checkpoint weighs R times the next newer one. The checkpoints stay as they are. The soup has
    checksums and is opened again after writing, like a checkpoint, and it can be exported. No run resumes from it.

    Example: seqpair soup demo --member encoder --last 3 --out last3

    Example: seqpair soup runs/demo/encoder --checkpoints step100,step200 --weights exponential:0.5 --out ema

    Example: seqpair soup demo --member encoder-from-decoder --last 1 --start-weight 0.3 --out merged

    Example: seqpair export runs/demo/encoder/soups/last3 exports/last3
    """
    from seqpair.checkpoint.manifest import read_checkpoint_manifest
    from seqpair.checkpoint.soup import Weighting, choose_parts, make_soup
    from seqpair.suite.places import find_study
    from seqpair.train.position import start_checkpoint

    weighting = Weighting.parse(weights)
    if start_weight is not None and not 0 < start_weight < 1:
        raise CheckpointError(
            "--start-weight is not a share of the average", seen=start_weight, allowed="above 0, below 1"
        )
    run = find_study(study, overrides or ()).run(member)
    parts = choose_parts(run.path, names_in(checkpoints, "--checkpoints"), last)
    start = None if start_weight is None else (start_checkpoint(parts[-1].manifest.plan, run.path), start_weight)
    folder = make_soup(run.path, parts, weighting, out, start)
    manifest = read_checkpoint_manifest(folder)
    assert manifest.soup is not None, "a soup's manifest says so"
    if as_json:
        print(json.dumps({"folder": str(folder), **manifest.model_dump(mode="json", exclude={"plan"})}, indent=1))
        return
    print(f"{folder}: average of {len(manifest.soup.parts)} checkpoints, {manifest.soup.weighting}")
    for part in manifest.soup.parts:
        print(f"  {part.name}  weight {part.weight:.6g}  model {part.model_sha256[:16]}")
