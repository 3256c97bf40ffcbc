"""The FlexAttention kernel: compiled by triton, for CUDA where the flash kernels do not go (fp32, ROCm, older cards).

CUDA only: on a CPU it has no backward pass, and compiled it was seen to be wrong (torch 2.13, head dimension 16). Its
tests carry the mark `gpu`; the mask is tested everywhere.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from seqpair.errors import SeqpairError
from seqpair.nn.layout import Layout

_SMALLEST_HEAD_DIM = 16
"""Triton's matrix product takes no narrower tiles."""


def flex_is_usable(query: Tensor) -> bool:
    """Return whether such queries can be attended to: on CUDA with triton, heads of at least 16 features."""
    return (
        query.device.type == "cuda"
        and query.shape[-1] >= _SMALLEST_HEAD_DIM
        and importlib.util.find_spec("triton") is not None
    )


def attend_flex(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: tuple[int | None, int | None]
) -> Tensor:
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


def visible_pairs(layout: Layout, window: tuple[int | None, int | None]) -> Callable[..., Tensor]:
    """Return the question FlexAttention asks of (batch, head, query, key): may the query see the key?"""
    ids = layout.sequence_ids
    left, right = (layout.total if side is None else side for side in window)

    def visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (ids[query] == ids[key]) & (query - key <= left) & (key - query <= right)

    return visible


def _block_mask(layout: Layout, window: tuple[int | None, int | None]) -> BlockMask:
    size = layout.total
    # compiled, the N x N mask is reduced to blocks without being held
    return create_block_mask(visible_pairs(layout, window), None, None, size, size, device=layout.device, _compile=True)


@functools.cache
def _compiled() -> Callable[..., Any]:
    compiled: Callable[..., Any] = torch.compile(flex_attention)
    return compiled
