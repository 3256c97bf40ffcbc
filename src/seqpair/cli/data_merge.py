"""The verb `data merge`: complete the stores from what shards have made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def merge(
    recipe: Annotated[str, typer.Argument(help="A preset's name or a recipe file, the same as for the shards.")],
    shard_folders: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="FOLDER", help="A folder of stores that a shard wrote elsewhere; repeatable."),
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change a key: `a.b=c`; repeatable.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Say what would be made, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Put the parts of `seqpair prepare --shard` together into stores; nothing is tokenized.

    The recipe's `data.stores` is completed. Shards that ran on that folder are found there, those of other
    folders are named with --from and left as they are. The stores are the same to the byte as those of one job.

    Example: seqpair data merge demo --from job1/stores --from job2/stores
    """
    from seqpair.cli.prepare import show_prepared, show_steps
    from seqpair.data.prepare.preparation import merge_shards, plan_preparation
    from seqpair.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    data, stores = loaded.data, Path(loaded.data.stores)
    if dry_run:
        steps = plan_preparation(data.sources, data.tokenizer, stores, recipe_folder=loaded.folder)
        show_steps(steps, as_json=as_json)
        return
    prepared = merge_shards(data.sources, data.tokenizer, stores, shard_folders or (), recipe_folder=loaded.folder)
    show_prepared(prepared, as_json=as_json)
