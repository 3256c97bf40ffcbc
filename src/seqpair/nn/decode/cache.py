"""Keys and values of the tokens a causal model has read, so that the next token costs one token's work.

Rows are aligned on the right: every row's newest token lies in the same column, so a step writes one slice
for all rows, and a row's earlier tokens begin at a column of its own. A global layer keeps all columns. A
local layer keeps a ring of window + 1 columns, whatever the length: column c lies in slot c mod (window + 1),
and the order of keys does not matter to attention, as they are stored rotated.

Ragged rows are computed in groups of similar length, each over its own columns only; what is left of a
difference within a group is masked.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from seqpair.recipe.plan import ModelPlan

GROUP_SPREAD_TOKENS = 128
"""Rows whose lengths differ by no more share one attention call: about what a call of its own would cost."""


class KeyValueCache:
    """The keys and values of B rows, longest row first.

    Args:
        plan: The model's plan.
        lengths: Tokens of each row once its prompt is in, descending.
        new_tokens: Most tokens that will follow.
        like: A tensor of the dtype and on the device that the buffers shall have.

    Attributes:
        end: Columns in use: the length of the longest row.
        starts: The column at which each row begins, ascending.
    """

    def __init__(self, plan: ModelPlan, lengths: Sequence[int], new_tokens: int, like: Tensor) -> None:
        assert all(a >= b > 0 for a, b in zip(lengths, [*lengths[1:], lengths[-1]], strict=True)), "longest row first"
        self.heads = plan.shape.heads
        self.end = lengths[0]
        self.starts = [self.end - length for length in lengths]
        self.capacity = self.end + new_tokens
        self.window_tokens = plan.window_tokens
        self.is_global = [layer % plan.global_every == 0 for layer in range(plan.shape.layers)]
        ring = min(plan.window_tokens + 1, self.capacity)
        self.buffers = [  # (B, 2H, columns, K): keys, then values
            like.new_empty(len(lengths), 2 * self.heads, self.capacity, plan.shape.head_dim)
            if is_global
            else like.new_zeros(len(lengths), 2 * self.heads, ring, plan.shape.head_dim)
            for is_global in self.is_global
        ]
        self.ring = ring
        self._arrange()

    @property
    def rows(self) -> int:
        """Return B."""
        return len(self.starts)

    def bytes(self) -> tuple[int, int]:
        """Return the bytes reserved for (global, local) layers."""
        sizes = [buffer.numel() * buffer.element_size() for buffer in self.buffers]
        whole = sum(size for size, is_global in zip(sizes, self.is_global, strict=True) if is_global)
        return whole, sum(sizes) - whole

    def _arrange(self) -> None:
        """Group the rows, clear what a group's rows do not fill, and make the mask of empty columns."""
        self.groups: list[tuple[int, int]] = []
        for row, start in enumerate(self.starts):
            if self.groups and start - self.starts[self.groups[-1][0]] <= GROUP_SPREAD_TOKENS:
                self.groups[-1] = (self.groups[-1][0], row + 1)
            else:
                self.groups.append((row, row + 1))
        like = self.buffers[0]
        for first, after in self.groups:
            for row in range(first, after):
                for buffer, is_global in zip(self.buffers, self.is_global, strict=True):
                    if is_global:  # a masked column has weight 0, and 0 x NaN would still be NaN
                        buffer[row, :, self.starts[first] : self.starts[row]] = 0.0
        self.start_column = torch.tensor(self.starts, device=like.device)
        columns = torch.arange(self.starts[-1], device=like.device)
        self.empty = self._mask(columns[None, :] < self.start_column[:, None])  # (B, 1, 1, latest start)
        self._ring_mask: Tensor | None = None

    def _mask(self, hidden: Tensor) -> Tensor:
        """Return (B, 1, 1, columns) to add to scores, from (B, columns) that is true where nothing may be seen."""
        like = self.buffers[0]
        mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
        return mask.masked_fill_(hidden, float("-inf"))[:, None, None, :]

    def write_prompt(self, layer: int, row: int, begin: int, keys_values: Tensor) -> None:
        """Keep the keys and values of a row's prompt tokens.

        Args:
            layer: The layer.
            row: The row.
            begin: The first token's index in its row.
            keys_values: (n, 2H, K), keys rotated. A local layer keeps the last window + 1 of them.
        """
        buffer, last = self.buffers[layer], self.starts[row] + begin + len(keys_values)
        if self.is_global[layer]:
            buffer[row, :, last - len(keys_values) : last] = keys_values.transpose(0, 1)
            return
        kept = keys_values[-self.ring :]
        slots = torch.arange(last - len(kept), last, device=buffer.device) % self.ring
        buffer[row].index_copy_(1, slots, kept.transpose(0, 1))

    def read_context(self, layer: int, row: int, begin: int) -> Tensor:
        """Return (2H, C, K): the keys and values before a row's token `begin` that the layer may see from there."""
        buffer, start = self.buffers[layer][row], self.starts[row]
        if self.is_global[layer]:
            return buffer[:, start : start + begin]
        seen = min(begin, self.window_tokens)
        slots = torch.arange(start + begin - seen, start + begin, device=buffer.device) % self.ring
        return buffer.index_select(1, slots)

    def begin_step(self) -> None:
        """Take one column more for the token that every row gets next."""
        assert self.end < self.capacity, "room was reserved for fewer tokens"
        self.end += 1
        self._ring_mask = None
        if self.end - self.starts[-1] < self.ring < self.end:  # the shortest row does not fill the ring yet
            slots = torch.arange(self.ring, device=self.start_column.device)
            columns = self.end - 1 - (self.end - 1 - slots) % self.ring
            self._ring_mask = self._mask(columns[None, :] < self.start_column[:, None])

    def positions(self) -> Tensor:
        """Return (B,) the newest token's index in its row."""
        return self.end - 1 - self.start_column

    def attend(self, layer: int, qkv: Tensor) -> Tensor:
        """Keep the newest token's key and value, and attend from it.

        Args:
            layer: The layer.
            qkv: (B, 3H, K), queries and keys rotated.

        Returns:
            (B, H, 1, K).
        """
        heads, buffer, end = self.heads, self.buffers[layer], self.end
        query = qkv[:, :heads, None]
        if self.is_global[layer] or end <= self.ring:
            buffer[:, :, end - 1] = qkv[:, heads:]
            groups = self.groups if self.is_global[layer] else [(0, self.rows)]
            parts = [self._attend_group(query, buffer, first, after) for first, after in groups]
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        buffer[:, :, (end - 1) % self.ring] = qkv[:, heads:]
        return F.scaled_dot_product_attention(query, buffer[:, :heads], buffer[:, heads:], attn_mask=self._ring_mask)

    def _attend_group(self, query: Tensor, buffer: Tensor, first: int, after: int) -> Tensor:
        """Attend for rows of similar length, over the columns of the longest of them."""
        begin, latest = self.starts[first], self.starts[after - 1]
        seen = buffer[first:after, :, begin : self.end]
        mask = None
        if latest > begin:
            mask = F.pad(self.empty[first:after, ..., begin:latest], (0, self.end - latest))
        return F.scaled_dot_product_attention(
            query[first:after], seen[:, : self.heads], seen[:, self.heads :], attn_mask=mask
        )

    def keep_rows(self, rows: Sequence[int]) -> None:
        """Drop all rows but these (ascending): a row that has ended costs nothing any more."""
        index = torch.tensor(list(rows), device=self.start_column.device)
        self.starts = [self.starts[row] for row in rows]
        first = self.starts[0]
        for layer, buffer in enumerate(self.buffers):
            if self.is_global[layer]:
                kept = buffer.new_empty(len(rows), *buffer.shape[1:])
                kept[:, :, first : self.end] = buffer[:, :, first : self.end].index_select(0, index)
            else:
                kept = buffer.index_select(0, index)
            self.buffers[layer] = kept
        self._arrange()
