"""One optimiser update: the batch's gradient, its loss, and what is worth recording of it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seqpair.data.order.ledger import LedgerRecord
from seqpair.distributed.acceleration import CountedCompile
from seqpair.distributed.world import World, no_sync
from seqpair.errors import NotFiniteError
from seqpair.nn.model import LanguageModel
from seqpair.nn.rope import RopeBases
from seqpair.objectives.loss import summed_cross_entropy, token_scores
from seqpair.objectives.targets import ModelInput


class ObjectiveLoss(nn.Module):
    """A language model and its summed loss as one module, so that DDP can wrap the whole of it.

    Args:
        model: The model.
        compiled: Runs the model's forward pass, compiled; without it, it is run as it is.
        fused: Let Triton kernels make the loss's passes over the logits.
    """

    def __init__(self, model: LanguageModel, compiled: CountedCompile | None = None, *, fused: bool = False) -> None:
        super().__init__()
        self.model, self._compiled, self._fused = model, compiled, fused

    def forward(self, given: ModelInput, rope: RopeBases) -> Tensor:
        """Return a microbatch's negative log-likelihood in nats, summed over its targets' votes, as a scalar."""
        states = self._states(given, rope)[: given.target_ids.shape[0]]  # (M, D); fixed shapes have more outputs
        weight, bias = self.model.output_weight, self.model.output_bias
        return summed_cross_entropy(states, weight, bias, given.target_ids, votes=given.votes, fused=self._fused)

    def scores(self, given: ModelInput, rope: RopeBases) -> tuple[Tensor, Tensor]:
        """Return each target's loss in nats, (M,), and whether it is the most likely token; for measuring."""
        states = self.model(given.ids, given.layout, given.direction, rope, given.output_index)
        return token_scores(states, self.model.output_weight, self.model.output_bias, given.target_ids)

    def _states(self, given: ModelInput, rope: RopeBases) -> Tensor:
        arguments = (given.ids, given.layout, given.direction, rope, given.output_index)
        if self._compiled is None:
            states: Tensor = self.model(*arguments)
            return states
        self.model.backbone.derive_tables(given.layout, rope)  # outside of the graph, where it is an input
        shape = (given.direction, given.layout.total, given.layout.max_length, rope)
        about = f"{given.direction}, {given.layout.total} tokens, {given.output_index.shape[0]} outputs"
        return self._compiled(shape, about, *arguments)


@dataclass(frozen=True)
class StepWork:
    """A step that can be run.

    Attributes:
        record: What the ledger keeps of the step, over all ranks.
        rope: The phase's RoPE bases.
        divisor: What the summed loss of the whole batch is divided by, over all ranks; at least 1.
        predicted: Predicted tokens of the whole batch, over all ranks.
        tokens: Tokens of the whole batch with specials, over all ranks.
        microbatches: This rank's, in order, at least one, on the host; may be made as they are asked for.
    """

    record: LedgerRecord
    rope: RopeBases
    divisor: int
    predicted: int
    tokens: int
    microbatches: Iterable[ModelInput]


@dataclass(frozen=True)
class StepLoss:
    """A step's loss in nats per vote, how many tokens were predicted, and the share of filler tokens."""

    loss: float
    predicted: int
    waste_frac: float


def accumulate_gradients(module: nn.Module, work: StepWork, world: World, *, bf16: bool) -> StepLoss:
    """Run forward and backward over this rank's microbatches.

    Afterwards every parameter's gradient is that of the mean loss over all votes of the
    whole batch. The divisor is known before the first backward.

    Args:
        module: `ObjectiveLoss`, wrapped in DDP or not; gradients must be unset.
        work: The step.
        world: The ranks.
        bf16: Run under bfloat16 autocast.

    Raises:
        NotFiniteError: The loss is not finite; the message has the step's address.
    """
    total = torch.zeros((), dtype=torch.float64, device=world.device)
    filler_tokens = all_tokens = 0
    for made, is_last in _with_last(work.microbatches):
        filler_tokens += made.filler_tokens
        all_tokens += made.layout.total
        inputs = made.map_tensors(lambda tensor: tensor.to(world.device, non_blocking=True))
        accumulates = contextlib.nullcontext() if is_last else no_sync(module)
        with accumulates, autocast(world.device, active=bf16), world.exchange("the gradients", computes=True):
            loss = module(inputs, work.rope)
            (loss * (world.world_size / work.divisor)).backward()
        total += loss.detach()
    summed, filler, everything = world.all_reduce_sum([float(total), float(filler_tokens), float(all_tokens)])
    if not math.isfinite(summed):
        raise not_finite(work.record, "loss", summed)
    return StepLoss(loss=summed / work.divisor, predicted=work.predicted, waste_frac=filler / everything)


def _with_last(microbatches: Iterable[ModelInput]) -> Iterator[tuple[ModelInput, bool]]:
    """Yield each microbatch and whether it is the last, whose backward exchanges the gradients."""
    rest = iter(microbatches)
    held = next(rest)
    for following in rest:
        yield held, False
        held = following
    yield held, True


def not_finite(step: LedgerRecord, what: str, value: float) -> NotFiniteError:
    """Return the error for a number that is not finite, with the step's address."""
    return NotFiniteError(
        f"the {what} is not finite in phase {step.phase!r}, step {step.step}",
        seen=f"{value} at positions {step.first_position}..{step.stop_position - 1}",
        allowed="finite numbers",
        fix=f"look at the documents with `seqpair order RECIPE --step {step.step} --phase {step.phase}`; lower "
        "optimizer.lr or set optimizer.clip_norm; the last checkpoint is untouched",
    )


def autocast(device: torch.device, *, active: bool) -> torch.autocast:
    """Return the context in which matrix products are in bf16, if `active`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=active)
