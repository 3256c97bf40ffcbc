"""The verb `soup`: an average of checkpoints of one member."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from seqpair.cli.run_folders import find_runs
from seqpair.errors import RecipeError


def soup(
    target: Annotated[str, typer.Argument(metavar="RUN_OR_RECIPE", help="A run's folder, or a recipe.")],
    out: Annotated[str, typer.Option(metavar="NAME", help="The soup's name: it goes to <run>/soups/NAME.")],
    member: Annotated[str, typer.Option(help="The member; needed where there are several.")] = "",
    checkpoints: Annotated[str, typer.Option(help="These checkpoints: `step100,step200`.")] = "",
    last: Annotated[int | None, typer.Option(metavar="N", help="The newest N checkpoints.")] = None,
    weights: Annotated[str, typer.Option(help="`uniform`, or `exponential:R`, R below 1.")] = "uniform",
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change a key: `a.b=c`; repeatable.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the soup's manifest as JSON, without the plan.")
    ] = False,
) -> None:
    """Average the models of checkpoints of one member, in float64; the checkpoints stay as they are.

    With exponential:R each checkpoint weighs R times the next newer one. The soup is checksummed and re-opened like
    a checkpoint, and can be exported; no run goes on from it, and none takes it for its newest checkpoint.

    Example: seqpair soup demo --member encoder --last 3 --out last3

    Example: seqpair soup runs/demo/encoder --checkpoints step100,step200 --weights exponential:0.5 --out ema

    Example: seqpair export runs/demo/encoder/soups/last3 exports/last3
    """
    from seqpair.checkpoint.manifest import read_checkpoint_manifest
    from seqpair.checkpoint.soup import Weighting, choose_parts, make_soup

    weighting = Weighting.parse(weights)
    runs = find_runs(target, member, overrides or ())
    if len(runs) > 1:
        raise RecipeError(
            "a soup is made of checkpoints of one member",
            seen=f"{len(runs)} members and no --member",
            allowed=", ".join(run.member for run in runs),
            fix="add --member NAME",
        )
    names = [name.strip() for name in checkpoints.split(",") if name.strip()]
    folder = make_soup(runs[0].path, choose_parts(runs[0].path, names, last), weighting, out)
    manifest = read_checkpoint_manifest(folder)
    assert manifest.soup is not None, "a soup's manifest says so"
    if as_json:
        print(json.dumps({"folder": str(folder), **manifest.model_dump(mode="json", exclude={"plan"})}, indent=1))
        return
    print(f"{folder}: average of {len(manifest.soup.parts)} checkpoints, {manifest.soup.weighting}")
    for part in manifest.soup.parts:
        print(f"  {part.name}  weight {part.weight:.6g}  model {part.model_sha256[:16]}")
