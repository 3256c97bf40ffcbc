"""Verdicts: only where the paired interval excludes zero, and only on the same items."""

from pathlib import Path

import numpy as np
import pytest

from seqpair.evaluate.results import TaskResult
from seqpair.report.collect import MemberRun, Outcome
from seqpair.report.tables import BOTH_AT_CHANCE, NOT_COMPARED, NOT_DECIDED, comparison_rows


def outcome(values, *, interval=None, version=1, ids=None, higher=True, chance=None):
    values = np.asarray(values, dtype=float)
    value = float(values.mean())
    result = TaskResult(
        task="task", version=version, title="A task", study="s", member="m", metric="accuracy", unit="share",
        higher_is_better=higher, chance=chance, n=len(values), value=value,
        interval=interval or (value - 0.01, value + 0.01), interval_method="made up", settings={},
        model_digest="", items="task.items.jsonl",
    )  # fmt: skip
    names = tuple(ids) if ids is not None else tuple(f"{index:05d}" for index in range(len(values)))
    return Outcome(result, names, values, np.ones(len(values)))


def only_row(**outcomes):
    members = [
        MemberRun(name=name, folder=Path(name), outcomes={} if of is None else {"task": of})
        for name, of in outcomes.items()
    ]
    (row,) = comparison_rows(members)
    return row


def right(share, count=200):
    return np.arange(count) < share * count


def test_a_clear_difference_names_the_member_ahead():
    row = only_row(encoder=outcome(right(0.8)), decoder=outcome(right(0.5)))
    assert row.differences[0].verdict == "encoder"
    assert row.differences[0].interval.low > 0


def test_where_lower_is_better_the_smaller_value_is_ahead():
    row = only_row(encoder=outcome(right(0.8), higher=False), decoder=outcome(right(0.5), higher=False))
    assert row.differences[0].verdict == "decoder"


def test_a_difference_within_noise_is_not_decided():
    generator = np.random.default_rng(0)
    row = only_row(encoder=outcome(generator.random(200) < 0.5), decoder=outcome(generator.random(200) < 0.5))
    assert row.differences[0].verdict == NOT_DECIDED


def test_two_members_at_chance_are_said_to_be_at_chance():
    generator = np.random.default_rng(0)
    one, two = (outcome(generator.random(200) < 0.25, chance=0.25, interval=(0.18, 0.32)) for _ in range(2))
    row = only_row(encoder=one, decoder=two)
    assert row.differences[0].verdict == BOTH_AT_CHANCE
    assert row.cells["encoder"].at_chance
    assert row.cells["decoder"].at_chance


def test_one_member_above_chance_does_not_make_both_at_chance():
    generator = np.random.default_rng(0)
    values = generator.random(200) < 0.3
    above = outcome(values, chance=0.25, interval=(0.26, 0.36))
    row = only_row(encoder=above, decoder=outcome(values, chance=0.25, interval=(0.2, 0.4)))
    assert row.differences[0].verdict == NOT_DECIDED
    assert not row.cells["encoder"].at_chance


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (None, "only the encoder does it"),
        (outcome(right(0.5), version=2), "made by versions 1 and 2 of the task"),
        (outcome(right(0.5, 199)), "not made on the same items: 1 differ"),
        (outcome(right(0.5), ids=[f"x{index}" for index in range(200)]), "not made on the same items: 400 differ"),
    ],
)
def test_what_cannot_be_paired_is_not_compared(other, reason):
    row = only_row(encoder=outcome(right(0.9)), decoder=other)
    assert (row.differences[0].verdict, row.differences[0].reason) == (NOT_COMPARED, reason)
    assert row.differences[0].interval is None


def test_a_handful_of_items_is_not_compared():
    row = only_row(encoder=outcome(right(1.0, 9)), decoder=outcome(right(0.0, 9)))
    assert row.differences[0].reason == "9 items are too few for an interval"


def test_further_members_are_held_against_the_first():
    row = only_row(encoder=outcome(right(0.8)), decoder=outcome(right(0.5)), hybrid=outcome(right(0.9)))
    assert [(pair.second, pair.verdict) for pair in row.differences] == [("decoder", "encoder"), ("hybrid", "hybrid")]


def test_tasks_that_both_do_come_first():
    encoder = MemberRun("encoder", Path("e"), outcomes={"alone": outcome(right(0.5)), "both": outcome(right(0.5))})
    decoder = MemberRun("decoder", Path("d"), outcomes={"both": outcome(right(0.5))})
    assert [row.task for row in comparison_rows([encoder, decoder])] == ["both", "alone"]
