"""The ranks of a world without processes, one after another: their shares of a step and what they tell each other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from seqpair.train.feed import agree, share_of_step
from seqpair.train.step import StepWork


@dataclass
class PretendedWorld:
    """One rank of several, without a process group: sums of floats stay local, whole numbers are what was told."""

    rank: int
    world_size: int
    device: torch.device = torch.device("cpu")
    told: list[np.ndarray] = field(default_factory=list)
    total: np.ndarray | None = None

    def all_reduce_sum(self, values: list[float]) -> list[float]:
        return values

    def all_reduce_integers(self, values: np.ndarray) -> np.ndarray:
        self.told.append(values.copy())
        return values if self.total is None else self.total

    def exchange(self, what: str, *, computes: bool = False) -> contextlib.nullcontext[None]:
        return contextlib.nullcontext()


def works_of_all_ranks(
    run_of: Callable[[PretendedWorld], Any], phase: Any, step: int, world_size: int
) -> list[tuple[PretendedWorld, StepWork]]:
    """Return each rank's work of a step, as `StepFeed` gives it to rank 0, 1, 2...

    Args:
        run_of: Makes a rank's run; only its plan, world, orders, builder, tokenizer and shapes are looked at.
        phase: The phase.
        step: The step.
        world_size: How many ranks.
    """
    worlds = [PretendedWorld(rank, world_size) for rank in range(world_size)]
    shares = [share_of_step(run_of(world), phase, step) for world in worlds]
    for world, mine in zip(worlds, shares, strict=True):
        agree(mine, world)
    total = np.sum([world.told[0] for world in worlds], axis=0)
    for world in worlds:
        world.total = total
    return [(world, agree(mine, world)) for world, mine in zip(worlds, shares, strict=True)]
