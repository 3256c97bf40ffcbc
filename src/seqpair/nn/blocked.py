"""The CPU kernel: local layers cost O(N x window), global ones the square of each sequence alone.

Plans of work and masks are made once per layout and kept in it. There are two ways to cut the work:

Blocks, for the local layers of long sequences: the N tokens are cut into blocks without regard to sequences. A
block's queries see the keys of the block and of the window around it, masked by sequence and distance. The windows
overlap and are views, not copies.

Rows, for global layers and for the local layers of short sequences: sequences of similar length are padded to the
longest of their group and run as rows of one batch. In a causal global layer the library's kernel skips what lies
right of the diagonal, and padding lies after what a real query sees.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from seqpair.nn.layout import Layout, Window

_BLOCK_TOKENS = 32
"""Queries of one block of a local layer; measured best of 32, 48, 64, 96, 128 for a window of 64."""
_GROUP_CELLS = 1 << 15
"""Query-key pairs wasted on padding above which a new group, with its calls, is cheaper."""
_RUN_TOKENS = 64
"""Tokens of sequences of one length from which on a call of their own is cheaper than copies into padded rows."""
_MOST_SLOTS = 16
"""Places of one sequence up to which `attend_at` takes them; it bounds the memory of its masks."""


def attend_blocked(query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: Window) -> Tensor:
    """Attend within each sequence and window; arguments and result as `attend_reference`."""
    longest = layout.max_length - 1
    left, right = (longest if side is None else min(side, longest) for side in window)
    if left == longest and right in (0, longest):
        return _attend_rows(query, key, value, layout, left, right)
    if layout.derive(("rows are cheaper", left, right), lambda: _rows_are_cheaper(layout, left, right)):
        return _attend_rows(query, key, value, layout, left, right)
    return _attend_blocks(query, key, value, layout, left, right)


def _rows_are_cheaper(layout: Layout, left: int, right: int) -> bool:
    """Return whether whole rows have fewer query-key pairs than blocks with their windows."""
    # Where they have, a forward and backward pass took 0.5 to 1.0 of the time with blocks (8 to 170 tokens a row).
    pairs = sum(group.rows * group.length**2 for group in _row_plan(layout).groups)
    return pairs <= layout.total * (left + _BLOCK_TOKENS + right)


# --- blocks ---------------------------------------------------------------------------------------


def _attend_blocks(query: Tensor, key: Tensor, value: Tensor, layout: Layout, left: int, right: int) -> Tensor:
    total, heads, head_dim = query.shape
    blocks = -(-total // _BLOCK_TOKENS)
    mask = layout.derive(("blocked", left, right, query.dtype), lambda: _block_mask(layout, left, right, query.dtype))
    rows = F.pad(query, (0, 0, 0, 0, 0, blocks * _BLOCK_TOKENS - total)).view(blocks, _BLOCK_TOKENS, heads, head_dim)
    keys = _Windows.apply(key, left, right)  # (blocks, span, H, K)
    values = _Windows.apply(value, left, right)
    return _sdpa(rows, keys, values, mask).reshape(-1, heads, head_dim)[:total]


def _block_mask(layout: Layout, left: int, right: int, dtype: torch.dtype) -> Tensor:
    """Return the additive mask (blocks, 1, block, span) of a local layer."""
    blocks = -(-layout.total // _BLOCK_TOKENS)
    fill = blocks * _BLOCK_TOKENS - layout.total
    # Padding gets a sequence id of its own, on both sides: no real token sees it, and a padded query sees padding.
    ids = F.pad(layout.sequence_ids, (left, right + fill), value=-1)
    query_ids = ids[left : left + blocks * _BLOCK_TOKENS].view(blocks, _BLOCK_TOKENS, 1)
    key_ids = ids.unfold(0, left + _BLOCK_TOKENS + right, _BLOCK_TOKENS)[:, None, :]
    index = torch.arange(left + _BLOCK_TOKENS + right, device=layout.device)
    # Column j of a block's span is the key j - left places from the block's first query.
    offset = index[None, :] - left - index[:_BLOCK_TOKENS, None]  # key minus query, (block, span)
    hidden = (query_ids != key_ids) | (offset < -left) | (offset > right)
    return _additive(hidden, dtype)[:, None]


class _Windows(torch.autograd.Function):
    """Each block's keys with the window around it, (N, H, K) to (blocks, span, H, K).

    The windows overlap in memory, so the forward pass copies nothing but the padding. Autograd's own gradient of
    `unfold` would write every window apart and add them up one by one.
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
        # A window is cut into parts of one block each. The parts of one number lie side by side without overlap,
        # so each number is a single addition into the buffer, shifted by as many blocks.
        parts = grad.split(_BLOCK_TOKENS, dim=1)
        out = grad.new_zeros((blocks + len(parts) - 1) * _BLOCK_TOKENS, heads, head_dim)
        for number, part in enumerate(parts):
            rows = out[number * _BLOCK_TOKENS :][: blocks * _BLOCK_TOKENS]
            rows.view(blocks, _BLOCK_TOKENS, heads, head_dim)[:, : part.shape[1]].add_(part)
        return out[ctx.left : ctx.left + ctx.total], None, None


# --- rows -----------------------------------------------------------------------------------------


class _Group(NamedTuple):
    """Sequences that run as one batch: how many, padded to what, and where the padding is if there is any."""

    rows: int
    length: int
    padding: Tensor | None  # (rows, length), true at padded places


class _RowPlan(NamedTuple):
    """How a layout's sequences are grouped.

    `members` numbers the sequences of each group. `index` gives the token of each place in the groups, laid end to
    end, and `inverse` the place of each token; both are `None` where the tokens already lie so.
    """

    groups: list[_Group]
    members: list[list[int]]
    index: Tensor | None
    inverse: Tensor | None


def _attend_rows(query: Tensor, key: Tensor, value: Tensor, layout: Layout, left: int, right: int) -> Tensor:
    plan, dtype = _row_plan(layout), query.dtype
    masks = layout.derive(
        ("row masks", left, right, dtype), lambda: [_row_mask(group, left, right, dtype) for group in plan.groups]
    )
    if plan.index is not None:
        query, key, value = (states.index_select(0, plan.index) for states in (query, key, value))
    sizes = [group.rows * group.length for group in plan.groups]
    parts = zip(plan.groups, masks, query.split(sizes), key.split(sizes), value.split(sizes), strict=True)
    outs = []
    for group, mask, *mine in parts:
        rows, keys, values = (part.view(group.rows, group.length, *part.shape[1:]) for part in mine)
        # The library's causal kernel skips the upper triangle, a mask would not.
        causal = mask is None and right == 0
        outs.append(_sdpa(rows, keys, values, mask, causal=causal).flatten(0, 1))
    mixed = outs[0] if len(outs) == 1 else torch.cat(outs)
    return mixed if plan.inverse is None else mixed.index_select(0, plan.inverse)


def few_places(layout: Layout, places: Tensor) -> bool:
    """Return whether `attend_at` suits some places: a small share of the tokens, evenly spread over the sequences."""
    if len(places) == 0:
        return False
    slots = int(torch.bincount(layout.sequence_ids[places]).max())
    return slots <= _MOST_SLOTS and 4 * slots * len(layout.lengths) <= layout.total


def attend_at(query: Tensor, key: Tensor, value: Tensor, layout: Layout, window: Window, places: Tensor) -> Tensor:
    """Attend from a few tokens only, without gradients.

    Args:
        query: (M, H, K), rotated.
        key: (N, H, K), rotated.
        value: (N, H, K).
        layout: The sequences' boundaries.
        window: As for `attend`.
        places: (M,) int64, the tokens that the queries are of.

    Returns:
        (M, H, K).
    """
    plan, (left, right) = _row_plan(layout), window
    if plan.index is not None:
        key, value = (states.index_select(0, plan.index) for states in (key, value))
    # Each sequence gets as many slots as the fullest has places; a slot that is not used asks from position 0.
    sequence = layout.sequence_ids[places]
    counts = torch.bincount(sequence, minlength=len(layout.lengths))
    by_sequence = sequence.argsort(stable=True)
    slot = torch.empty_like(by_sequence)
    slot[by_sequence] = (
        torch.arange(len(places), device=places.device) - (counts.cumsum(0) - counts)[sequence[by_sequence]]
    )
    slots = int(counts.max())
    queries = query.new_zeros(len(counts), slots, *query.shape[1:])
    queries[sequence, slot] = query
    positions = places.new_zeros(len(counts), slots)
    positions[sequence, slot] = layout.positions[places]
    mixed = torch.empty_like(queries)
    sizes = [group.rows * group.length for group in plan.groups]
    for group, members, *mine in zip(plan.groups, plan.members, key.split(sizes), value.split(sizes), strict=True):
        keys, values = (part.view(group.rows, group.length, *part.shape[1:]) for part in mine)
        offset = torch.arange(group.length, device=places.device) - positions[members][..., None]  # key minus query
        hidden = torch.zeros_like(offset, dtype=torch.bool) if group.padding is None else group.padding[:, None, :]
        if left is not None:
            hidden = hidden | (offset < -left)
        if right is not None:
            hidden = hidden | (offset > right)
        mixed[members] = _sdpa(queries[members], keys, values, _additive(hidden, query.dtype)[:, None])
    return mixed[sequence, slot]


def _row_mask(group: _Group, left: int, right: int, dtype: torch.dtype) -> Tensor | None:
    """Return what is added to a group's scores, (rows or 1, 1, length or 1, length), or nothing."""
    bound = group.length - 1
    device = None if group.padding is None else group.padding.device
    reaches_all = left >= bound and right >= bound
    if right == 0 and left >= bound:
        return None  # the causal kernel; padding lies after every real query
    hidden = None
    if not reaches_all:
        index = torch.arange(group.length, device=device)
        offset = index[None, :] - index[:, None]  # key minus query
        hidden = ((offset < -left) | (offset > right))[None]  # (1, length, length)
    if group.padding is not None and right > 0:
        keys = group.padding[:, None, :]
        # Where a window bounds the view, a padded query may be out of reach of every real key. It sees the padding
        # instead: with nothing to see it would be NaN, and so would be the keys' gradients.
        apart = keys if hidden is None else (keys != group.padding[:, :, None]) | hidden
        hidden = apart
    return None if hidden is None else _additive(hidden, dtype)[:, None]


def _row_plan(layout: Layout) -> _RowPlan:
    return layout.derive("row plan", lambda: _plan_rows(layout))


def _group_sequences(layout: Layout) -> list[list[int]]:
    """Return the sequences of each group, the longest first."""
    lengths = layout.lengths
    order = sorted(range(len(lengths)), key=lambda sequence: -lengths[sequence])
    # Sequences that already lie by length need no copy into place as long as nothing is padded.
    in_place = order == list(range(len(lengths))) and layout.total >= _RUN_TOKENS * len(set(lengths))
    allowed = 0 if in_place else _GROUP_CELLS
    members: list[list[int]] = []
    wasted = 0
    for sequence in order:
        if members:
            wasted += lengths[members[-1][0]] ** 2 - lengths[sequence] ** 2
        if not members or wasted > allowed:
            members.append([])
            wasted = 0
        members[-1].append(sequence)
    return members


def _plan_rows(layout: Layout) -> _RowPlan:
    members = _group_sequences(layout)
    groups, places = [], []
    for group in members:
        length = layout.lengths[group[0]]
        within = torch.arange(length)
        sizes = torch.tensor([layout.lengths[sequence] for sequence in group])
        padding = within >= sizes[:, None]  # (rows, length)
        places.append((layout.starts.cpu()[group][:, None] + within).masked_fill_(padding, -1).flatten())
        groups.append(_Group(len(group), length, padding.to(layout.device) if bool(padding.any()) else None))
    index = torch.cat(places)  # -1 where a row is padded
    if torch.equal(index, torch.arange(layout.total)):
        return _RowPlan(groups, members, None, None)
    filled = index >= 0
    inverse = torch.empty(layout.total, dtype=torch.int64)
    inverse[index[filled]] = torch.arange(index.numel())[filled]
    # A padded place reads token 0: any finite value will do, as no real query sees it.
    return _RowPlan(groups, members, index.clamp_(min=0).to(layout.device), inverse.to(layout.device))


def _additive(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, float("-inf"))


def _sdpa(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool = False) -> Tensor:
    """Call the library's kernel on (rows, T, H, K) and return the same layout."""
    parts = (states.transpose(1, 2) for states in (query, key, value))
    return F.scaled_dot_product_attention(*parts, attn_mask=mask, is_causal=causal).transpose(1, 2)
