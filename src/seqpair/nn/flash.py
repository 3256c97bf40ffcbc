"""The flash-attn package as a kernel: for those who have installed it, never required.

Not run on this project's machines: its tests carry the mark `gpu`.
"""

from __future__ import annotations

import importlib
import importlib.util

import torch
from torch import Tensor

from seqpair.errors import SeqpairError
from seqpair.nn.layout import Layout


def flash_is_usable(query: Tensor) -> bool:
    """Return whether flash-attn is installed and takes such queries: half precision on a GPU."""
    return (
        query.device.type == "cuda"
        and query.dtype in (torch.bfloat16, torch.float16)
        and importlib.util.find_spec("flash_attn") is not None
    )


def attend_flash(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: tuple[int | None, int | None]
) -> Tensor:
    """Attend within each sequence and window; arguments and result as `attend_reference`, half precision.

    Raises:
        SeqpairError: Not on a GPU in half precision, or flash-attn is not installed.
    """
    if not flash_is_usable(query):
        raise SeqpairError(
            "the flash kernel cannot run here",
            seen=f"{query.device.type}, {query.dtype}",
            allowed="bf16 or fp16 on a GPU, with the flash-attn package installed",
            fix="set runtime.kernel to auto; torch's own `varlen` is the same algorithm",
        )
    attend = importlib.import_module("flash_attn").flash_attn_varlen_func
    starts = layout.derive("int32 starts", lambda: layout.starts.to(torch.int32))
    left, right = (-1 if side is None else side for side in window)
    out: Tensor = attend(
        query,
        key,
        value,
        starts,
        starts,
        layout.max_length,
        layout.max_length,
        causal=right == 0,
        window_size=(left, right),
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )
    return out
