"""What one rank runs in the two-rank tests: `python rank_programs.py <program>`, under torchrun's variables.

It prints "ready" once torch is imported and waits for a line of input, so that the ranks start together
and short timeouts do not depend on how busy the machine is. Its last line of output is one JSON value.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings

import torch
from torch import nn

from seqpair.distributed.heartbeat import INTERVAL_SECONDS
from seqpair.distributed.world import World, no_sync, start_world, wrap
from seqpair.errors import TrainingError
from seqpair.optim.choice import parameter_groups
from seqpair.optim.stable_adamw import StableAdamW


class TiedInTheLoss(nn.Module):
    """Its table is used in `forward` and again by the loss, outside; its bias only outside."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(6, 4, generator=generator))
        self.bias = nn.Parameter(torch.zeros(6))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return hidden states (N, 4) of ids (N,)."""
        return torch.tanh(self.table[ids])


def bare_of(module: nn.Module) -> nn.Module:
    """The module inside what `wrap` returns: the one whose parameter names the optimiser uses."""
    return getattr(module, "module", module)


def summed_loss(module: nn.Module, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The sum over tokens, as training makes it: through the wrapped forward and the bare module's table."""
    bare = bare_of(module)
    logits = module(ids) @ bare.table.T + bare.bias
    return nn.functional.cross_entropy(logits, targets, reduction="sum")


def tokens() -> tuple[torch.Tensor, torch.Tensor]:
    """Eleven tokens of a step, shared unequally by the ranks."""
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 6, (11,), generator=generator), torch.randint(0, 6, (11,), generator=generator)


def train(world: World, steps: int) -> dict[str, object]:
    """Train on the tokens, in two microbatches a rank, the loss divided by the whole step's tokens."""
    module = wrap(TiedInTheLoss(seed=world.rank), world)  # other seeds: wrapping makes the ranks equal
    optimizer = StableAdamW(parameter_groups(bare_of(module), 0.01), 1e-2)
    ids, targets = tokens()
    spans = [(0, 3), (3, 7), (7, 8), (8, 11)]
    mine = spans if world.world_size == 1 else spans[2 * world.rank : 2 * world.rank + 2]
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        total = 0.0
        for number, (start, stop) in enumerate(mine):
            loss = summed_loss_in(
                module, ids[start:stop], targets[start:stop], last=number == len(mine) - 1, world=world
            )
            total += loss
        losses.append(world.all_reduce_sum([total])[0])
        optimizer.step()
    return {
        "losses": losses,
        "parameters": {name: parameter.tolist() for name, parameter in bare_of(module).named_parameters()},
    }


def summed_loss_in(module: nn.Module, ids: torch.Tensor, targets: torch.Tensor, *, last: bool, world: World) -> float:
    """Run one microbatch forward and backward; return its part of the step's mean loss."""
    if not last:
        with no_sync(module):
            return summed_loss_in(module, ids, targets, last=True, world=world)
    loss = summed_loss(module, ids, targets) / 11
    (loss * world.world_size).backward()
    return loss.item()


def exchanges(world: World) -> dict[str, object]:
    """Sums, a broadcast and a barrier."""
    sums = world.all_reduce_sum([world.rank + 1, 2**52 + world.rank, 0.5])
    text = {"name": "dec\u00f6der", "list": [1, None, 2.5]}
    value = world.broadcast_json(text if world.is_main else {"not": "this"})
    nothing = world.broadcast_json(None)
    world.barrier()
    return {"sums": sums, "value": value, "nothing": nothing, "backend": world.backend, "main": world.is_main}


def one_rank_dies(world: World) -> dict[str, object]:
    """Rank 1 is gone without a word; rank 0 must not wait for ever."""
    world.enter(3, "reading the batch")
    if world.rank == 1:
        time.sleep(2 * INTERVAL_SECONDS)  # so that the others know where it was
        os._exit(9)
    return waits(world)


def one_rank_stops(world: World) -> dict[str, object]:
    """Rank 1 is stopped by a signal: its connections stay open."""
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    return waits(world)


def one_rank_hangs(world: World) -> dict[str, object]:
    """Rank 1 is there but does not come."""
    if world.rank == 1:
        time.sleep(600)
        os._exit(9)
    return waits(world)


def waits(world: World) -> dict[str, object]:
    """Wait for the others and say how it ended."""
    started = time.monotonic()
    try:
        world.barrier()
    except TrainingError as error:
        return {"error": str(error), "seconds": time.monotonic() - started}
    return {"error": None}


PROGRAMS = {
    "exchanges": exchanges,
    "train": lambda world: train(world, steps=4),
    "one_rank_dies": one_rank_dies,
    "one_rank_stops": one_rank_stops,
    "one_rank_hangs": one_rank_hangs,
}


def main(names: list[str]) -> None:
    """Run the programs in one world and print their values by name."""
    warnings.simplefilter("error")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    world = start_world("cpu", timeout_seconds=4.0)
    values = {name: PROGRAMS[name](world) for name in names}
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()
    if not any(name.startswith("one_rank") for name in names):
        world.stop()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
