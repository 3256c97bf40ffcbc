"""The verb `train`: one member, on one process or under torchrun."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Annotated

import typer

from seqpair.cli.options import DryRunOption, JsonOption, SetOption, StudyArgument, not_empty


def train(
    study: StudyArgument,
    member: Annotated[
        str, typer.Option(help="Train this member; needed where the study has several.", callback=not_empty)
    ] = "",
    overrides: SetOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train one member to the end of its plan, and resume from its newest checkpoint after an interruption.

    A finished run continues where the recipe now has a larger budget or a later phase. The same command works under
    torchrun on several processes. SIGTERM and Ctrl-C save a checkpoint and stop. Of a
    folder of runs, the plan in it is trained on.

    Example: seqpair train demo --member encoder
    """
    from seqpair.distributed.acceleration import require_float8
    from seqpair.distributed.world import choose_device, start_world
    from seqpair.paths import run_folder
    from seqpair.suite.places import find_study
    from seqpair.suite.starts import start_finder
    from seqpair.train.assembly import require_ready
    from seqpair.train.loop import train_member
    from seqpair.train.pinned_plan import require_pinnable

    place = find_study(study, overrides or ())
    plan = place.plan(member)
    # One process compares the files' digests: the others wait for it at the first barrier.
    first = os.environ.get("RANK", "0") == "0"
    prepared = place.open_data(verify=first)
    # The starts of all members are checked before the first of them trains: its pair must be possible, too.
    find_start = start_finder(prepared, place.plans().values() if first and not run_folder(plan).exists() else ())
    if dry_run:
        require_ready(plan, prepared)
        require_pinnable(plan, run_folder(plan))
        if plan.runtime.float8 != "off":
            require_float8(plan.runtime.float8, choose_device(plan.runtime.device))
        print(f"{plan.study}/{plan.member}: ready, would train in {run_folder(plan)}")
        return
    with start_world(plan.runtime.device, timeout_seconds=plan.runtime.timeout_seconds) as world:
        outcome = train_member(plan, prepared, world, find_start)
    if world.is_main:
        if as_json:
            print(json.dumps(asdict(outcome)))
        else:
            print(f"{plan.study}/{plan.member}: checkpoint {outcome.checkpoint} in {run_folder(plan)}")
    if outcome.signal_number is not None:
        raise typer.Exit(128 + outcome.signal_number)
