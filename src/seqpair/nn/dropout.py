"""Dropout that is cheap on a CPU.

On a CPU torch draws one double a value, which costs more than the layer it regularises; here one 64-bit draw of the
global generator gives four values 16 bits each. Elsewhere, and in compiled code, it is torch's own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_LEVELS = 1 << 16


def dropout(states: Tensor, probability: float, training: bool) -> Tensor:
    """Set values to zero with a probability, and scale the others so that the expectation stays.

    Args:
        states: Any shape.
        probability: In [0, 1); on a CPU it is rounded to a multiple of 2^-16.
        training: Whether to do anything at all.
    """
    if not training or probability == 0.0:
        return states
    if states.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(states, probability)
    dropped: Tensor = _Dropout.apply(states, round(probability * _LEVELS))
    return dropped


class _Dropout(torch.autograd.Function):
    """Keeps the 0/1 mask as bytes, a quarter of the states' size."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, level: int) -> Tensor:
        words = torch.empty(-(-states.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
        kept = words.view(torch.int16)[: states.numel()].view(states.shape) >= level - _LEVELS // 2
        ctx.save_for_backward(kept)
        ctx.scale = _LEVELS / (_LEVELS - level)
        return (states * kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (kept,) = ctx.saved_tensors
        return (grad * kept).mul_(ctx.scale), None
