"""The verb `run`: a whole study in one command."""

from __future__ import annotations

import importlib.util
import json

import typer

from seqpair.cli.options import DryRunOption, JsonOption, MembersOption, SetOption, StudyArgument, names_in
from seqpair.errors import EvaluationError, install_extra


def run(
    study: StudyArgument,
    members: MembersOption = None,
    overrides: SetOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Prepare the data, train every member, export, evaluate and report; parts that are done are skipped.

    Repeat the command after any interruption: it resumes where it stopped. Of a folder of runs, the plans in it are
    carried to their end.

    Example: seqpair run demo --set runs=elsewhere
    """
    from seqpair.cli.report import print_comparison
    from seqpair.suite.places import find_study

    require_extras()
    from seqpair.suite.study import planned_parts, run_study

    chosen = names_in(members, "--members")
    place = find_study(study, overrides or ())
    if dry_run:
        for part in planned_parts(place, chosen):
            print(part)
        return
    outcome = run_study(place, chosen)
    if outcome.signal_number is not None:
        raise typer.Exit(128 + outcome.signal_number)
    if as_json:
        print(json.dumps({"finished": outcome.finished, "page": str(outcome.page), "seconds": outcome.seconds}))
        return
    print_comparison(place.folder)
    print(f"page: {outcome.page}")


def require_extras() -> None:
    """Check before anything is trained that the packages of a study's later parts are installed."""
    missing = [name for name in ("transformers", "jinja2", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise EvaluationError(
            "a whole study needs packages that are not installed",
            seen=f"no {', '.join(missing)}",
            fix=install_extra("all") + "; `seqpair train` alone needs none of them",
        )
