"""Parameters sharded over ranks by torch's FSDP2, and tensors cut for it and put together again for checkpoints.

Source: `torch.distributed.fsdp.fully_shard`, around every layer and then around the whole loss.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from seqpair.distributed.world import World
from seqpair.errors import SeqpairError
from seqpair.optim.stable_adamw import is_sharded

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


class Sharding:
    """How parameters, gradients and optimiser states are cut over the ranks of a world.

    Args:
        world: The ranks, at least two.
        kind: `full`: over all ranks; `hybrid`: over the ranks of each machine, which hold copies of each other.

    Raises:
        SeqpairError: `hybrid`, and the machines do not run equally many ranks.
    """

    def __init__(self, world: World, kind: str) -> None:
        from torch.distributed.device_mesh import init_device_mesh  # costs half a second, so only where it is used

        self.world = world
        names, sizes = ("shard",), (world.world_size,)
        if kind == "hybrid":
            if world.world_size % world.ranks_per_machine:
                raise SeqpairError(
                    "hybrid sharding needs equally many ranks on every machine",
                    seen=f"{world.world_size} ranks, {world.ranks_per_machine} on this machine",
                    fix="start torchrun with one --nproc-per-node on all machines, or set runtime.sharding to full",
                )
            names = ("replicate", "shard")
            sizes = (world.world_size // world.ranks_per_machine, world.ranks_per_machine)
        self.mesh: DeviceMesh = init_device_mesh(world.device.type, sizes, mesh_dim_names=names)
        world.allow(world.timeout_seconds)  # the mesh has groups of its own

    def wrap(self, root: nn.Module, layers: Iterable[nn.Module]) -> nn.Module:
        """Shard the parameters in place, those of each layer together and all others with the root.

        Every rank keeps its part of the values it has, which must be equal on all. Gradients are the mean over ranks,
        as `world.wrap` says. `root.scores` gathers parameters as its forward pass does.
        """
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        for layer in layers:
            fully_shard(layer, mesh=self.mesh)
        # The token table is read at the start and, as the output, at the end: it stays whole in between.
        fully_shard(root, mesh=self.mesh, reshard_after_forward=False)
        register_fsdp_forward_method(root, "scores")
        return root

    def sum(self, values: Tensor) -> Tensor:
        """Return the sums over the ranks that hold parts of one copy; the tensor is overwritten."""
        with self.world.exchange("sums of the optimiser's shards"):
            dist.all_reduce(values, group=self.mesh.get_group("shard"))
        return values

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return tensors put together on rank 0's CPU, one by one, so that a device holds one whole tensor at a time.

        All ranks call it, and all but rank 0 get nothing.
        """
        found: dict[str, Tensor] = {}
        with self.world.exchange("the shards of a checkpoint"):
            for name, tensor in tensors.items():
                full = tensor.full_tensor() if is_sharded(tensor) else tensor
                if self.world.is_main:
                    found[name] = full.to("cpu", copy=True)
        return found


@torch.no_grad()
def cut_like(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return whole tensors as this rank's parts of them, where its own tensors of these names are sharded."""
    return {name: _cut(own[name], tensor) if name in own else tensor for name, tensor in given.items()}


def _cut(own: Any, tensor: Tensor) -> Tensor:
    if not is_sharded(own):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    # Without a source rank nothing is sent: every rank has read the whole tensor.
    return distribute_tensor(tensor.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
