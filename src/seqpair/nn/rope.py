"""Rotary positions, half-split (NeoX): feature j turns with feature j + K/2.

Source: Su et al., RoFormer, arXiv 2104.09864, section 3.2; angle of pair j at position t is
t * theta^(-2j/K). Positions are those in the token's own sequence, in fp32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqpair.nn.layout import Layout

Tables = tuple[Tensor, Tensor]
"""Cosine and sine of each token's angles, (N, 1, K/2) fp32 each."""

_CACHED_TOKENS = 128
"""Tokens that the five passes of a rotation in place go over at a time on a CPU, so that they stay in its cache."""


class RopeBases(NamedTuple):
    """The base theta of global and of local layers; phases change it, members do not."""

    global_theta: float
    local_theta: float

    def of_layer(self, layer: int, global_every: int) -> float:
        """Return a layer's base, where every `global_every`-th layer from the first on is global."""
        return self.global_theta if layer % global_every == 0 else self.local_theta


def rotary_tables(layout: Layout, theta: float, head_dim: int) -> Tables:
    """Return the tables of a layout's tokens, kept in the layout for the other layers."""
    return layout.derive(("rope", theta, head_dim), lambda: tables_at(layout.positions, theta, head_dim))


def tables_at(positions: Tensor, theta: float, head_dim: int) -> Tables:
    """Return the tables of (N,) positions."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
    inverse = 1.0 / (theta**exponent)  # (K/2,)
    angles = positions.to(torch.float32)[:, None] * inverse  # (N, K/2)
    return angles.cos()[:, None, :], angles.sin()[:, None, :]


def rotated_parts(qkv: Tensor, tables: Tables) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries and keys turned by their position, and values, each (N, H, K).

    The arithmetic is in fp32, the result of the states' dtype. Without gradients `qkv` is overwritten: it is the
    product of a linear layer, which nothing else reads.

    Args:
        qkv: (N, 3H, K), heads of queries, keys and values in this order.
        tables: From `rotary_tables`.
    """
    query_key = qkv[:, : 2 * (qkv.shape[1] // 3)]
    if torch.compiler.is_compiling():  # the compiler fuses the definition; it cannot trace writes into slices
        query, key = _turned(query_key, *tables).chunk(2, dim=1)
        return query, key, qkv[:, query_key.shape[1] :]
    if not torch.is_grad_enabled() and qkv.dtype == tables[0].dtype:
        turn_in_place(query_key, tables)
        query, key, value = qkv.chunk(3, dim=1)
        return query, key, value
    parts: tuple[Tensor, Tensor, Tensor] = _RotatedParts.apply(qkv, *tables)
    return parts


def turn_in_place(states: Tensor, tables: Tables) -> None:
    """Turn every head's features by their position; (N, J, K) fp32, J any number of heads of queries and keys."""
    if states.device.type != "cpu" or len(states) <= _CACHED_TOKENS:
        _turn_all(states, *tables)
        return
    parts = (tensor.split(_CACHED_TOKENS) for tensor in (states, *tables))
    for part, cos, sin in zip(*parts, strict=True):
        _turn_all(part, cos, sin)


def _turn_all(states: Tensor, cos: Tensor, sin: Tensor) -> None:
    first, second = states.chunk(2, dim=-1)
    unturned = first.clone()  # the second half's turn needs it after the first has been overwritten
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).addcmul_(unturned, sin)


class _RotatedParts(torch.autograd.Function):
    """Queries and keys turned, values copied, in one buffer; the gradient is one buffer too.

    Slices of the projection would each get a gradient of the whole projection's size, mostly zeros, which autograd
    would then add up. A rotation's gradient is the rotation back, so nothing but the tables has to be kept.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        out = torch.empty_like(qkv)
        query_key, value = out.tensor_split((2 * (qkv.shape[1] // 3),), dim=1)
        # Queries and keys lie side by side and turn alike, so one call does for both.
        _turn_into(query_key, qkv[:, : query_key.shape[1]], cos, sin, 1)
        value.copy_(qkv[:, query_key.shape[1] :])
        query, key = query_key.chunk(2, dim=1)
        return query, key, value

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad_query: Tensor, grad_key: Tensor, grad_value: Tensor
    ) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        tokens, heads, head_dim = grad_query.shape
        # The three gradients come in buffers of their own; written into one they are the projection's as it stands.
        out = grad_query.new_empty(tokens, 3 * heads, head_dim)
        query, key, value = out.chunk(3, dim=1)
        _turn_into(query, grad_query, cos, sin, -1)
        _turn_into(key, grad_key, cos, sin, -1)
        value.copy_(grad_value)
        return out, None, None


def _turn_into(out: Tensor, states: Tensor, cos: Tensor, sin: Tensor, sense: int) -> None:
    """Write the rotation, or for sense -1 the one back, into `out`; half precision is turned in fp32, rounded once."""
    dtype = torch.promote_types(states.dtype, cos.dtype)
    wide = out if out.dtype == dtype else torch.empty(states.shape, dtype=dtype, device=states.device)
    first, second = states.chunk(2, dim=-1)
    out_first, out_second = wide.chunk(2, dim=-1)
    # Two fused calls a half, straight into the result: an expression would make three temporary tensors.
    torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-sense)
    torch.mul(second, cos, out=out_second).addcmul_(first, sin, value=sense)
    if wide is not out:
        out.copy_(wide)


def _turned(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return the rotation as one expression, rounded once."""
    first, second = states.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(states.dtype)
