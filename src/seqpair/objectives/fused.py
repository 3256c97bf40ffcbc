"""The passes over a chunk of logits as two Triton kernels, for `runtime.loss: triton`.

The first finds each row's log of the sum of exponentials. The second overwrites the logits with their gradients and
adds these up by columns on the way. Together they move 3 numbers per logit, torch's operations 4, or 6 with votes. Sums
are in fp32 and in a fixed order, so a repeated call gives the same bits. The kernels were run through Triton's
interpreter on a CPU and compiled for sm_80 and sm_90; no GPU has run them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROW_BLOCK = 4096
"""Logits of one row that a program of the first kernel reads at a time."""
_TILE_ROWS, _TILE_COLUMNS = 16, 256
_ROW_GROUPS = 8
"""Programs of the second kernel per block of columns; each adds up its share of the rows."""


@triton.jit
def _row_losses(
    logits,
    stride,
    targets,
    votes,
    log_sums,
    losses,
    columns,
    block: tl.constexpr,
):
    row = tl.program_id(0)
    start = logits + row.to(tl.int64) * stride  # a chunk has more logits than 32 bits count bytes
    peak = float("-inf")
    total = 0.0
    for first in range(0, columns, block):
        column = first + tl.arange(0, block)
        some = tl.load(start + column, mask=column < columns, other=float("-inf")).to(tl.float32)
        higher = tl.maximum(peak, tl.max(some, 0))
        # What was added up so far was relative to a lower peak.
        total = total * tl.exp(peak - higher) + tl.sum(tl.exp(some - higher), 0)
        peak = higher
    log_sum = peak + tl.log(total)
    loss = log_sum - tl.load(start + tl.load(targets + row)).to(tl.float32)
    if votes is not None:
        loss *= tl.load(votes + row)
    tl.store(log_sums + row, log_sum)
    tl.store(losses + row, loss)


@triton.jit
def _row_gradients(
    logits,
    stride,
    targets,
    votes,
    log_sums,
    column_sums,
    rows,
    columns,
    group_rows,
    tile_rows: tl.constexpr,
    tile_columns: tl.constexpr,
):
    group = tl.program_id(1)
    column = tl.program_id(0) * tile_columns + tl.arange(0, tile_columns)
    end = tl.minimum((group + 1) * group_rows, rows)
    sums = tl.zeros((tile_columns,), tl.float32)
    for first in range(group * group_rows, end, tile_rows):
        row = first + tl.arange(0, tile_rows)
        known = row < end
        places = logits + row.to(tl.int64)[:, None] * stride + column[None, :]
        inside = known[:, None] & (column < columns)[None, :]
        some = tl.load(places, mask=inside, other=float("-inf")).to(tl.float32)
        shares = tl.exp(some - tl.load(log_sums + row, mask=known, other=0.0)[:, None])
        is_target = column[None, :] == tl.load(targets + row, mask=known, other=-1)[:, None]
        # share - 1 is taken in fp32 and rounded afterwards, so a share near 1 keeps the digits of what it lacks.
        gradients = tl.where(is_target, shares - 1.0, shares)
        if votes is not None:
            gradients *= tl.load(votes + row, mask=known, other=0.0)[:, None]
        gradients = tl.where(inside, gradients, 0.0)
        tl.store(places, gradients, mask=inside)
        sums += tl.sum(gradients, 0)
    tl.store(column_sums + group * columns + column, sums, mask=column < columns)


def to_gradients(logits: Tensor, targets: Tensor, votes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Overwrite logits with the gradients of the summed loss by them.

    Args:
        logits: (M, V) with the bias, in any floating dtype; rows are contiguous.
        targets: (M,) int64 in [0, V).
        votes: (M,) fp32, the factor of each row's loss, or None; a row with 0 counts nowhere.

    Returns:
        The summed loss, a scalar, and the gradients summed over the rows, (V,), which is that of the bias; both fp32.
    """
    rows, columns = logits.shape
    log_sums, losses = torch.empty(2, rows, dtype=torch.float32, device=logits.device)
    column_sums = torch.zeros(_ROW_GROUPS, columns, dtype=torch.float32, device=logits.device)
    about = (logits, logits.stride(0), targets, votes, log_sums)
    block = min(_ROW_BLOCK, triton.next_power_of_2(columns))
    _row_losses[(rows,)](*about, losses, columns, block)
    group_rows = triton.cdiv(rows, _ROW_GROUPS)
    grid = (triton.cdiv(columns, _TILE_COLUMNS), _ROW_GROUPS)
    _row_gradients[grid](*about, column_sums, rows, columns, group_rows, _TILE_ROWS, _TILE_COLUMNS)
    return losses.sum(), column_sums.sum(0)
