"""All suites by name: the one place where the areas' tasks come together.

Must not know how a task works. Entry points: `SUITES`, `choose_tasks`.
"""

from __future__ import annotations

from collections.abc import Sequence

from seqpair.errors import EvaluationError
from seqpair.evaluate.blimp import tasks as blimp
from seqpair.evaluate.generative import tasks as generative
from seqpair.evaluate.retrieval import tasks as retrieval
from seqpair.evaluate.suites.task import SuiteTask

_AREAS: tuple[tuple[SuiteTask, ...], ...] = (generative.TASKS, blimp.TASKS, retrieval.TASKS)

SUITES: dict[str, tuple[SuiteTask, ...]] = {tasks[0].suite: tasks for tasks in _AREAS}


def choose_tasks(suites: Sequence[str], names: Sequence[str] = ()) -> list[SuiteTask]:
    """Return the tasks of some suites, or those of them with these names.

    Args:
        suites: Names of suites, or `all`.
        names: Names of tasks; empty takes all.

    Raises:
        EvaluationError: There is no such suite, or no such task in them.
    """
    unknown = [suite for suite in suites if suite not in SUITES and suite != "all"]
    if unknown:
        raise EvaluationError(
            "there is no suite of this name", seen=", ".join(unknown), allowed=", ".join((*SUITES, "all"))
        )
    wanted = list(SUITES) if "all" in suites else [suite for suite in SUITES if suite in suites]
    tasks = [task for suite in wanted for task in SUITES[suite]]
    strange = [name for name in names if name not in {task.name for task in tasks}]
    if strange:
        raise EvaluationError(
            "there is no task of this name in these suites",
            seen=", ".join(strange),
            allowed=", ".join(task.name for task in tasks),
        )
    return [task for task in tasks if not names or task.name in names]
