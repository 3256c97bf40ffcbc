"""The signs of life of several ranks, in one process over a store in memory."""

from __future__ import annotations

import math
import time

import pytest
import torch.distributed as dist

from seqpair.distributed import heartbeat as heartbeat_module
from seqpair.distributed.heartbeat import Heartbeat

FAST = 0.05


@pytest.fixture
def three():
    store = dist.HashStore()
    beats = [Heartbeat(store, rank, 3, FAST) for rank in range(3)]
    yield beats
    for one in beats:
        one.stop()


def test_a_rank_whose_sign_stands_still_is_named_with_its_place(three):
    three[2].enter(17, "the gradients")
    time.sleep(4 * FAST)
    three[2].stop()
    time.sleep(2 * FAST)
    said = three[0].report()
    assert "rank 2 (host " in said
    assert "last heard of in step 17, the gradients" in said
    assert "rank 1" not in said


def test_a_rank_that_lives_and_does_not_come_is_named(three):
    three[1].enter(4, "reading the batch")
    for rank in (0, 2):
        three[rank].enter(4, "the gradients", waits=True)
    time.sleep(3 * FAST)
    said = three[0].report()
    assert "rank 1 (host " in said
    assert "is alive but did not come" in said
    assert "step 4, reading the batch" in said
    assert "rank 2" not in said


def test_a_rank_that_never_came_is_named():
    beat = Heartbeat(dist.HashStore(), 0, 2, FAST)
    assert beat.report() == "rank 1 never came"
    beat.stop()


def test_where_all_wait_no_rank_is_accused(three):
    for one in three:
        one.enter(1, "the gradients", waits=True)
    time.sleep(3 * FAST)
    assert three[0].report().startswith("all ranks were heard of within")


def test_a_long_wait_is_reported_once_where_no_exception_will(three, monkeypatch):
    said = []
    monkeypatch.setattr(heartbeat_module, "note", said.append)
    assert three[0].alarm_seconds == math.inf
    three[1].stop()
    three[0].alarm_seconds = 2 * FAST
    three[0].enter(9, "a sum over all ranks", waits=True)
    for _ in range(100):
        if said:
            break
        time.sleep(FAST)
    time.sleep(4 * FAST)
    assert len(said) == 1
    assert "rank 0 has waited" in said[0]
    assert "rank 1 (host " in said[0]
