"""The attention kernels of GPUs: torch's varlen, the flash-attn package, and FlexAttention where these do not go.

They run on CUDA only, so their tests carry the mark `gpu`; what can be checked without a GPU (FlexAttention's mask,
the choice of the flash generation) is tested everywhere. FlexAttention has no backward pass on a CPU, and compiled
it was seen to be wrong there (torch 2.13, head dimension 16). Both of torch's bring its compiler with them, which takes
two seconds to import, so they are imported where they run.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.attention
from torch import Tensor

from seqpair.errors import SeqpairError
from seqpair.nn.layout import Layout, Window
from seqpair.text import note

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

_SMALLEST_HEAD_DIM = 16
"""Triton's matrix product takes no narrower tiles."""

# --- varlen ---


def varlen_is_usable(query: Tensor) -> bool:
    """Return whether the kernel takes such queries: half precision on CUDA, not ROCm, Ampere or newer."""
    return (
        query.device.type == "cuda"
        and query.dtype in (torch.bfloat16, torch.float16)
        and torch.version.hip is None
        and is_ampere_or_newer(query.device.index)
    )


def is_ampere_or_newer(device_index: int) -> bool:
    """Return whether a CUDA device has compute capability 8.0 at least."""
    return torch.cuda.get_device_capability(device_index) >= (8, 0)


def choose_flash(device: torch.device) -> str:
    """Choose the newest flash attention for this process and return it: `FA2`, `FA3`, or empty off CUDA.

    Called where a model is put on its device, never in a forward pass: torch would trace the choice into a compiled
    graph. FlashAttention 3 is for Hopper (compute capability 9.0) and comes in a package of its own,
    `flash_attn_interface`. A kernel that somebody has activated before stays.
    """
    if device.type != "cuda" or torch.version.hip is not None:
        return ""
    active = torch.nn.attention.current_flash_attention_impl()
    if active is not None:
        return active
    is_hopper = torch.cuda.get_device_capability(device)[0] == 9
    known = "FA3" in torch.nn.attention.list_flash_attention_impls()
    if not (is_hopper and known and importlib.util.find_spec("flash_attn_interface")):
        return "FA2"
    try:
        torch.nn.attention.activate_flash_attention_impl("FA3")
    except (ImportError, RuntimeError) as error:
        note(f"warning: flash_attn_interface is installed and cannot be used ({error}); FlashAttention 2 is used")
        return "FA2"
    return "FA3"


def short_starts(layout: Layout) -> Tensor:
    """Return the boundaries as int32, (S + 1,); S may be any number in a compiled model."""
    return layout.derive("int32 starts", lambda: _any_length(layout.starts.to(torch.int32)))


def _any_length(starts: Tensor) -> Tensor:
    if not torch.compiler.is_compiling():
        torch._dynamo.mark_dynamic(starts, 0)
    return starts


def attend_varlen(query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: Window) -> Tensor:
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
    from torch.nn.attention.varlen import varlen_attn

    starts = short_starts(layout)
    left, right = (-1 if side is None else side for side in window)
    parts = (states.contiguous() for states in (query, key, value))
    return varlen_attn(*parts, starts, starts, layout.max_length, layout.max_length, window_size=(left, right))


# --- flash-attn ---


def flash_is_usable(query: Tensor) -> bool:
    """Return whether flash-attn is installed and takes such queries: half precision on a GPU."""
    return (
        query.device.type == "cuda"
        and query.dtype in (torch.bfloat16, torch.float16)
        and importlib.util.find_spec("flash_attn") is not None
    )


def attend_flash(query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: Window) -> Tensor:
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
    starts = short_starts(layout)
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


# --- FlexAttention ---


def flex_is_usable(query: Tensor) -> bool:
    """Return whether such queries can be attended to: on CUDA with triton, heads of at least 16 features."""
    return (
        query.device.type == "cuda"
        and query.shape[-1] >= _SMALLEST_HEAD_DIM
        and importlib.util.find_spec("triton") is not None
    )


def attend_flex(query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: Window) -> Tensor:
    """Attend within each sequence and window; arguments and result as `attend_reference`.

    Raises:
        SeqpairError: Not on CUDA, heads too narrow, or no triton.
    """
    if not flex_is_usable(query):
        raise SeqpairError(
            "the flex kernel cannot run here",
            seen=f"{query.device.type}, head dimension {query.shape[-1]}",
            allowed=f"CUDA with triton, heads of at least {_SMALLEST_HEAD_DIM}",
            fix="set runtime.kernel to auto",
        )
    mask = layout.derive(("flex", window), lambda: _block_mask(layout, window))
    parts = (states.transpose(0, 1)[None] for states in (query, key, value))  # (1, H, N, K)
    return _compiled()(*parts, block_mask=mask)[0].transpose(0, 1)


def visible_pairs(layout: Layout, window: Window) -> Callable[..., Tensor]:
    """Return the question FlexAttention asks of (batch, head, query, key): may the query see the key?"""
    ids = layout.sequence_ids
    left, right = (layout.total if side is None else side for side in window)

    def visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (ids[query] == ids[key]) & (query - key <= left) & (key - query <= right)

    return visible


def _block_mask(layout: Layout, window: Window) -> BlockMask:
    from torch.nn.attention.flex_attention import create_block_mask

    size = layout.total
    # compiled, the N x N mask is reduced to blocks without being held
    return create_block_mask(visible_pairs(layout, window), None, None, size, size, device=layout.device, _compile=True)


@functools.cache
def _compiled() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Any] = torch.compile(flex_attention)
    return compiled
