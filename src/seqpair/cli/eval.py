"""The verb `eval`: any model through suites of tasks on data from outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from seqpair.evaluate.suites.runner import SuiteReport


Grid = Annotated[str, typer.Option(help="Settings that fine-tuning tries: small, published or final.")]
Pooling = Annotated[
    str, typer.Option(help="What a fine-tuned head reads: cls, mean or last; default: cls of encoders, else last.")
]
Choices = Annotated[
    list[str] | None, typer.Option("--set", help="A choice of the tasks, NAME=VALUE (docs/retrieval.md); repeatable.")
]


def evaluate_suites(
    models: Annotated[
        list[str], typer.Argument(help="Exports, checkpoints, runs, Hugging Face folders or names on the hub.")
    ],
    suite: Annotated[list[str] | None, typer.Option(help="A suite, or `all`; repeatable.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only this task of the suites; repeatable.")] = None,
    data: Annotated[Path, typer.Option(help="The folder with the suites' data files.")] = Path("data/eval"),
    limit: Annotated[int | None, typer.Option(min=1, help="Most items of a task.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0, where a task trains or draws.")] = 1,
    shots: Annotated[
        int, typer.Option(min=0, help="Solved examples before each question, drawn by each seed; 0 as published.")
    ] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the results, one inside for each model.")] = None,
    masks: Annotated[int, typer.Option(help="An encoder's masks after what is known.")] = 3,
    end: Annotated[str, typer.Option(help="What ends an encoder's row: sep, period or none.")] = "sep",
    score_end: Annotated[bool, typer.Option("--score-end", help="Score an encoder's end token too.")] = False,
    grid: Grid = "small",
    pooling: Pooling = "default",
    choose: Choices = None,
    device: Annotated[str, typer.Option(help="Where the models run: auto, cpu, cuda, cuda:1.")] = "auto",
    batch_tokens: Annotated[
        int | None, typer.Option(min=1, help="Most places of a padded batch; 2048 on a CPU, else 16384.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be computed, and compute nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Evaluate any models by suites: a pair of ours, a Hugging Face folder, a name on the hub.

    A member's results go to `evaluation` beside its export, another model's to `evaluations/<model>`. What was
    computed for the same weights, task, choices and data is taken from there; an interrupted run goes on.

    Example: seqpair eval runs/demo/encoder/export runs/demo/decoder/export --suite blimp --data data/eval --limit 500
    """
    from seqpair.cli.eval_tables import show_plans, show_report
    from seqpair.evaluate.suites.registry import choose_tasks, read_settings
    from seqpair.evaluate.suites.runner import plan_tasks, require_own_folders, results_folder, run_models
    from seqpair.evaluate.suites.task import TaskContext
    from seqpair.models.place import find_model
    from seqpair.models.score import ScoringOptions

    tasks = choose_tasks(suite or ["all"], task or [])
    scoring = ScoringOptions(masks=masks, end=end, score_end=score_end)  # type: ignore[arg-type]
    settings = _tuning(grid, pooling) | read_settings(tasks, choose or [])
    seed_numbers = tuple(range(seeds))
    context = TaskContext(data, limit, seed_numbers, shots=shots, scoring=scoring, settings=settings)
    places = [find_model(name) for name in models]
    folders = [results_folder(place, context, out) for place in places]
    require_own_folders(folders)
    if dry_run:
        for place, folder in zip(places, folders, strict=True):
            show_plans(place.name, folder, plan_tasks(place, tasks, context, folder))
        return
    reports = []
    for report in run_models(places, tasks, context, folders, device=device, batch_tokens=batch_tokens):
        reports.append(report)
        if not as_json:
            show_report(report)
    _end(reports, as_json)


def _end(reports: list[SuiteReport], as_json: bool) -> None:
    """Show all models' results together; raise an error if one could not be computed."""
    from seqpair.cli.eval_tables import show_table
    from seqpair.errors import EvaluationError

    if as_json:
        print(json.dumps([report.as_json() for report in reports]))
    else:
        show_table(reports)

    failed = [f"{report.model} {task}" for report in reports for task in report.failed]
    if failed:
        raise EvaluationError(f"{len(failed)} results could not be computed", seen=", ".join(failed))


def _tuning(grid: str, pooling: str) -> dict[str, str]:
    """Return the choices of the suite `classification`, checked."""
    from seqpair.evaluate.finetune.settings import TuneSetting, grid_settings

    grid_settings(grid, "", TuneSetting(1e-4, pooling=pooling))  # type: ignore[arg-type]
    return {"grid": grid, "pooling": pooling}
