"""The verb `power`: what a study of a given size can detect, before anything is trained."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from seqpair.cli.options import require_shares
from seqpair.errors import EvaluationError, SeqpairError, needs_extra


def power(
    items: Annotated[int, typer.Option(min=2, max=10**12, help="Items of the task.")],
    seeds: Annotated[int, typer.Option(min=1, max=10**6, help="Training runs of each member.")] = 3,
    accuracy: Annotated[float, typer.Option(help="The accuracy to expect of both members.")] = 0.5,
    agreement: Annotated[
        float | None, typer.Option(help="Share of items on which both are right or both wrong; else guessed.")
    ] = None,
    seed_sd: Annotated[
        float, typer.Option(min=0, help="Standard deviation over seeds of the members' difference.")
    ] = 0.01,
    difference: Annotated[float | None, typer.Option(help="The difference that the question is about.")] = None,
    tasks: Annotated[int, typer.Option(min=1, max=10**6, help="Tasks that are tested together.")] = 1,
    clusters: Annotated[
        int | None, typer.Option(min=2, max=10**12, help="Groups of items: paradigms, articles, documents.")
    ] = None,
    shared: Annotated[
        float, typer.Option(min=0, max=1, help="With --clusters: what a group's items have alike.")
    ] = 0.5,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Show the smallest difference between two members that a study can detect with 80 % power.

    Example: seqpair power --items 2000 --seeds 3 --accuracy 0.6 --difference 0.05

    All numbers are shares: 0.05 is five points of accuracy. The guess that matters most is --seed-sd; take it from an
    earlier study. A claim about training needs at least three seeds, better five; with one or two the answer covers
    those runs only. With --difference the command also prints how many items would detect that difference.

    Example: seqpair power --items 2010 --clusters 67 --seeds 5
    """
    require_shares(difference=difference, shared=shared, seed_sd=seed_sd)
    if difference == 0:
        raise SeqpairError("no study detects a difference of 0", seen=difference, allowed="above 0, up to 1")
    with needs_extra("power", "report", EvaluationError):
        from seqpair.compare.power import ROUND_NUMBERS, items_needed, plan_study, right_or_wrong_spread
    if agreement is None:
        by_chance = accuracy**2 + (1 - accuracy) ** 2
        agreement = (1 + by_chance) / 2
    spread = right_or_wrong_spread(accuracy, agreement=agreement, seed_sd=seed_sd)
    plan = plan_study(
        spread, items=items, seeds=seeds, wanted=difference, family=tasks, clusters=clusters, shared=shared
    )
    needed = None
    if difference is not None:
        size = 1.0 if clusters is None else items / clusters
        needed = items_needed(spread, difference, seeds=seeds, family=tasks, per_cluster=size, shared=shared)
    if as_json:
        told = {**asdict(plan), "items_needed": needed, "spread": asdict(spread), "agreement": agreement}
        print(json.dumps(told, indent=1))
        return
    print(plan.sentence)
    if plan.detectable > 1:
        print("No two accuracies differ by more than 1, so it detects no difference at all.")
    if difference is not None:
        runs = "one seed" if seeds == 1 else f"{seeds} seeds"
        print(
            f"With {runs} about {needed:,} items show a difference of {difference:.3g}."
            if needed is not None
            else f"With {runs} not even {ROUND_NUMBERS[-1]:,} items show a difference of {difference:.3g}: add seeds."
        )
