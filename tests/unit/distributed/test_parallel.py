import torch
from torch import nn

from seqpair.distributed.parallel import no_sync, wrap
from seqpair.distributed.world import start_world


def test_one_rank_keeps_the_module_as_it_is() -> None:
    module = nn.Linear(2, 2)
    wrapped = wrap(module, start_world("cpu", environment={}))
    assert wrapped is module
    with no_sync(wrapped):
        wrapped(torch.ones(1, 2)).sum().backward()
    assert module.weight.grad is not None
