"""One optimiser update: the batch's gradient, its loss, and what is worth recording of it.

Owns gradient accumulation and the divisor: the loss of a step is the mean over all predicted tokens of
the whole batch, whatever the world size, the microbatch size and the layout. Must not know phases,
files or schedules. Entry points: `ObjectiveLoss`, `StepInput`, `accumulate_gradients`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from seqpair.data.batches import Batch, assemble, sequence_lengths
from seqpair.data.packing import microbatches
from seqpair.data.tokenizer import SpecialIds
from seqpair.distributed.parallel import no_sync
from seqpair.distributed.world import World
from seqpair.errors import NotFiniteError
from seqpair.nn.model import LanguageModel
from seqpair.nn.rope import RopeBases
from seqpair.objectives.loss import summed_cross_entropy
from seqpair.objectives.parts import Part
from seqpair.objectives.targets import Chosen, ModelInput, TargetBuilder
from seqpair.recipe.objectives import Objective


class ObjectiveLoss(nn.Module):
    """A language model and its summed loss as one module, so that DDP can wrap the whole of it."""

    def __init__(self, model: LanguageModel) -> None:
        """Keep the model; it has no parameters of its own."""
        super().__init__()
        self.model = model

    def forward(self, given: ModelInput, rope: RopeBases) -> Tensor:
        """Return the summed negative log-likelihood of a microbatch's targets, in nats, as a scalar."""
        states = self.model(given.ids, given.layout, given.direction, rope, given.output_index)  # (M, D)
        return summed_cross_entropy(states, self.model.output_weight, self.model.output_bias, given.target_ids)


@dataclass(frozen=True)
class StepInput:
    """What one update needs to know.

    Attributes:
        batch: The step's sequences, over all ranks.
        parts: Which of them train which objective.
        mask_frac: Share of content tokens to choose, for objectives that corrupt.
        rope: The phase's RoPE bases.
        microbatch_tokens: Token budget of one microbatch.
    """

    batch: Batch
    parts: tuple[Part, ...]
    mask_frac: float | None
    rope: RopeBases
    microbatch_tokens: int


@dataclass(frozen=True)
class StepLoss:
    """A step's loss in nats per predicted token, how many were predicted, and the share of dummy tokens."""

    loss: float
    predicted: int
    waste_frac: float


def accumulate_gradients(
    module: nn.Module, given: StepInput, builder: TargetBuilder, specials: SpecialIds, world: World, *, bf16: bool
) -> StepLoss:
    """Run forward and backward over this rank's microbatches.

    Afterwards every parameter's gradient is that of the mean loss over all predicted tokens of the
    whole batch. The divisor is counted before the first backward.

    Args:
        module: `ObjectiveLoss`, wrapped in DDP or not; gradients must be unset.
        given: The step.
        builder: Makes inputs and targets.
        specials: The tokenizer's special ids.
        world: The ranks.
        bf16: Run under bfloat16 autocast.

    Raises:
        TrainingError: The loss is not finite; the message has the batch's address.
    """
    batch = given.batch
    chosen = [builder.choose(part, batch, given.mask_frac) for part in given.parts]
    divisor = max(1, sum(part.count for part in chosen))
    work = _work_of_rank(given, chosen, world)
    total = torch.zeros((), dtype=torch.float64, device=world.device)
    dummy_tokens = real_tokens = 0
    for number, (objective, indices, predicted) in enumerate(work):
        if indices.size:
            rows = assemble(batch, indices, specials, objective.ends_every_piece)
            inputs = builder.build(objective, rows, predicted, world.device)
            real_tokens += int(rows.lengths.sum())
        else:
            inputs = builder.dummy(objective, world.device)
            dummy_tokens += 1
        last = number == len(work) - 1
        with contextlib.nullcontext() if last else no_sync(module), _autocast(world.device, active=bf16):
            loss = module(inputs, given.rope)
            (loss * (world.world_size / divisor)).backward()
        total += loss.detach()
    summed, dummies, real = world.all_reduce_sum([float(total), float(dummy_tokens), float(real_tokens)])
    if not math.isfinite(summed):
        raise not_finite(batch, "loss", summed)
    return StepLoss(loss=summed / divisor, predicted=divisor, waste_frac=dummies / (dummies + real))


def not_finite(batch: Batch, what: str, value: float) -> NotFiniteError:
    """Return the error for a number that is not finite, with the batch's address."""
    rows = ", ".join(str(row) for row in batch.rows[:8])
    return NotFiniteError(
        f"the {what} is not finite in phase {batch.phase!r}, step {batch.step}",
        seen=f"{value} at positions {int(batch.positions[0])}..{int(batch.positions[-1])} (first store rows: {rows})",
        allowed="finite numbers",
        fix=f"look at the documents with `seqpair order RECIPE --step {batch.step} --phase {batch.phase}`; lower "
        "optimizer.lr or set optimizer.clip_norm; the last checkpoint is untouched",
    )


def _work_of_rank(
    given: StepInput, chosen: Sequence[Chosen], world: World
) -> list[tuple[Objective, NDArray[np.int64], Chosen]]:
    """Return this rank's microbatches, part after part: each has one objective, so one direction."""
    work: list[tuple[Objective, NDArray[np.int64], Chosen]] = []
    for part, predicted in zip(given.parts, chosen, strict=True):
        lengths = sequence_lengths(given.batch, part.objective.ends_every_piece)[part.indices]
        mine = microbatches(lengths, world.world_size, given.microbatch_tokens)[world.rank]
        work += [(part.objective, part.indices[group], predicted) for group in mine]
    return work


def _autocast(device: torch.device, *, active: bool) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=active)
