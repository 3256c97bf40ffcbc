"""A module wrapped for several ranks."""

from __future__ import annotations

import contextlib

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from seqpair.distributed.world import World


def wrap(module: nn.Module, world: World) -> nn.Module:
    """Return the module with its gradients averaged over all ranks; itself, if there is one rank.

    Parameters are made equal to rank 0's. Gradients are the *mean* over ranks: a loss that is a sum
    over all ranks' tokens has to be multiplied by `world.world_size` on each. Parameters that are
    used outside `forward` (a tied table in the loss) take part as well, given one backward for each forward.

    Args:
        module: On `world.device`; every trainable parameter gets a gradient in every backward.
        world: The ranks.
    """
    if world.world_size == 1:
        return module
    device_ids = [world.device.index] if world.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=device_ids, gradient_as_bucket_view=True)


def no_sync(module: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Return a block whose forward and backward only accumulate: for all microbatches of a step but the last."""
    return module.no_sync() if isinstance(module, DistributedDataParallel) else contextlib.nullcontext()
