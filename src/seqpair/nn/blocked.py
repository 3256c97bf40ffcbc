"""The CPU kernel: local layers cost O(N x window), global ones the square of each sequence alone.

Plans of work and masks are made once per layout and kept in it.

Local layers: the N tokens are cut into blocks without regard to sequences; a block's queries see the
keys of the block and of the window around it, masked by sequence and distance. The windows overlap and
are views, not copies.

Global layers: sequences of similar length are padded to the longest of their group and run as rows of
one batch; in a causal one the library's kernel skips what lies right of the diagonal, and padding lies
after what a real query sees.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from seqpair.nn.layout import Layout

_BLOCK_TOKENS = 32
"""Queries of one block of a local layer; measured best of 32, 48, 64, 96, 128 for a window of 64."""
_GROUP_CELLS = 1 << 15
"""Query-key pairs wasted on padding above which a new group, with its calls, is cheaper."""


def attend_blocked(
    query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: tuple[int | None, int | None]
) -> Tensor:
    """Attend within each sequence and window; arguments and result as `attend_reference`."""
    longest = layout.max_length - 1
    left, right = (longest if side is None else min(side, longest) for side in window)
    if left == longest and right in (0, longest):
        return _attend_global(query, key, value, layout, causal=right == 0)
    return _attend_local(query, key, value, layout, left, right)


# --- local layers ---------------------------------------------------------------------------------


def _attend_local(query: Tensor, key: Tensor, value: Tensor, layout: Layout, left: int, right: int) -> Tensor:
    total, heads, head_dim = query.shape
    blocks = -(-total // _BLOCK_TOKENS)
    mask = layout.derive(("blocked", left, right, query.dtype), lambda: _local_mask(layout, left, right, query.dtype))
    rows = F.pad(query, (0, 0, 0, 0, 0, blocks * _BLOCK_TOKENS - total)).view(blocks, _BLOCK_TOKENS, heads, head_dim)
    keys = _Windows.apply(key, left, right)  # (blocks, span, H, K)
    values = _Windows.apply(value, left, right)
    return _sdpa(rows, keys, values, mask).reshape(-1, heads, head_dim)[:total]


def _local_mask(layout: Layout, left: int, right: int, dtype: torch.dtype) -> Tensor:
    """Return the additive mask (blocks, 1, block, span) of a local layer."""
    blocks = -(-layout.total // _BLOCK_TOKENS)
    fill = blocks * _BLOCK_TOKENS - layout.total
    ids = F.pad(layout.sequence_ids, (left, right + fill), value=-1)  # padding is a sequence of its own
    query_ids = ids[left : left + blocks * _BLOCK_TOKENS].view(blocks, _BLOCK_TOKENS, 1)
    key_ids = ids.unfold(0, left + _BLOCK_TOKENS + right, _BLOCK_TOKENS)[:, None, :]
    index = torch.arange(left + _BLOCK_TOKENS + right, device=layout.device)
    offset = index[None, :] - left - index[:_BLOCK_TOKENS, None]  # key minus query, (block, span)
    hidden = (query_ids != key_ids) | (offset < -left) | (offset > right)
    return torch.zeros(hidden.shape, dtype=dtype, device=layout.device).masked_fill_(hidden, float("-inf"))[:, None]


class _Windows(torch.autograd.Function):
    """Each block's keys with the window around it, (N, H, K) to (blocks, span, H, K).

    The windows overlap in memory; the gradient adds them up where they overlap.
    """

    @staticmethod
    def forward(ctx: Any, states: Tensor, left: int, right: int) -> Tensor:
        ctx.total, ctx.left = states.shape[0], left
        blocks = -(-states.shape[0] // _BLOCK_TOKENS)
        padded = F.pad(states, (0, 0, 0, 0, left, right + blocks * _BLOCK_TOKENS - states.shape[0]))
        return padded.unfold(0, left + _BLOCK_TOKENS + right, _BLOCK_TOKENS).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        blocks, span, heads, head_dim = grad.shape
        parts = grad.split(_BLOCK_TOKENS, dim=1)
        out = grad.new_zeros((blocks + len(parts) - 1) * _BLOCK_TOKENS, heads, head_dim)
        for number, part in enumerate(parts):  # one part of all windows at a time: these do not overlap
            rows = out[number * _BLOCK_TOKENS :][: blocks * _BLOCK_TOKENS]
            rows.view(blocks, _BLOCK_TOKENS, heads, head_dim)[:, : part.shape[1]].add_(part)
        return out[ctx.left : ctx.left + ctx.total], None, None


# --- global layers --------------------------------------------------------------------------------


class _Group(NamedTuple):
    """Sequences that run as one batch: how many, padded to what, and the keys' additive mask if any."""

    rows: int
    length: int
    mask: Tensor | None

    @property
    def tokens(self) -> int:
        return self.rows * self.length


class _GlobalPlan(NamedTuple):
    """How a layout's sequences are grouped.

    `index` gives the token of each place in the groups, laid end to end, and `inverse` the place of
    each token; both are `None` where the tokens already lie so.
    """

    groups: list[_Group]
    index: Tensor | None
    inverse: Tensor | None


def _attend_global(query: Tensor, key: Tensor, value: Tensor, layout: Layout, *, causal: bool) -> Tensor:
    plan = layout.derive(("blocked", causal, query.dtype), lambda: _plan_groups(layout, query.dtype, causal=causal))
    if plan.index is not None:
        query, key, value = (states.index_select(0, plan.index) for states in (query, key, value))
    sizes = [group.tokens for group in plan.groups]
    outs = []
    for group, *parts in zip(plan.groups, query.split(sizes), key.split(sizes), value.split(sizes), strict=True):
        rows, keys, values = (part.view(group.rows, group.length, *part.shape[1:]) for part in parts)
        outs.append(_sdpa(rows, keys, values, group.mask, causal=causal).flatten(0, 1))
    mixed = outs[0] if len(outs) == 1 else torch.cat(outs)
    return mixed if plan.inverse is None else mixed.index_select(0, plan.inverse)


def _plan_groups(layout: Layout, dtype: torch.dtype, *, causal: bool) -> _GlobalPlan:
    order = sorted(range(len(layout.lengths)), key=lambda sequence: -layout.lengths[sequence])
    members: list[list[int]] = []
    wasted = 0
    for sequence in order:
        if members:
            wasted += layout.lengths[members[-1][0]] ** 2 - layout.lengths[sequence] ** 2
        if not members or wasted > _GROUP_CELLS:
            members.append([])
            wasted = 0
        members[-1].append(sequence)
    groups, places = [], []
    for group in members:
        length = layout.lengths[group[0]]
        within = torch.arange(length)
        sizes = torch.tensor([layout.lengths[sequence] for sequence in group])
        hidden = within >= sizes[:, None]  # (rows, length)
        places.append((layout.starts.cpu()[group][:, None] + within).masked_fill_(hidden, -1).flatten())
        mask = None
        if not causal and bool(hidden.any()):
            mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, float("-inf"))
            mask = mask[:, None, None, :].to(layout.device)
        groups.append(_Group(len(group), length, mask))
    index = torch.cat(places)  # -1 where a row is padded
    if torch.equal(index, torch.arange(layout.total)):
        return _GlobalPlan(groups, None, None)
    filled = index >= 0
    inverse = torch.empty(layout.total, dtype=torch.int64)
    inverse[index[filled]] = torch.arange(index.numel())[filled]
    return _GlobalPlan(groups, index.clamp_(min=0).to(layout.device), inverse.to(layout.device))


def _sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool = False) -> Tensor:
    """Call the library's kernel on (rows, T, H, K) and return the same layout."""
    parts = (states.transpose(1, 2) for states in (query, key, value))
    return F.scaled_dot_product_attention(*parts, attn_mask=mask, is_causal=causal).transpose(1, 2)
