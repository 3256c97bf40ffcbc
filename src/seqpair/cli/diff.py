"""The verb `diff`: every difference between two members' plans; an undeclared one is an error."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqpair.cli.options import JsonOption, SetOption
from seqpair.cli.table import print_table
from seqpair.errors import RecipeError

if TYPE_CHECKING:
    from seqpair.recipe.diff import Difference
    from seqpair.recipe.plan import Plan


def diff(
    study: Annotated[
        str,
        typer.Argument(metavar="STUDY", help="A study in any of its forms, or the first run's folder or plan.json."),
    ],
    first: Annotated[str, typer.Argument(help="The first member, or the second run's folder or plan.json.")],
    second: Annotated[str, typer.Argument(help="The second member.")] = "",
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """List every difference between two members' plans with its declared reason, and fail on any other difference.

    Example: seqpair diff demo encoder decoder

    The plans of two runs can be compared as well: seqpair diff runs/a/encoder runs/b/encoder
    """
    from seqpair.recipe.diff import diff_plans, require_declared
    from seqpair.suite.places import find_study

    if second:
        names = (first, second)
        plans = find_study(study, overrides or ()).plans(names)
        differences = diff_plans(plans[first], plans[second])
    else:
        names = (study, first)
        differences = diff_plans(_read_plan(study), _read_plan(first))
    if as_json:
        print(json.dumps([asdict(difference) for difference in differences], indent=1))
    else:
        _show(differences, names)
    require_declared(differences, names)


def _read_plan(name: str) -> Plan:
    from pydantic import ValidationError

    from seqpair.recipe.plan import Plan
    from seqpair.suite.places import find_study

    path = Path(name)
    if path.is_dir():
        return find_study(path).plan()
    if path.suffix != ".json" or not path.is_file():
        raise RecipeError(
            "diff needs a study and two members, or two folders of runs or plan.json files",
            seen=f"{name} is neither a folder nor a plan.json",
            fix="seqpair diff STUDY encoder decoder, or seqpair diff A/plan.json B/plan.json",
        )
    try:
        return Plan.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise RecipeError(
            f"{path} is not a plan", seen=str(error).splitlines()[0], allowed="a run's plan.json"
        ) from error


def _show(differences: list[Difference], names: tuple[str, str]) -> None:
    if not differences:
        print("no difference")
        return
    rows = [(item.path, str(item.a), str(item.b), item.reason or "NOT DECLARED") for item in differences]
    title = f"{names[0]} against {names[1]}"
    print_table(("key", *names, "declared because"), rows, fold=(1, 2, 3), title=title, indent=0)
