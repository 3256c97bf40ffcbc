"""The verb `run`: a whole study in one command."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from seqpair.cli.options import (
    DryRunOption,
    JsonOption,
    MembersOption,
    SetOption,
    StudyArgument,
    WorkersOption,
    names_in,
)
from seqpair.errors import EvaluationError, install_extra
from seqpair.text import format_seconds

if TYPE_CHECKING:
    from seqpair.recipe.plan import Plan


def run(
    study: StudyArgument,
    members: MembersOption = None,
    overrides: SetOption = None,
    workers: WorkersOption = 1,
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
    outcome = run_study(place, chosen, workers=workers)
    if outcome.signal_number is not None:
        raise typer.Exit(128 + outcome.signal_number)
    if as_json:
        print(json.dumps({"finished": outcome.finished, "page": str(outcome.page), "seconds": outcome.seconds}))
        return
    print_comparison(place.folder)
    plans = [place.plan(member) for member in place.training_order(chosen)]
    for line in ending(study, plans, outcome.page, outcome.seconds):
        print(line)


def ending(study: str, plans: Sequence[Plan], page: Path | None, seconds: Mapping[str, float]) -> list[str]:
    """Return what stands below the table of a finished study: what it shows, the page, the time, and what to try next.

    Args:
        study: The word that named the study.
        plans: The members' plans.
        page: The report.
        seconds: Seconds of each part of this call, by name.
    """
    from seqpair.paths import EXPORT_FOLDER, run_folder

    parts = ", ".join(f"{name} {format_seconds(value)}" for name, value in seconds.items() if value >= 1)
    names = [plan.member for plan in plans]
    uses = {"bidirectional": ("fill", "import [MASK]"), "causal": ("generate", "def read")}
    tried = {plan.derived.direction: plan for plan in reversed(plans) if plan.derived.direction in uses}  # the first
    lines = [
        f"shown: how {' and '.join(names)} compare after the same sequences in the same order"
        if len(plans) > 1
        else f"shown: what {names[0]} learned",
        f"page: {page}",
        f"time: {format_seconds(sum(seconds.values()))}" + (f" ({parts})" if parts else ""),
    ]
    for direction, plan in sorted(tried.items()):
        verb, text = uses[direction]
        lines.append(f'try: seqpair {verb} {run_folder(plan) / EXPORT_FOLDER} "{text}"')
    check = f"seqpair diff {study} {names[0]} {names[1]}; " if len(plans) > 1 else ""
    return [*lines, f"check: {check}seqpair verify {study}"]


def require_extras() -> None:
    """Check before anything is trained that the packages of a study's later parts are installed."""
    missing = [name for name in ("transformers", "jinja2", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        raise EvaluationError(
            "a whole study needs packages that are not installed",
            seen=f"no {', '.join(missing)}",
            fix=install_extra("all") + "; `seqpair train` alone needs none of them",
        )
