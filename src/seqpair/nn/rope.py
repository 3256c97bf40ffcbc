"""Rotary positions, half-split (NeoX): feature j turns with feature j + K/2.

Source: Su et al., RoFormer, arXiv 2104.09864, section 3.2; angle of pair j at position t is
t * theta^(-2j/K). Positions are those in the token's own sequence, in fp32.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqpair.nn.layout import Layout


class RopeBases(NamedTuple):
    """The base theta of global and of local layers; phases change it, members do not."""

    global_theta: float
    local_theta: float

    def of_layer(self, layer: int, global_every: int) -> float:
        """Return a layer's base, where every `global_every`-th layer from the first on is global."""
        return self.global_theta if layer % global_every == 0 else self.local_theta


def paired_features(weight: Tensor, head_dim: int) -> Tensor:
    """Return a projection (J * K, D) with the rows of each head reordered: pair j becomes features 2j and 2j + 1."""
    return weight.view(-1, 2, head_dim // 2, weight.shape[-1]).transpose(1, 2).reshape(weight.shape)


def complex_turns(tokens: int, theta: float, head_dim: int, device: torch.device | None = None) -> Tensor:
    """Return the rotations of positions 0 .. tokens - 1, (tokens, 1, K/2) complex."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim
    angles = torch.arange(tokens, dtype=torch.float32, device=device)[:, None, None] / theta**exponent
    return torch.polar(torch.ones_like(angles), angles)


def rotary_tables(layout: Layout, theta: float, head_dim: int) -> tuple[Tensor, Tensor]:
    """Return cosine and sine, each (N, 1, K/2) fp32, kept in the layout for the other layers."""
    return layout.derive(("rope", theta, head_dim), lambda: _make_tables(layout, theta, head_dim))


def _make_tables(layout: Layout, theta: float, head_dim: int) -> tuple[Tensor, Tensor]:
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=layout.device) / head_dim
    inverse = 1.0 / (theta**exponent)  # (K/2,)
    angles = layout.positions.to(torch.float32)[:, None] * inverse  # (N, K/2)
    return angles.cos()[:, None, :], angles.sin()[:, None, :]


class _Rotation(torch.autograd.Function):
    """A rotation's gradient is the rotation back, so nothing but the tables has to be kept."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(states, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        cos, sin = ctx.saved_tensors
        return _turn(grad, cos, sin, -1), None, None


class _RotatedParts(torch.autograd.Function):
    """Queries and keys turned, values copied, in one buffer; the gradient is one buffer too.

    Slices of the projection would each get a gradient of the whole projection's size, mostly zeros.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        out = torch.empty_like(qkv)
        query_key, value = out.tensor_split((2 * (qkv.shape[1] // 3),), dim=1)
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
        out = grad_query.new_empty(tokens, 3 * heads, head_dim)
        query, key, value = out.chunk(3, dim=1)
        _turn_into(query, grad_query, cos, sin, -1)
        _turn_into(key, grad_key, cos, sin, -1)
        value.copy_(grad_value)
        return out, None, None


def _turn(states: Tensor, cos: Tensor, sin: Tensor, sense: int) -> Tensor:
    out = torch.empty_like(states)
    _turn_into(out, states, cos, sin, sense)
    return out


def _turn_into(out: Tensor, states: Tensor, cos: Tensor, sin: Tensor, sense: int) -> None:
    """Write the rotation into `out`; half precision is turned in fp32 and rounded once."""
    dtype = torch.promote_types(states.dtype, cos.dtype)
    wide = out if out.dtype == dtype else torch.empty(states.shape, dtype=dtype, device=states.device)
    first, second = states.chunk(2, dim=-1)
    out_first, out_second = wide.chunk(2, dim=-1)
    torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-sense)
    torch.mul(second, cos, out=out_second).addcmul_(first, sin, value=sense)
    if wide is not out:
        out.copy_(wide)


def _turned(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return the rotation as one expression, rounded once."""
    first, second = states.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(states.dtype)


def rotate(states: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Turn every head's features by their position.

    Args:
        states: (N, J, K), J any number of heads, of queries and keys alike.
        tables: From `rotary_tables`.

    Returns:
        (N, J, K), of the same dtype; the arithmetic is in fp32.
    """
    turned: Tensor = _Rotation.apply(states, *tables)
    return turned


def rotated_parts(qkv: Tensor, tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries and keys turned by their position, and values, each (N, H, K).

    Args:
        qkv: (N, 3H, K), heads of queries, keys and values in this order.
        tables: From `rotary_tables`.
    """
    if torch.compiler.is_compiling():  # the compiler fuses the definition; it cannot trace writes into slices
        query_key, value = qkv.tensor_split((2 * (qkv.shape[1] // 3),), dim=1)
        query, key = _turned(query_key, *tables).chunk(2, dim=1)
        return query, key, value
    parts: tuple[Tensor, Tensor, Tensor] = _RotatedParts.apply(qkv, *tables)
    return parts
