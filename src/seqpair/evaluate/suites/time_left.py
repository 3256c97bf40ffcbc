"""How long all tasks of all models still take, judged by what was done.

Tasks differ in cost a hundredfold, so a count of tasks says little. A task still to come is taken to last as long as
the same task with a model of the same direction, else as the same task at all, else as the tasks so far on average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from seqpair.text import format_seconds


@dataclass(frozen=True)
class Pending:
    """A task to be computed: its name, and the direction of the model it is for."""

    task: str
    direction: str


class TimeLeft:
    """The tasks to come, in order, and what those before them took.

    Args:
        pending: All tasks to be computed, in order.
    """

    def __init__(self, pending: Sequence[Pending]) -> None:
        self._pending = list(pending)
        self._took: list[tuple[Pending, float]] = []
        self._next = 0

    def finished(self, seconds: float) -> None:
        """Take note that the current task ended, after so many seconds."""
        self._took.append((self._pending[self._next], seconds))
        self._next += 1

    def gave_up(self) -> None:
        """Take note that the current task ended without a result, so that its time says nothing."""
        self._next += 1

    def seconds(self, current_seconds: float, current_left_seconds: float) -> float:
        """Return the seconds until all is done.

        Args:
            current_seconds: How long the current task takes in all, as far as it can be told.
            current_left_seconds: How much of that is left.
        """
        took = [*self._took, (self._pending[self._next], current_seconds)]
        return current_left_seconds + math.fsum(_expected(task, took) for task in self._pending[self._next + 1 :])

    def words(self, current_seconds: float, current_left_seconds: float) -> str:
        """Return the place among all tasks and the time until all is done."""
        left = format_seconds(self.seconds(current_seconds, current_left_seconds))
        return f"all: task {self._next + 1} of {len(self._pending)}, about {left} left"


def _expected(task: Pending, took: Sequence[tuple[Pending, float]]) -> float:
    same = [seconds for other, seconds in took if other == task]
    alike = same or [seconds for other, seconds in took if other.task == task.task]
    known = alike or [seconds for _, seconds in took]
    return math.fsum(known) / len(known)
