"""The CUDA kernel: `torch.nn.attention.varlen`, flash attention over packed sequences.

Owns the call and the question whether it can be made. Must not know layers. Entry points:
`attend_varlen`, `varlen_is_usable`. Not run on this project's CPU machines: its tests carry the mark
`gpu`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from seqpair.nn.layout import Layout


def varlen_is_usable(query: Tensor) -> bool:
    """Return whether the kernel takes such queries: half precision on CUDA, not ROCm, Ampere or newer."""
    return (
        query.device.type == "cuda"
        and query.dtype in (torch.bfloat16, torch.float16)
        and torch.version.hip is None
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )


def attend_varlen(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: tuple[int | None, int | None]
) -> Tensor:
    """Attend within each sequence and window; arguments and result as `attend_reference`, half precision."""
    starts = layout.derive("varlen", lambda: layout.starts.to(torch.int32))
    left, right = (-1 if side is None else side for side in window)
    parts = (states.contiguous() for states in (query, key, value))
    return varlen_attn(*parts, starts, starts, layout.max_length, layout.max_length, window_size=(left, right))
