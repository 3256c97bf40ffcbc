"""The CUDA kernel: `torch.nn.attention.varlen`, flash attention over packed sequences.

Not run on this project's CPU machines: its tests carry the mark `gpu`.
"""

from __future__ import annotations

import functools
import importlib.util

import torch
import torch.nn.attention
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from seqpair.errors import SeqpairError
from seqpair.nn.layout import Layout


def varlen_is_usable(query: Tensor) -> bool:
    """Return whether the kernel takes such queries: half precision on CUDA, not ROCm, Ampere or newer."""
    return (
        query.device.type == "cuda"
        and query.dtype in (torch.bfloat16, torch.float16)
        and torch.version.hip is None
        and _is_ampere_or_newer(query.device.index)
    )


@torch.compiler.assume_constant_result
def _is_ampere_or_newer(device_index: int) -> bool:
    return torch.cuda.get_device_capability(device_index) >= (8, 0)


@torch.compiler.assume_constant_result
@functools.cache
def flash_generation(device_index: int) -> str:
    """Return the flash attention that torch uses from here on, `FA2` or `FA3`, after choosing the newest.

    FlashAttention 3 is for Hopper (compute capability 9.0) and comes in a package of its own,
    `flash_attn_interface`; torch calls it once it is activated, for the whole process. A kernel that
    somebody has activated before stays.
    """
    active = torch.nn.attention.current_flash_attention_impl()
    if active is not None:
        return active
    is_hopper = torch.cuda.get_device_capability(device_index)[0] == 9
    known = "FA3" in torch.nn.attention.list_flash_attention_impls()
    if not (is_hopper and known and importlib.util.find_spec("flash_attn_interface")):
        return "FA2"
    torch.nn.attention.activate_flash_attention_impl("FA3")
    return "FA3"


def short_starts(layout: Layout) -> Tensor:
    """Return the boundaries as int32, (S + 1,); S may be any number in a compiled model."""
    return layout.derive("int32 starts", lambda: _any_length(layout.starts.to(torch.int32)))


def _any_length(starts: Tensor) -> Tensor:
    if not torch.compiler.is_compiling():
        torch._dynamo.mark_dynamic(starts, 0)
    return starts


def attend_varlen(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: tuple[int | None, int | None]
) -> Tensor:
    """Attend within each sequence and window; arguments and result as `attend_reference`, half precision.

    Raises:
        SeqpairError: Not on a CUDA device that has it, or not in half precision.
    """
    if not varlen_is_usable(query):
        raise SeqpairError(
            "the varlen kernel cannot run here",
            seen=f"{query.device.type}, {query.dtype}",
            allowed="bf16 or fp16 on a CUDA device of compute capability 8.0 or newer",
            fix="set runtime.kernel to auto, or runtime.precision to bf16",
        )
    flash_generation(query.device.index)
    starts = short_starts(layout)
    left, right = (-1 if side is None else side for side in window)
    parts = (states.contiguous() for states in (query, key, value))
    return varlen_attn(*parts, starts, starts, layout.max_length, layout.max_length, window_size=(left, right))
