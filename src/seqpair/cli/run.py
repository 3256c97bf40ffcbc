"""The verb `run`: a whole study in one command."""

from __future__ import annotations

import importlib.util
import json
from typing import Annotated

import typer

from seqpair.cli.options import MembersOption, names_in
from seqpair.errors import EvaluationError


def run(
    recipe: Annotated[str, typer.Argument(help="A preset's name or a recipe file.")],
    members: MembersOption = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change a key: `a.b=c`; repeatable.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Say what would be done, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Prepare, train every member, export, evaluate and report; what is done is skipped.

    Repeat the command after any interruption: it goes on where it stopped.

    Example: seqpair run demo --set runs=elsewhere
    """
    from seqpair.cli.report import print_comparison
    from seqpair.paths import study_folder
    from seqpair.recipe.load import load_recipe

    require_extras()
    from seqpair.suite.study import planned_parts, run_study

    loaded = load_recipe(recipe, overrides or ())
    chosen = names_in(members, "--members")
    if dry_run:
        for part in planned_parts(loaded, chosen):
            print(part)
        return
    outcome = run_study(loaded, chosen)
    if outcome.signal_number is not None:
        raise typer.Exit(128 + outcome.signal_number)
    if as_json:
        print(json.dumps({"finished": outcome.finished, "page": str(outcome.page), "seconds": outcome.seconds}))
        return
    print_comparison(study_folder(loaded))
    print(f"page: {outcome.page}")


def require_extras() -> None:
    """Say before anything is trained what the later parts of a study need."""
    missing = [name for name in ("transformers", "jinja2", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise EvaluationError(
            "a whole study needs packages that are not installed",
            seen=f"no {', '.join(missing)}",
            fix='`pip install "seqpair[all]"`; `seqpair train` alone needs none of them',
        )
