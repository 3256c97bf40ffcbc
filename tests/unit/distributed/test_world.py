import contextlib

import pytest
import torch
from torch import nn

from seqpair.distributed import world as world_module
from seqpair.distributed.world import World, choose_device, no_sync, start_world, wrap
from seqpair.errors import SeqpairError


def test_one_process_needs_no_process_group() -> None:
    world = start_world("cpu", environment={})
    assert world == World(0, 1, 0, torch.device("cpu"), None)
    assert world.is_main
    assert not torch.distributed.is_initialized()
    assert world.all_reduce_sum([1, 2.5]) == [1.0, 2.5]
    assert world.broadcast_json({"a": 1}) == {"a": 1}
    world.barrier()
    world.stop()


@pytest.mark.parametrize(("backend", "fails", "left"), [("gloo", True, 1), ("nccl", True, 0), ("nccl", False, 1)])
def test_the_block_s_end_leaves_the_group_unless_that_could_wait_for_the_dead(
    monkeypatch, backend: str, fails: bool, left: int
) -> None:
    leaves = []
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: leaves.append(1))
    with contextlib.suppress(KeyError), World(0, 2, 0, torch.device("cpu"), backend) as world:
        assert world.world_size == 2
        if fails:
            raise KeyError
    assert len(leaves) == left


def test_one_process_under_torchrun_needs_none_either() -> None:
    world = start_world("cpu", environment={"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"})
    assert world.backend is None


@pytest.mark.parametrize(
    ("environment", "seen"),
    [
        ({"RANK": "0", "WORLD_SIZE": "2"}, "RANK=0, WORLD_SIZE=2, LOCAL_RANK=not set"),
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK=2, WORLD_SIZE=2, LOCAL_RANK=0"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, "RANK=0, WORLD_SIZE=2, LOCAL_RANK=1"),
        ({"RANK": "one", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK=one, WORLD_SIZE=2, LOCAL_RANK=0"),
        ({"RANK": "0", "WORLD_SIZE": "0", "LOCAL_RANK": "0"}, "RANK=0, WORLD_SIZE=0, LOCAL_RANK=0"),
    ],
)
def test_variables_that_make_no_sense_are_shown(environment: dict[str, str], seen: str) -> None:
    with pytest.raises(SeqpairError, match=f"make no sense\n  seen: {seen}\n  allowed: all three set"):
        start_world("cpu", environment=environment)


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(SeqpairError, match="unknown device\n  seen: gpu\n  allowed: auto, cpu, cuda, mps"):
        choose_device("gpu")


def test_a_device_that_is_not_there_is_an_error_and_auto_takes_the_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    for device in ("cuda", "mps"):
        with pytest.raises(SeqpairError, match=f"the device {device} was asked for, but torch .* finds none here"):
            choose_device(device)


def test_auto_takes_this_process_s_cuda_device(monkeypatch) -> None:
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert choose_device("auto", 1) == torch.device("cuda", 1)
    assert choose_device("cpu", 1) == torch.device("cpu")
    assert taken == [torch.device("cuda", 1)]
    with pytest.raises(SeqpairError, match="more processes.*\n  seen: LOCAL_RANK=2\n  allowed: 0 to 1"):
        choose_device("auto", 2)


def test_several_processes_cannot_use_mps(monkeypatch) -> None:
    monkeypatch.setattr(world_module, "choose_device", lambda *_: torch.device("mps"))
    with pytest.raises(SeqpairError, match="cannot train on mps"):
        start_world("mps", environment={"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"})


def test_one_rank_keeps_the_module_as_it_is() -> None:
    module = nn.Linear(2, 2)
    wrapped = wrap(module, start_world("cpu", environment={}))
    assert wrapped is module
    with no_sync(wrapped):
        wrapped(torch.ones(1, 2)).sum().backward()
    assert module.weight.grad is not None
