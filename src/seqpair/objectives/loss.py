"""The loss: cross entropy summed over predicted positions, without ever holding all logits.

Owns the vocabulary projection in training. Must not know objectives. Gradients are made in the
forward pass, chunk by chunk, while a chunk's logits are at hand. Entry points: `summed_cross_entropy`,
`token_scores`.

The gradient of one row's loss by its logits is softmax(logits) - onehot(target).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

_CHUNK_BYTES_CPU = 8 << 20
_CHUNK_BYTES_DEVICE = 1 << 30
_FEWEST_ROWS = 512


def _chunk_rows(states: Tensor, weight: Tensor) -> int:
    """Return how many rows of logits are held at once.

    On a CPU 8 MB, which stays in the cache; but never so few rows that the products become narrow and
    the whole weight gradient is gone through too often (512 rows of V = 50,368 are 103 MB).
    """
    budget = _CHUNK_BYTES_CPU if states.device.type == "cpu" else _CHUNK_BYTES_DEVICE
    return max(_FEWEST_ROWS, budget // (4 * weight.shape[0]))


def _matrix_dtype(states: Tensor) -> torch.dtype:
    """Return the dtype of the matrix products: autocast's if it is on, else the states' own."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype


def _logit_chunks(
    states: Tensor, weight: Tensor, bias: Tensor, chunk_rows: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield (rows, states of the rows, their logits in the bias's dtype); the logits' memory is used again."""
    transposed = weight.t()
    held = bias.new_empty(min(chunk_rows, states.shape[0]), weight.shape[0])
    for first in range(0, states.shape[0], chunk_rows):
        rows = slice(first, min(first + chunk_rows, states.shape[0]))
        chunk = states[rows]
        logits = held[: chunk.shape[0]]
        if chunk.dtype == bias.dtype:
            torch.mm(chunk, transposed, out=logits)
        else:
            logits.copy_(chunk @ transposed)
        yield rows, chunk, logits.add_(bias)


class _SummedCrossEntropy(torch.autograd.Function):
    """Sum of losses; gradients by states, weight and bias are ready when the forward returns."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, chunk_rows: int) -> Tensor:
        wants_states, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        dtype = _matrix_dtype(states)
        total = torch.zeros((), dtype=bias.dtype, device=states.device)
        grad_states = torch.empty_like(states) if wants_states else None
        grad_weight = torch.zeros_like(weight) if wants_weight else None
        grad_bias = torch.zeros_like(bias) if wants_bias else None
        with torch.autocast(states.device.type, enabled=False):
            table = weight.to(dtype)
            for rows, chunk, logits in _logit_chunks(states.to(dtype), table, bias, chunk_rows):
                wanted = targets[rows, None]
                picked = logits.gather(1, wanted)
                peak = logits.amax(1, keepdim=True)
                weights = logits.sub_(peak).exp_()
                norm = weights.sum(1, keepdim=True)
                total += (norm.log() + peak - picked).sum()
                if not (wants_states or wants_weight or wants_bias):
                    continue
                grad_logits = weights.div_(norm)
                grad_logits.scatter_add_(1, wanted, grad_logits.new_full((1, 1), -1.0).expand_as(wanted))
                if grad_bias is not None:
                    grad_bias += grad_logits.sum(0)
                grad_logits = grad_logits.to(dtype)
                if grad_states is not None:
                    grad_states[rows] = grad_logits @ table
                if grad_weight is not None:
                    _add_product(grad_weight, grad_logits.t(), chunk)
        ctx.grads = (grad_states, grad_weight, grad_bias)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return (*(None if made is None else made * grad for made in ctx.grads), None, None)


def _add_product(out: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to `out`, which may be of a wider dtype than the product."""
    if left.dtype == out.dtype:
        out.addmm_(left, right)
    else:
        out += left @ right


def summed_cross_entropy(
    head_states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, chunk_rows: int | None = None
) -> Tensor:
    """Return the cross entropy summed over M rows, differentiable in states, weight and bias.

    The caller divides by the predicted tokens of the whole batch: one token, one vote.

    Args:
        head_states: (M, D); M may be 0, which gives 0 and zero gradients.
        weight: (V, D), the tied token table.
        bias: (V,).
        targets: (M,) int64 in [0, V).
        chunk_rows: Rows of logits held at once; by default what suits the device.

    Returns:
        A scalar, in the bias's dtype (fp32), also under autocast.
    """
    rows = chunk_rows or _chunk_rows(head_states, weight)
    total: Tensor = _SummedCrossEntropy.apply(head_states, weight, bias, targets, rows)
    return total


@torch.no_grad()
def token_scores(
    head_states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, chunk_rows: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return each row's loss and whether its target is the most likely token; no gradient, in chunks.

    Args:
        head_states: (M, D).
        weight: (V, D).
        bias: (V,).
        targets: (M,) int64.
        chunk_rows: Rows of logits held at once.

    Returns:
        Losses (M,) in nats, fp32, and hits (M,) bool.
    """
    losses = torch.empty(targets.shape[0], dtype=bias.dtype, device=bias.device)
    hits = torch.empty(targets.shape[0], dtype=torch.bool, device=bias.device)
    dtype = _matrix_dtype(head_states)
    rows_held = chunk_rows or _chunk_rows(head_states, weight)
    with torch.autocast(head_states.device.type, enabled=False):
        for rows, _, logits in _logit_chunks(head_states.to(dtype), weight.to(dtype), bias, rows_held):
            picked = logits.gather(1, targets[rows, None])[:, 0]
            losses[rows] = logits.logsumexp(1) - picked
            hits[rows] = logits.argmax(1) == targets[rows]
    return losses, hits
