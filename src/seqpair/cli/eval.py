"""The verb `eval`: any model through suites of tasks, a study's own text among them."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqpair.cli.options import DeviceOption
from seqpair.errors import EvaluationError, RecipeError, SeqpairError
from seqpair.text import note

if TYPE_CHECKING:
    from seqpair.evaluate.runner import SuiteReport
    from seqpair.evaluate.study_text import StudyTexts
    from seqpair.evaluate.task import Shard, SuiteTask
    from seqpair.models.place import ModelPlace

Names = Annotated[list[str] | None, typer.Option(help="Run only this task of the suites; repeatable.")]
Seeds = Annotated[int, typer.Option(min=1, max=1000, help="How many seeds, from 0, where a task trains or samples.")]
Shots = Annotated[
    int, typer.Option(min=0, help="Solved examples before each question, sampled by each seed; 0 as published.")
]
Grid = Annotated[str, typer.Option(help="Settings that fine-tuning tries: small, published or final.")]
Pooling = Annotated[
    str, typer.Option(help="What a fine-tuned head reads: cls, mean or last; default: cls of encoders, else last.")
]
Choices = Annotated[
    list[str] | None, typer.Option(help="Set a choice of the tasks, NAME=VALUE (docs/retrieval.md); repeatable.")
]
AllCheckpoints = Annotated[
    bool, typer.Option("--all-checkpoints", help="Evaluate every checkpoint of the runs or studies that are named.")
]
TasksFile = Annotated[
    Path | None, typer.Option("--tasks", help="A YAML file that declares tasks of your own (docs/evaluation.md).")
]
Models = Annotated[
    list[str], typer.Argument(help="Exports, checkpoints, runs, Hugging Face folders or names on the hub.")
]
Recipe = Annotated[
    str | None, typer.Option(help="Recipe of the exports, for the suite `own`; by default the plan of their run.")
]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Change a key of the recipe: `a.b=c`; repeatable.")]
ShardOption = Annotated[
    str | None, typer.Option("--shard", help="Do part I of N only, as `1/4`; the N jobs may share one folder.")
]
BatchTokens = Annotated[
    int | None, typer.Option(min=1, help="Most places of a padded batch; 2048 on a CPU, else 16384.")
]


def evaluate_suites(
    models: Models,
    suite: Annotated[list[str] | None, typer.Option(help="A suite, or `all`; repeatable.")] = None,
    task: Names = None,
    data: Annotated[Path, typer.Option(help="The folder with the suites' data files.")] = Path("data/eval"),
    tasks_file: TasksFile = None,
    all_checkpoints: AllCheckpoints = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Most items per task.")] = None,
    seeds: Seeds = 1,
    shots: Shots = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the results, one inside for each model.")] = None,
    masks: Annotated[int, typer.Option(help="An encoder's masks after what is known.")] = 3,
    end: Annotated[str, typer.Option(help="What ends an encoder's row: sep, period or none.")] = "sep",
    score_end: Annotated[bool, typer.Option("--score-end", help="Score an encoder's end token too.")] = False,
    grid: Grid = "small",
    pooling: Pooling = "default",
    choice: Choices = None,
    recipe: Recipe = None,
    overrides: Overrides = None,
    device: DeviceOption = "auto",
    batch_tokens: BatchTokens = None,
    shard: ShardOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be computed; compute nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Evaluate any models by suites: your own exports, a Hugging Face folder, or a name on the hub.

    The results of an export go to `evaluation` beside it, those of other models to `evaluations/<model>`. A result for
    the same weights, task, choices and data is not computed again; an interrupted run resumes. Torchrun's ranks share.

    Example: seqpair eval runs/demo/encoder/export runs/demo/decoder/export --suite own --suite blimp --limit 500
    """
    from seqpair.cli.eval_tables import show_plans
    from seqpair.evaluate.registry import choose_tasks, read_settings, require_data
    from seqpair.evaluate.runner import plan_tasks, require_own_folders, results_folder, run_models
    from seqpair.evaluate.task import WHOLE, Shard, TaskContext
    from seqpair.models.score import ScoringOptions

    suites = suite or ([] if tasks_file else ["all"])
    tasks = choose_tasks(suites, task or [], tasks_file)
    context = TaskContext(
        data,
        limit,
        seeds=tuple(range(seeds)),
        scoring=ScoringOptions(masks=masks, end=end, score_end=score_end),  # type: ignore[arg-type]
        shots=shots,
        settings=_tuning(grid, pooling) | read_settings(tasks, choice or []),
        study=_studies(recipe, overrides or []).of,
    )
    require_data(data, tasks)
    job = Shard.of(shard, os.environ)
    places, part, refused = _places(models, all_checkpoints, dry_run, job)
    require_own_folders(folders := [results_folder(place, context, out) for place in places])
    if dry_run:
        for place, folder in zip(places, folders, strict=True):
            show_plans(place.name, folder, plan_tasks(place, tasks, context, folder))
    else:
        reports = run_models(places, tasks, context, folders, device=device, batch_tokens=batch_tokens, shard=part)
        _end(reports, as_json, tasks, suites if job == WHOLE else [], (task or []) if job == WHOLE else [])
    _raise_first(refused)


def _places(
    models: Sequence[str], all_checkpoints: bool, dry_run: bool, job: Shard
) -> tuple[list[ModelPlace], Shard, list[SeqpairError]]:
    """Return the models that are named, or exports of the runs' checkpoints; which part is done; what was refused.

    A model that is refused does not stop the others, unless there are no others.
    """
    from seqpair.evaluate.task import WHOLE
    from seqpair.models.place import find_model

    if not all_checkpoints:
        places, refused = [], []
        for name in models:
            try:
                places.append(find_model(name))
            except SeqpairError as error:
                refused.append(error)
                note(f"{name} is left out: {error}")
        if not places:
            _raise_first(refused)
        return places, job, refused
    if dry_run:
        raise EvaluationError(
            "--all-checkpoints and --dry-run were given together: the one exports, the other writes nothing",
            fix="give one of the two",
        )
    from seqpair.suite.places import find_study
    from seqpair.suite.study import export_checkpoints

    runs = [run.path for name in models for run in find_study(name).runs]
    # The checkpoints are shared out before they are exported, so that no two jobs export one.
    numbers = itertools.count()
    wanted = [folder for run in runs for folder in export_checkpoints(run, lambda: job.holds(next(numbers)))]
    return [find_model(folder) for folder in wanted], WHOLE, []


def _raise_first(refused: Sequence[SeqpairError]) -> None:
    if refused:
        raise refused[0]


def _studies(recipe: str | None, overrides: Sequence[str]) -> StudyTexts:
    """Return how the studies of exports are found: by a recipe, or by the plan of the run that each lies in."""
    from seqpair.data.store.counts import plan_member
    from seqpair.evaluate.study_text import StudyTexts
    from seqpair.recipe.load import load_recipe

    if recipe is None:
        if overrides:
            raise RecipeError(
                "--set changes a key of a recipe, and no recipe was given",
                seen=", ".join(overrides),
                fix="give --recipe too; a choice of a task is set with --choice NAME=VALUE",
            )
        return StudyTexts()
    loaded = load_recipe(recipe, overrides)
    return StudyTexts(lambda _place, record: plan_member(loaded, record["member"]))


def _end(
    running: Iterable[SuiteReport],
    as_json: bool,
    tasks: Sequence[SuiteTask],
    suites: Sequence[str],
    names: Sequence[str],
) -> None:
    """Print results as they come, then all together; raise an error if one failed or what was asked for gave none."""
    from seqpair.cli.eval_tables import show_report, show_table
    from seqpair.evaluate.registry import require_results

    reports = []
    for report in running:
        reports.append(report)
        if not as_json:
            show_report(report)
    if as_json:
        print(json.dumps([report.as_json() for report in reports]))
    else:
        show_table(list(reports))

    failed = [f"{report.model} {task}" for report in reports for task in report.failed]
    if failed:
        raise EvaluationError(
            f"{len(failed)} results could not be computed",
            seen=", ".join(failed),
            fix="correct what is named above and repeat the command; finished tasks are kept",
        )
    require_results(reports, tasks, suites, names)


def _tuning(grid: str, pooling: str) -> dict[str, str]:
    """Return the choices of the suite `classification`, checked."""
    from seqpair.evaluate.finetune.settings import TuneSetting, grid_settings

    grid_settings(grid, "", TuneSetting(1e-4, pooling=pooling))  # type: ignore[arg-type]
    return {"grid": grid, "pooling": pooling}
