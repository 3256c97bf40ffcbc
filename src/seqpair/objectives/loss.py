"""The loss: cross entropy summed over predicted positions, without ever holding all logits.

Gradients are made in the forward pass, chunk by chunk, while a chunk's logits are at hand. On a CPU the passes over
them are in fp32 and in the cache. On a GPU they are what bounds a small model: there are few, in the products' dtype.

The gradient of one row's loss by its logits is softmax(logits) - onehot(target).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from seqpair.recipe.cost import loss_chunk_rows

_CACHE_BYTES = 3 << 19
"""Logits that the passes of the softmax work on at a time on a CPU (1.5 MB): they stay in the cache
between passes, which made the passes twice as fast at V = 50,368."""


def _matrix_dtype(states: Tensor) -> torch.dtype:
    """Return the dtype of the matrix products: autocast's if it is on, else the states' own."""
    device = states.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype


def _logit_chunks(
    states: Tensor, weight: Tensor, dtype: torch.dtype, chunk_rows: int, bias: Tensor | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, their logits in `dtype`); the logits' memory is used again.

    The bias is added where it is given, which has to be in the states' own dtype.
    """
    transposed = weight.t()
    # One buffer for all chunks: memory that is new for each chunk would be cleared page by page each time.
    held = states.new_empty(min(chunk_rows, states.shape[0]), weight.shape[0], dtype=dtype)
    for first in range(0, states.shape[0], chunk_rows):
        rows = slice(first, min(first + chunk_rows, states.shape[0]))
        logits = held[: rows.stop - rows.start]
        if bias is not None:
            torch.addmm(bias, states[rows], transposed, out=logits)
        elif states.dtype == dtype:
            torch.mm(states[rows], transposed, out=logits)
        else:
            logits.copy_(states[rows] @ transposed)
        yield rows, logits


def _cached_parts(logits: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield a few rows of a chunk's logits at a time on a CPU, so that they stay in its cache; else all."""
    rows = logits.shape[0]
    if logits.device.type == "cpu":
        rows = max(1, _CACHE_BYTES // (4 * logits.shape[1]))
    for first in range(0, logits.shape[0], rows):
        yield slice(first, first + rows), logits[first : first + rows]


def _to_gradients(logits: Tensor, bias: Tensor, targets: Tensor, votes: Tensor | None) -> Tensor:
    """Turn logits without their bias into gradients by the logits, in place; return the summed loss."""
    wanted = targets[:, None]
    picked = logits.add_(bias).gather(1, wanted)  # before the logits are overwritten
    peak = logits.amax(1, keepdim=True)  # taken out, so that no exponential overflows
    powers = logits.sub_(peak).exp_()
    norm = powers.sum(1, keepdim=True)
    # softmax minus one-hot: the -1 is added at each row's target, from one expanded element.
    powers.div_(norm).scatter_add_(1, wanted, powers.new_full((1, 1), -1.0).expand_as(wanted))
    losses = norm.log_() + peak - picked
    if votes is None:
        return losses.sum()
    powers.mul_(votes[:, None])
    return (losses * votes[:, None]).sum()


def _gradients_in_few_passes(
    logits: Tensor, targets: Tensor, votes: Tensor | None, wide: torch.dtype, fused: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients by the logits, in their dtype, the summed loss, and the gradients summed over the rows."""
    if fused:
        from seqpair.objectives.fused import to_gradients  # needs triton

        return (logits, *to_gradients(logits, targets, votes))
    wanted = targets[:, None]
    grads = torch.softmax(logits, 1)  # in fp32 within the kernel; only what it writes is rounded
    own = grads.gather(1, wanted).to(wide)
    others = grads.sum(1, keepdim=True, dtype=wide) - own
    # In bf16 a share near 1 has no digits left for what it lacks of 1. The shares of all others have, so the target's
    # gradient, share - 1, is made of them; and so is the loss of a row that is right.
    grads.scatter_(1, wanted, -others.to(grads.dtype))
    losses = -torch.where(own > 0.5, 1.0 - others, own).clamp_min(torch.finfo(wide).tiny).log()
    if votes is not None:
        losses, grads = losses * votes[:, None], grads.mul_(votes[:, None])
    return grads, losses.sum(), grads.sum(0, dtype=wide)


class _SummedCrossEntropy(torch.autograd.Function):
    """Sum of losses; gradients by states, weight and bias are ready when the forward returns."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor,
        targets: Tensor,
        votes: Tensor | None,
        chunk_rows: int,
        few_passes: bool,
        fused: bool,
    ) -> Tensor:
        wants_states, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        dtype = _matrix_dtype(states)
        total = torch.zeros((), dtype=bias.dtype, device=states.device)
        grad_states = torch.empty_like(states) if wants_states else None
        grad_weight = torch.zeros_like(weight) if wants_weight else None
        grad_bias = torch.zeros_like(bias) if wants_bias else None
        # The dtypes of the products are chosen here, once. Autocast would cast the table again in every chunk, and
        # round the weight's gradient to half precision before the chunks are added up.
        with torch.autocast(states.device.type, enabled=False):
            table = weight.to(dtype)
            inputs = states.to(dtype)
            held = (dtype, chunk_rows, bias.to(dtype)) if few_passes else (bias.dtype, chunk_rows)
            for rows, logits in _logit_chunks(inputs, table, *held):
                mine = None if votes is None else votes[rows]
                if few_passes:
                    grad_logits, loss, of_bias = _gradients_in_few_passes(
                        logits, targets[rows], mine, bias.dtype, fused
                    )
                    total += loss
                    if grad_bias is not None:
                        grad_bias += of_bias
                else:
                    for some, part in _cached_parts(logits):
                        total += _to_gradients(part, bias, targets[rows][some], None if mine is None else mine[some])
                        if grad_bias is not None:
                            grad_bias += part.sum(0)
                    grad_logits = logits.to(dtype)  # the chunk's logits have become their own gradients
                if grad_states is not None:
                    grad_states[rows] = grad_logits @ table
                if grad_weight is not None:
                    _add_product(grad_weight, grad_logits.t(), inputs[rows])
        ctx.grads = (grad_states, grad_weight, grad_bias)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        # The loss is a sum, so whatever its caller does with it (a division, a scale) is one factor for all gradients.
        return (*(None if made is None else made * grad for made in ctx.grads), *(None,) * 5)


def _add_product(out: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to `out`, which may be of a wider dtype than the product."""
    if left.dtype == out.dtype:
        out.addmm_(left, right)
    elif left.is_cuda:
        torch.addmm(out, left, right, out_dtype=out.dtype, out=out)  # the product is never rounded to bf16
    else:
        out += left @ right


def summed_cross_entropy(
    head_states: Tensor,
    weight: Tensor,
    bias: Tensor,
    targets: Tensor,
    chunk_rows: int | None = None,
    votes: Tensor | None = None,
    few_passes: bool | None = None,
    fused: bool = False,
) -> Tensor:
    """Return the cross entropy summed over M rows, differentiable in states, weight and bias.

    The caller divides by the votes of the whole batch: one token, one vote, or one weighted vote.

    Args:
        head_states: (M, D); M may be 0, which gives 0 and zero gradients.
        weight: (V, D), the tied token table.
        bias: (V,).
        targets: (M,) int64 in [0, V).
        chunk_rows: Rows of logits held at once; by default what suits the device.
        votes: (M,) fp32, the factor of each row's loss; without it, each has one.
        few_passes: Hold logits and their gradients in the dtype of the matrix products; by default off a CPU.
        fused: Let two Triton kernels make the few passes.

    Returns:
        A scalar, in the bias's dtype (fp32), also under autocast.
    """
    gpu = head_states.device.type != "cpu"
    few = gpu if few_passes is None else few_passes
    logit_bytes = _matrix_dtype(head_states).itemsize if few else bias.element_size()
    rows = chunk_rows or loss_chunk_rows(weight.shape[0], logit_bytes, gpu=gpu)
    total: Tensor = _SummedCrossEntropy.apply(head_states, weight, bias, targets, votes, rows, few, fused)
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
    rows_held = chunk_rows or loss_chunk_rows(weight.shape[0], bias.element_size(), gpu=bias.device.type != "cpu")
    with torch.autocast(head_states.device.type, enabled=False):
        for rows, held in _logit_chunks(head_states.to(dtype), weight.to(dtype), bias.dtype, rows_held):
            scored = []
            for some, logits in _cached_parts(held):
                wanted = targets[rows][some]
                picked = logits.add_(bias).gather(1, wanted[:, None])[:, 0]
                scored.append((logits.logsumexp(1) - picked, logits.argmax(1) == wanted))
            losses[rows], hits[rows] = (torch.cat(column) for column in zip(*scored, strict=True))
    return losses, hits
