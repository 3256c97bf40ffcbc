"""Sharded parameters in one process: a group of one rank cuts tensors as any does, into one part."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

from seqpair.distributed.sharding import Sharding, cut_like
from seqpair.distributed.world import World, no_sync
from seqpair.errors import SeqpairError
from seqpair.optim.choice import make_optimizer
from seqpair.optim.stable_adamw import is_sharded
from seqpair.recipe.plan import OptimizerPlan


@pytest.fixture
def world():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield World(0, 1, 0, torch.device("cpu"), "gloo")
    dist.destroy_process_group()


class Scored(nn.Module):
    """Two layers and a table, with a second way in."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.table = nn.Parameter(torch.empty(5, 6))
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return a scalar."""
        return (self.scores(states) ** 2).sum()

    def scores(self, states: torch.Tensor) -> torch.Tensor:
        """Return (N, 5)."""
        for layer in self.layers:
            states = torch.tanh(layer(states))
        return states @ self.table.T


def sharded(world, kind="full"):
    module, sharding = Scored(), Sharding(world, kind)
    return sharding.wrap(module, module.layers), sharding


@pytest.mark.parametrize("clip_norm", [None, 1e-2])
@pytest.mark.parametrize("kind", ["full", "hybrid"])
def test_a_sharded_step_is_the_whole_one(world, kind, clip_norm):
    plan = OptimizerPlan(lr=1e-2, weight_decay=1e-2, clip_norm=clip_norm)
    plain = Scored()
    cut, sharding = sharded(world, kind)
    steps = [
        (plain, make_optimizer(plain, plan, lambda _: 0)),
        (cut, make_optimizer(cut, plan, lambda _: 0, sharding.sum)),
    ]
    for step in range(3):
        states = torch.randn(4, 6, generator=torch.Generator().manual_seed(step))
        numbers = []
        for module, optimizer in steps:
            with no_sync(module):
                module(states).backward()
            module(states + 1).backward()
            numbers.append(optimizer.step().read())
            optimizer.zero_grad()
        assert numbers[1] == pytest.approx(numbers[0], rel=1e-6)
    whole = sharding.whole(cut.state_dict()) | sharding.whole(steps[1][1].tensor_state())
    for name, tensor in {**plain.state_dict(), **steps[0][1].tensor_state()}.items():
        torch.testing.assert_close(whole[name], tensor, rtol=1e-6, atol=1e-8)


def test_what_was_put_together_is_cut_again(world):
    plan = OptimizerPlan(lr=1e-2, weight_decay=0.0)
    (module, sharding), (other, _) = sharded(world), sharded(world)
    optimizer, fresh = (make_optimizer(one, plan, lambda _: 0, sharding.sum) for one in (module, other))
    module(torch.ones(2, 6)).backward()
    optimizer.step()
    model, state = sharding.whole(module.state_dict()), sharding.whole(optimizer.tensor_state())
    assert not any(is_sharded(tensor) for tensor in (model | state).values())
    other.load_state_dict(cut_like(other.state_dict(), model), strict=True)
    fresh.load_state(cut_like(fresh.tensor_state(), state), optimizer.json_state())
    assert all(is_sharded(tensor) for tensor in fresh.tensor_state().values())
    again = sharding.whole(other.state_dict()) | sharding.whole(fresh.tensor_state())
    for name, tensor in (model | state).items():
        assert torch.equal(again[name], tensor), name
    assert state["v.table"].abs().sum() > 0


def test_tensors_that_are_not_sharded_are_loaded_as_they_are():
    own, given = {"a": torch.zeros(2)}, {"a": torch.ones(2), "b": torch.ones(1)}
    assert cut_like(own, given) == given


def test_measuring_gathers_the_parameters_and_the_next_step_finds_them_cut(world):
    module, _ = sharded(world)
    with torch.no_grad():
        scores = module.scores(torch.ones(2, 6))
    torch.testing.assert_close(scores, Scored().scores(torch.ones(2, 6)))
    module(torch.ones(2, 6)).backward()
    assert all(is_sharded(parameter) and parameter.grad is not None for parameter in module.parameters())


def test_muon_refuses_parts_of_matrices(world):
    module, sharding = sharded(world)
    plan = OptimizerPlan(name="muon", lr=1e-2, weight_decay=0.0, momentum=0.9)
    with pytest.raises(SeqpairError, match="whole matrices"):
        make_optimizer(module, plan, lambda name: int("weight" in name), sharding.sum)


def test_hybrid_needs_equally_many_ranks_on_every_machine():
    with pytest.raises(SeqpairError, match="equally many ranks on every machine\n  seen: 6 ranks, 4 on this machine"):
        Sharding(World(0, 6, 0, torch.device("cpu"), "gloo", ranks_per_machine=4), "hybrid")
