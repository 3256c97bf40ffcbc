"""The gate of the MLP: gelu(u) * g, with one tensor kept for the backward pass instead of four."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def gated_gelu(states: Tensor) -> Tensor:
    """Return gelu(u) * g, (N, F), where (u, g) are the halves of (N, 2F) states; exact GELU."""
    if torch.compiler.is_compiling():  # the compiler fuses the definition, and decides itself what to keep
        activated, gate = states.chunk(2, dim=-1)
        return F.gelu(activated) * gate
    out: Tensor = _GatedGelu.apply(states)
    return out


class _GatedGelu(torch.autograd.Function):
    """Keeps (u, g) only; gelu(u) is made again, which costs less than to write and read it."""

    @staticmethod
    def forward(ctx: Any, states: Tensor) -> Tensor:
        ctx.save_for_backward(states)
        activated, gate = states.chunk(2, dim=-1)
        return F.gelu(activated).mul_(gate)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (states,) = ctx.saved_tensors
        activated, gate = states.chunk(2, dim=-1)
        out = torch.empty_like(states)
        grad_activated, grad_gate = out.chunk(2, dim=-1)
        torch.mul(F.gelu(activated), grad, out=grad_gate)
        torch.ops.aten.gelu_backward.grad_input(grad * gate, activated, grad_input=grad_activated)
        return out
