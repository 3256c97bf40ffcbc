"""The verb `train`: one member, on one process or under torchrun."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer


def train(
    recipe: Annotated[str, typer.Argument(help="A preset's name or a recipe file.")],
    member: Annotated[str, typer.Option(help="The member to train.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change a key: `a.b=c`; repeatable.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Check the plan against the stores, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Train one member to the end of its plan; an interrupted run goes on from its newest checkpoint.

    The same command works under torchrun on several processes. SIGTERM and Ctrl-C save and stop.

    Example: seqpair train demo --member encoder
    """
    from seqpair.data.prepared import open_recipe_data
    from seqpair.data.store.planning import plan_member
    from seqpair.distributed.acceleration import require_float8
    from seqpair.distributed.world import choose_device, start_world
    from seqpair.paths import run_folder
    from seqpair.recipe.load import load_recipe
    from seqpair.suite.starts import start_finder
    from seqpair.train.assembly import require_ready
    from seqpair.train.loop import train_member

    loaded = load_recipe(recipe, overrides or ())
    prepared = open_recipe_data(loaded)
    plan = plan_member(loaded, member)
    if dry_run:
        require_ready(plan, prepared)
        if plan.runtime.float8 != "off":
            require_float8(plan.runtime.float8, choose_device(plan.runtime.device))
        print(f"{plan.study}/{member}: ready, would train in {run_folder(plan)}")
        return
    with start_world(plan.runtime.device) as world:
        outcome = train_member(plan, prepared, world, start_finder(prepared))
    if world.is_main:
        if as_json:
            print(json.dumps(asdict(outcome)))
        else:
            print(f"{plan.study}/{member}: checkpoint {outcome.checkpoint} in {run_folder(plan)}")
    if outcome.signal_number is not None:
        raise typer.Exit(128 + outcome.signal_number)
