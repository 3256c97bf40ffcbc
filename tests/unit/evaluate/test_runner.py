"""The time left over all tasks and models, on made-up durations."""

from __future__ import annotations

import pytest

from seqpair.evaluate.runner import Pending, TimeLeft


def test_a_task_to_come_lasts_as_long_as_the_same_task_did():
    names = ("slow", "quick", "slow", "quick", "new")
    ways = ("bidirectional", "bidirectional", "causal", "bidirectional", "causal")
    left = TimeLeft([Pending(name, way) for name, way in zip(names, ways, strict=True)])
    # slow takes 100 s, nothing else is known: four more of 100
    assert left.seconds(100, 40) == pytest.approx(40 + 4 * 100)
    left.finished(100)
    # quick: 2 s; slow of the other direction as slow so far, quick again, new: the mean of both
    assert left.seconds(2, 1) == pytest.approx(1 + 100 + 2 + 51)
    left.finished(2)
    assert left.seconds(10, 10) == pytest.approx(10 + 2 + (100 + 2 + 10) / 3)
    left.gave_up()  # says nothing
    assert left.seconds(4, 0) == pytest.approx((100 + 2 + 4) / 3)
    assert left.words(4, 0) == "all: task 4 of 5, about 35 s left"
