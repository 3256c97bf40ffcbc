"""The verb `evaluate`: exported members through the tasks they can do."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def evaluate(
    recipe: Annotated[str, typer.Argument(help="A preset's name or a recipe file.")],
    member: Annotated[str | None, typer.Option(help="Only this member; by default all.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task; repeatable.")] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change a key: `a.b=c`; repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Evaluate the exports of a study's members, `<runs>/<study>/<member>/export`.

    Results go to `<runs>/<study>/<member>/evaluation`: one file a task and one line an item. The second
    export of a member trained with `hybrid`, `export-clm`, is evaluated too if it is there, into
    `evaluation-clm`.

    Example: seqpair evaluate demo --member encoder
    """
    from seqpair.data.prepared import open_recipe_data
    from seqpair.data.store.planning import plan_members
    from seqpair.evaluate.run import evaluate_export, export_places
    from seqpair.paths import run_folder
    from seqpair.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    prepared = open_recipe_data(loaded)
    reports = []
    for plan in plan_members(loaded, [member] if member else list(loaded.members)).values():
        for place in export_places(plan, run_folder(plan)):
            if place.as_class is None or place.export.is_dir():
                report = evaluate_export(place.export, plan, prepared, place.evaluation, task)
                reports.append((place.name, report))
    if as_json:
        print(json.dumps({name: report.as_json() for name, report in reports}))
        return
    for name, report in reports:
        for result in report.results:
            low, high = result.interval
            chance = "" if result.chance is None else f", chance {result.chance:.4f}"
            print(
                f"{name} {result.task}: {result.value:.4f} [{low:.4f}, {high:.4f}] {result.unit}, n {result.n}{chance}"
            )
        for skipped, reason in report.skipped.items():
            print(f"{name} {skipped}: skipped, {reason}")
