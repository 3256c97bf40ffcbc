from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpair.data.order.packing import pack, share

LENGTHS = st.lists(st.integers(2, 1024), min_size=0, max_size=200).map(np.array)


@given(lengths=LENGTHS, world_size=st.integers(1, 9) | st.integers(31, 70))
def test_share_gives_every_sequence_to_one_rank_and_all_nearly_the_same(lengths, world_size):
    shared = [share(lengths, world_size, rank) for rank in range(world_size)]
    assert sorted(np.concatenate(shared).tolist()) == list(range(lengths.size))
    loads = [int(lengths[mine].sum()) if mine.size else 0 for mine in shared]
    longest = int(lengths.max()) if lengths.size else 0
    assert max(loads) - min(loads) <= longest
    assert all(np.all(np.diff(mine) > 0) for mine in shared)
    assert [mine.tolist() for mine in shared] == plain_shares(lengths, world_size)


def plain_shares(lengths: np.ndarray, world_size: int) -> list[list[int]]:
    """The rule as it is written down: the longest first, each to the rank with the fewest tokens so far."""
    shares: list[list[int]] = [[] for _ in range(world_size)]
    loads = [0] * world_size
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        rank = loads.index(min(loads))
        shares[rank].append(index)
        loads[rank] += int(lengths[index])
    return [sorted(mine) for mine in shares]


@given(lengths=LENGTHS, budget=st.integers(1, 3000))
def test_pack_keeps_the_budget_and_every_sequence(lengths, budget):
    packed = pack(lengths, budget)
    indices = np.concatenate(packed).tolist() if packed else []
    assert sorted(indices) == list(range(lengths.size))
    for group in packed:
        assert np.all(np.diff(group) > 0)
        assert lengths[group].sum() <= budget or group.size == 1
    # No two microbatches could be one: the packing leaves at most half of its room empty.
    sums = sorted(int(lengths[group].sum()) for group in packed)
    assert len(sums) < 2 or sums[0] + sums[1] > budget


def plain_pack(lengths: np.ndarray, budget: int) -> list[list[int]]:
    """The rule as it is written down: sequence by sequence, each looking at every microbatch."""
    groups: list[list[int]] = []
    rooms: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        fitting = [number for number, room in enumerate(rooms) if room >= lengths[index]]
        if fitting:
            best = min(fitting, key=lambda number: (rooms[number], number))
        else:
            best = len(groups)
            groups.append([])
            rooms.append(budget)
        groups[best].append(index)
        rooms[best] -= int(lengths[index])
    return [sorted(group) for group in groups]


@given(
    lengths=st.lists(st.integers(1, 40) | st.integers(1, 1024), max_size=120).map(np.array), budget=st.integers(1, 2000)
)
def test_pack_by_runs_of_equal_lengths_is_the_rule_applied_one_by_one(lengths, budget):
    assert [group.tolist() for group in pack(lengths, budget)] == plain_pack(lengths, budget)


def test_lengths_far_apart_are_packed_the_same():
    lengths = np.array([1 << 20, 3, 1 << 17, 3, 70_000])
    assert [group.tolist() for group in pack(lengths, 1 << 17)] == plain_pack(lengths, 1 << 17)


def test_packing_wastes_little_at_a_real_size():
    lengths = np.minimum(1024, np.random.default_rng(0).lognormal(6.2, 0.7, 4608).astype(np.int64) + 2)
    packed = pack(lengths, 8192)
    waste = 1 - lengths.sum() / (len(packed) * 8192)
    assert waste < 0.005
    loads = [lengths[share(lengths, 8, rank)].sum() for rank in range(8)]
    assert (max(loads) - min(loads)) / max(loads) < 1e-4


def test_a_sequence_longer_than_the_budget_is_alone():
    assert [group.tolist() for group in pack(np.array([10, 3, 25, 7]), 10)] == [[2], [0], [1, 3]]


def test_equal_lengths_are_shared_and_packed_in_their_own_order():
    lengths = np.full(8, 5)
    assert [share(lengths, 2, rank).tolist() for rank in (0, 1)] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    assert [group.tolist() for group in pack(lengths, 10)] == [[0, 1], [2, 3], [4, 5], [6, 7]]


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least one rank, not 0"):
        share(np.array([1]), 0, 0)
    with pytest.raises(ValueError, match="at least one token, not 0"):
        pack(np.array([1]), 0)
