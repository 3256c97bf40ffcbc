"""The verb `diff`: every difference between two members' plans; an undeclared one is an error."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from seqpair.cli.plan import SetOption, wide_console
from seqpair.errors import RecipeError
from seqpair.recipe.diff import Difference, diff_plans, require_declared
from seqpair.recipe.load import load_recipe
from seqpair.recipe.plan import Plan


def diff(
    recipe: Annotated[str, typer.Argument(help="A recipe and two of its members, or two plan.json files.")],
    first: Annotated[str, typer.Argument(help="The first member, or the second plan.json.")],
    second: Annotated[str, typer.Argument(help="The second member.")] = "",
    overrides: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the differences as JSON.")] = False,
) -> None:
    """List every difference between two members' plans, with its declared reason; fail on any other.

    Example: seqpair diff demo encoder decoder

    Two plan.json files of runs can be compared as well: seqpair diff PLAN_A.json PLAN_B.json
    """
    if second:
        from seqpair.data.store.planning import plan_members

        names = (first, second)
        plans = plan_members(load_recipe(recipe, overrides or ()), [first, second])
        differences = diff_plans(plans[first], plans[second])
    else:
        names = (recipe, first)
        differences = diff_plans(_read_plan(recipe), _read_plan(first))
    if as_json:
        print(json.dumps([asdict(difference) for difference in differences], indent=1))
    else:
        _show(differences, names)
    require_declared(differences, names)


def _read_plan(name: str) -> Plan:
    path = Path(name)
    if path.suffix != ".json" or not path.is_file():
        raise RecipeError(
            "diff takes a recipe and two members, or two plan.json files",
            seen=f"{name} is not a plan.json that is there",
            fix="seqpair diff RECIPE encoder decoder, or seqpair diff A/plan.json B/plan.json",
        )
    try:
        return Plan.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"{path} is not a plan", seen=str(error).splitlines()[0], allowed="a run's plan.json"
        ) from error


def _show(differences: list[Difference], names: tuple[str, str]) -> None:
    from rich.table import Table

    table = Table(title=f"{names[0]} against {names[1]}", title_justify="left", box=None)
    table.add_column("key", no_wrap=True)
    for column in (*names, "declared because"):
        table.add_column(column, overflow="fold")
    for item in differences:
        reason = item.reason or "NOT DECLARED"
        table.add_row(item.path, str(item.a), str(item.b), reason)
    wide_console().print(table if differences else "no difference")
