"""All suites by name: the one place where the tasks of all areas come together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seqpair.errors import EvaluationError
from seqpair.evaluate import declared, generative, minimal_pairs, own, probes, prompts
from seqpair.evaluate.bias import tasks as bias
from seqpair.evaluate.classification import tasks as classification
from seqpair.evaluate.retrieval import tasks as retrieval
from seqpair.evaluate.task import SuiteTask
from seqpair.text import nearest

if TYPE_CHECKING:
    from seqpair.evaluate.runner import SuiteReport

_AREAS: tuple[tuple[SuiteTask, ...], ...] = (
    own.TASKS,
    generative.TASKS,
    minimal_pairs.TASKS,
    minimal_pairs.ZORRO_TASKS,
    minimal_pairs.BABYLM_TASKS,
    classification.TASKS,
    prompts.TASKS,
    probes.TASKS,
    retrieval.TASKS,
    bias.TASKS,
    retrieval.MTEB_TASKS,
)
_WITH_OPTIONS = {"scoring", "seeds", "shots", "grid", "pooling"}  # choices that have an option of their own

_NOT_IN_ALL = ("mteb",)  # a day of computing, and gigabytes from the hub

SUITES: dict[str, tuple[SuiteTask, ...]] = {tasks[0].suite: tasks for tasks in _AREAS}


def choose_tasks(suites: Sequence[str], names: Sequence[str] = (), tasks_file: Path | None = None) -> list[SuiteTask]:
    """Return the tasks of some suites, or those of them with these names.

    Args:
        suites: Names of suites, or `all` but the benchmark of mteb.
        names: Names of tasks; empty takes all.
        tasks_file: A file that declares more tasks, which join those of the suites.

    Raises:
        EvaluationError: There is no such suite, no such task in them, or a declaration is wrong.
    """
    unknown = [suite for suite in suites if suite not in SUITES and suite != "all"]
    if unknown:
        raise EvaluationError(
            f"there is no suite of this name{nearest(unknown[0], SUITES)}",
            seen=", ".join(unknown),
            allowed=", ".join((*SUITES, "all")),
        )
    every = [suite for suite in SUITES if suite not in _NOT_IN_ALL] if "all" in suites else []
    wanted = [suite for suite in SUITES if suite in suites or suite in every]
    tasks = [task for suite in wanted for task in SUITES[suite]]
    more = [] if tasks_file is None else declared.read_tasks(tasks_file)
    taken = {task.name for own in SUITES.values() for task in own} & {task.name for task in more}
    if taken:
        raise EvaluationError(
            f"{tasks_file} declares a task under a built-in name", seen=", ".join(sorted(taken)), fix="rename it"
        )
    tasks += more
    strange = [name for name in names if name not in {task.name for task in tasks}]
    if strange:
        raise EvaluationError(
            "there is no task of this name in these suites",
            seen=", ".join(strange),
            allowed=", ".join(task.name for task in tasks),
        )
    return [task for task in tasks if (task.name in names if names else not task.only_named)]


def read_settings(tasks: Sequence[SuiteTask], given: Sequence[str]) -> dict[str, str]:
    """Read choices of the form NAME=VALUE that these tasks know; files become absolute.

    Raises:
        EvaluationError: One is of another form, comes twice, or no task has such a choice.
    """
    known = sorted({name for task in tasks for name in task.uses} - _WITH_OPTIONS)
    files = {name for task in tasks for name, _ in task.files}
    found: dict[str, str] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not value or name not in known or name in found:
            raise EvaluationError(
                "these tasks have no such choice" if name not in found else "a choice is given twice",
                seen=text,
                allowed="NAME=VALUE with a NAME of " + (", ".join(known) or "none: these tasks have no choices"),
            )
        found[name] = str(Path(value).resolve()) if name in files else value
    return found


def require_data(data: Path, tasks: Sequence[SuiteTask]) -> None:
    """Check that the data folder exists where a task needs it, so that a typing error is not a list of skips.

    Raises:
        EvaluationError: It does not exist, or there is no task.
    """
    if not tasks:
        raise EvaluationError("nothing was chosen to evaluate", allowed="suites, tasks, or a file of tasks")
    if any((task.inputs or task.files) and task.declared is None for task in tasks) and not data.is_dir():
        raise EvaluationError(
            "the folder of the suites' data does not exist",
            seen=data,
            allowed="a folder with the suites' files; `--dry-run` with any folder lists the files of each task",
            fix="correct --data, or take suites that need no files: --suite own",
        )


def require_results(
    reports: Sequence[SuiteReport], tasks: Sequence[SuiteTask], suites: Sequence[str], names: Sequence[str]
) -> None:
    """Check that everything asked for by name gave a result with one model at least.

    Of `all` any result will do: who asks for all suites takes what the data folder has. One job of several asks for
    nothing: its share may have none of what was named.

    Raises:
        EvaluationError: Something gave none.
    """
    asked = {f"the task {name}": {name} for name in names}
    if not names:
        for suite in suites:
            own = {task.name for task in tasks if suite in (task.suite, "all")}
            asked["any suite" if suite == "all" else f"the suite {suite}"] = own
    for what, own in asked.items():
        reasons = {report.skipped.get(name, "") for report in reports for name in own}
        if "" not in reasons:
            raise EvaluationError(
                f"nothing could be measured for {what}",
                seen="; ".join(sorted(reasons)),
                fix="put the missing files there, or name other suites",
            )
