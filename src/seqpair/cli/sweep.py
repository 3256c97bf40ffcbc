"""The verb `sweep`: train the members on a grid of settings with one budget and report each member's best."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated

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
from seqpair.cli.run import require_extras
from seqpair.cli.table import wide_console
from seqpair.text import format_count

if TYPE_CHECKING:
    from pathlib import Path

    from seqpair.suite.sweep import Sweep


def sweep(
    study: StudyArgument,
    over: Annotated[
        list[str] | None, typer.Option(help="A key and its values: `a.b=1,2,3`; several make a grid.")
    ] = None,
    variants: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="A YAML file of named changes: one axis; repeatable.")
    ] = None,
    members: MembersOption = None,
    name: Annotated[str, typer.Option(help="The sweep's name; by default its axes' names.")] = "",
    overrides: SetOption = None,
    workers: WorkersOption = 1,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train every member on a grid of settings and report each member's best.

    Every point is an ordinary run with its own folder under <runs>/<study>/sweeps/<name>. Finished runs are skipped and
    unfinished ones resumed. The report has a curve for each member, and compares the members at the recipe's own
    setting and at each member's best.

    Example: seqpair sweep demo --over optimizer.lr=1e-3,2e-3,4e-3 --members encoder,decoder

    Example: seqpair sweep demo --over optimizer.lr=1e-3,2e-3 --over seed=1,2,3 --set budget=500k --dry-run

    Example: seqpair sweep demo --variants mixtures.yaml
    """
    from seqpair.suite.places import find_study

    require_extras()
    from seqpair.suite.sweep import RESULTS_NAME, SweepRequest, plan_sweep, run_sweep

    chosen = tuple(names_in(members, "--members"))
    find_study(study, overrides or ()).require_recipe("a sweep changes keys of a recipe, and a folder of runs has none")
    request = SweepRequest(study, tuple(overrides or ()), tuple(over or ()), tuple(variants or ()), chosen, name)
    if dry_run:
        _show_plan(plan_sweep(request), as_json=as_json)
        return
    outcome = run_sweep(request, workers=workers)
    if outcome.signal_number is not None:
        raise typer.Exit(128 + outcome.signal_number)
    results = outcome.folder / RESULTS_NAME
    if as_json:
        print(json.dumps({"page": str(outcome.page), **json.loads(results.read_text(encoding="utf-8"))}))
        return
    _show_results(outcome.folder)
    print(f"results: {results}")
    print(f"page: {outcome.page}")


def _show_plan(planned: Sweep, *, as_json: bool) -> None:
    from seqpair.suite.sweep import planned_runs

    runs = planned_runs(planned)
    estimated = any(plan.estimated for plan in planned.runs)
    total = math.fsum(run.tokens for run in runs)
    left = math.fsum(run.tokens for run in runs if run.state != "trained already")
    if as_json:
        points = [
            {"point": point.slug, "runs": {name: f"{run}/{name}" for name, run in point.runs.items()}}
            for point in planned.record.points
        ]
        listed = [{**vars(run), "folder": str(run.folder)} for run in runs]
        print(
            json.dumps(
                {"points": points, "runs": listed, "tokens": total, "tokens_to_do": left, "estimated": estimated}
            )
        )
        return
    for axis in planned.record.axes:
        print(f"{axis.name}: {', '.join(axis.values)} ({', '.join(axis.keys)})")
        if len(axis.touches) < len(planned.record.members):
            print(f"  touches {', '.join(axis.touches)} only; the others are trained once for all its values")
    for run in runs:
        print(f"{run.folder}: {format_count(run.tokens)} tokens, {run.state}")
    mark = " (estimated: the stores are not prepared)" if estimated else ""
    print(f"{len(planned.record.points)} points, {len(runs)} runs, {format_count(total)} tokens in all{mark}")
    print(f"to do: {format_count(left)} tokens at most")


def _show_results(folder: Path) -> None:
    from seqpair.cli.report import print_tables
    from seqpair.report.data_table import terminal_table
    from seqpair.report.sweep import collect_sweep, member_curves, sweep_remarks
    from seqpair.report.sweep_page import choose_pairs, curve_table, pair_answers

    runs = collect_sweep(folder)
    curves = member_curves(runs)
    for curve in curves:
        wide_console().print(terminal_table(curve_table(curve)))
        for remark in curve.remarks:
            print(f"{curve.member}: {remark}")
        print()
    shown: list[dict[str, str]] = []
    for choice in choose_pairs(runs.record, curves):
        settings = "; ".join(f"{member}: {label}" for member, label in choice.settings.items())
        print(" ".join(filter(None, (f"{choice.title}.", settings and f"{settings}.", choice.reason))))
        if choice.runs and choice.runs not in shown:
            print_tables(*pair_answers(runs, choice))
            shown.append(choice.runs)
        print()
    for remark in sweep_remarks(runs):
        print(remark)
