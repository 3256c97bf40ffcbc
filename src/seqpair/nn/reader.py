"""A model that reads padded rows and gives its states at chosen places only: scoring on a CPU.

What is not read is not computed: the last layer's queries, attention output, MLP and norm run at the places
that are read alone; its keys and values need all tokens. Attention of short rows is one dense masked call;
longer rows go through `attend`, with a row's padding as a sequence of its own.

Weights are the model's own tensors but for queries and keys, whose features are reordered within each head so
that a rotation is one complex product, as in `cached_decoder`. All in fp32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from seqpair.nn.attention import Window, attend
from seqpair.nn.backbone import Layer, attention_window
from seqpair.nn.layout import Layout
from seqpair.nn.model import LanguageModel
from seqpair.nn.rope import RopeBases, complex_turns, paired_features
from seqpair.recipe.objectives import Direction

_DENSE_CELLS = 1 << 17
"""Query-key pairs of a row up to which a dense masked call is faster than blocks: about 360 x 360."""
_HIDDEN = -1e30
"""Added to a score that must not count. Finite: a padded query may see nothing at all, and must not become NaN."""


class _Weights(NamedTuple):
    """One layer's weights: norms (D,) or None, matrices as (out, in)."""

    attention_norm: Tensor | None
    wq: Tensor
    wk: Tensor
    wqk: Tensor
    wv: Tensor
    attention_out: Tensor
    mlp_norm: Tensor
    mlp_activated: Tensor
    mlp_gate: Tensor
    mlp_out: Tensor


class _Rows(NamedTuple):
    """B rows padded to T tokens, and R places of each that are read, filled up with place 0.

    Attributes:
        ids: (B, T).
        lengths: Tokens of each row.
        spots: (B, R), indices of tokens.
        is_read: (B, R), false where a place fills up.
    """

    ids: Tensor
    lengths: list[int]
    spots: Tensor
    is_read: Tensor

    @property
    def flat_spots(self) -> Tensor:
        """Return (B * R,) indices into the rows laid end to end."""
        return (self.spots + torch.arange(len(self.ids))[:, None] * self.ids.shape[1]).flatten()


class RowReader:
    """A language model's backbone, laid out for reading rows.

    Args:
        model: The model, in fp32 on the CPU. Later changes of its queries' and keys' weights are not seen.
        rope: The RoPE bases it was trained with last.
        direction: `bidirectional` or `causal`.
    """

    def __init__(self, model: LanguageModel, rope: RopeBases, direction: Direction) -> None:
        assert model.output_weight.dtype == torch.float32, "a model's weights are fp32"
        backbone = model.backbone
        self.plan, self.direction = backbone.plan, direction
        shape = self.plan.shape
        self.heads, self.head_dim = shape.heads, shape.head_dim
        self._table = model.output_weight.detach()
        self._embedding_norm = backbone.embedding_norm.weight.detach()
        self._final_norm = backbone.final_norm.weight.detach()
        self._layers = [self._lay_out(layer) for layer in backbone.layers]
        self._windows: list[Window] = [attention_window(self.plan, i, direction) for i in range(shape.layers)]
        self._thetas = [rope.of_layer(i, self.plan.global_every) for i in range(shape.layers)]

    def _lay_out(self, layer: Layer) -> _Weights:
        shape = self.plan.shape
        fused = layer.attention.wqkv.weight.detach()
        query_key, wv = fused.split((2 * shape.width, shape.width))
        wqk = paired_features(query_key, shape.head_dim)
        wq, wk = wqk.chunk(2)
        activated, gate = layer.mlp.wi.weight.detach().chunk(2)
        norm = getattr(layer.attention_norm, "weight", None)
        return _Weights(
            attention_norm=None if norm is None else norm.detach(),
            wq=wq,
            wk=wk,
            wqk=wqk,
            wv=wv,
            attention_out=layer.attention.wo.weight.detach(),
            mlp_norm=layer.mlp_norm.weight.detach(),
            mlp_activated=activated,
            mlp_gate=gate,
            mlp_out=layer.mlp.wo.weight.detach(),
        )

    @torch.inference_mode()
    def read(self, rows: Sequence[NDArray[np.int64]], places: Sequence[NDArray[np.int64]]) -> Tensor:
        """Return the states after the final norm at the places.

        Args:
            rows: Token ids with specials, each at least one; best of similar length.
            places: For each row, the indices of the tokens that are read; may be none.

        Returns:
            (M, D): the first row's places in their order, then the second row's.
        """
        batch = _pad_rows(rows, places)
        longest = batch.ids.shape[1]
        states = self._norm(F.embedding(batch.ids.flatten(), self._table), self._embedding_norm)  # (B * T, D)
        turns = {theta: complex_turns(longest, theta, self.head_dim) for theta in set(self._thetas)}
        kept = _Kept()
        for index, layer in enumerate(self._layers):
            is_last = index == len(self._layers) - 1
            normed = states if layer.attention_norm is None else self._norm(states, layer.attention_norm)
            mixed = self._mix(index, normed, batch, turns[self._thetas[index]], kept, is_last=is_last)
            if is_last:
                states = states.index_select(0, batch.flat_spots)
            states.addmm_(mixed, layer.attention_out.t())
            normed = self._norm(states, layer.mlp_norm)
            inner = torch.ops.aten.gelu_(F.linear(normed, layer.mlp_activated))
            inner.mul_(F.linear(normed, layer.mlp_gate))
            states.addmm_(inner, layer.mlp_out.t())
        return self._norm(states[batch.is_read.flatten()], self._final_norm)

    def _mix(self, index: int, normed: Tensor, batch: _Rows, turns: Tensor, kept: _Kept, *, is_last: bool) -> Tensor:
        """Return what attention gives, (B * T, D), or (B * R, D) at the places of the last layer."""
        layer, window, (rows, longest) = self._layers[index], self._windows[index], batch.ids.shape
        value = F.linear(normed, layer.wv).view(rows, longest, self.heads, -1)
        spots = batch.spots if is_last else None
        queries = longest if spots is None else spots.shape[1]
        if queries * longest > _DENSE_CELLS:
            query, key = self._turned(F.linear(normed, layer.wqk), rows, turns).chunk(2, dim=2)
            parts = (part.flatten(0, 1) for part in (query, key, value))
            mixed = attend(*parts, kept.layout(batch), window).flatten(1)
            return mixed if spots is None else mixed.index_select(0, batch.flat_spots)
        if spots is None:
            query, key = self._turned(F.linear(normed, layer.wqk), rows, turns).chunk(2, dim=2)
        else:
            key = self._turned(F.linear(normed, layer.wk), rows, turns)
            query = F.linear(normed.index_select(0, batch.flat_spots), layer.wq)
            query = self._turned(query, rows, turns[spots])
        mask = kept.mask(batch, window, spots)
        heads_first = (part.transpose(1, 2) for part in (query, key, value))
        mixed = F.scaled_dot_product_attention(*heads_first, attn_mask=mask)  # (B, H, Q, K)
        return mixed.transpose(1, 2).reshape(rows * queries, -1)

    def _turned(self, states: Tensor, rows: int, turns: Tensor) -> Tensor:
        """Turn (B * Q, J * K) in place by (Q, 1, K/2), or by (B, Q, 1, K/2), and return it as (B, Q, J, K)."""
        shaped = states.view(rows, len(states) // rows, -1, self.head_dim)
        torch.view_as_complex(shaped.view(*shaped.shape[:3], -1, 2)).mul_(turns)
        return shaped

    def _norm(self, states: Tensor, weight: Tensor) -> Tensor:
        return F.layer_norm(states, (self.plan.shape.width,), weight, None, self.plan.norm_eps)


class _Kept:
    """What the layers of one reading share: masks and, for long rows, a layout."""

    def __init__(self) -> None:
        self._masks: dict[tuple[Window, bool], Tensor | None] = {}
        self._layout: Layout | None = None

    def mask(self, batch: _Rows, window: Window, spots: Tensor | None) -> Tensor | None:
        """Return the mask of a window, for the queries at `spots` or for all."""
        key = (window, spots is None)
        if key not in self._masks:
            self._masks[key] = _mask(batch, window, spots)
        return self._masks[key]

    def layout(self, batch: _Rows) -> Layout:
        """Return the layout of all places, where a row's padding is a sequence of its own."""
        if self._layout is None:
            longest = batch.ids.shape[1]
            sizes = [size for length in batch.lengths for size in (length, longest - length) if size]
            self._layout = Layout.from_lengths(sizes)
        return self._layout


def _mask(batch: _Rows, window: Window, spots: Tensor | None) -> Tensor | None:
    """Return what is added to scores, (B or 1, 1, Q or 1, T), or nothing where all is seen."""
    longest, (left, right) = batch.ids.shape[1], window
    keys = torch.arange(longest)
    hidden = torch.zeros((1, 1, longest), dtype=torch.bool)
    if min(batch.lengths) < longest:
        hidden = keys >= torch.tensor(batch.lengths)[:, None, None]  # (B, 1, T)
    if min(longest if side is None else side for side in window) < longest - 1:
        offset = keys - (keys[None] if spots is None else spots)[..., None]  # key minus query, (B or 1, Q, T)
        if left is not None:
            hidden = hidden | (offset < -left)
        if right is not None:
            hidden = hidden | (offset > right)
    if not bool(hidden.any()):
        return None
    return torch.zeros(hidden.shape).masked_fill_(hidden, _HIDDEN)[:, None]


def _pad_rows(rows: Sequence[NDArray[np.int64]], places: Sequence[NDArray[np.int64]]) -> _Rows:
    """Pad rows and places to the longest, with 0: a padded token is seen by none."""
    lengths, counts = [len(row) for row in rows], [len(read) for read in places]
    ids = np.zeros((len(rows), max(lengths)), dtype=np.int64)
    spots = np.zeros((len(rows), max(1, *counts)), dtype=np.int64)
    for index, (row, read) in enumerate(zip(rows, places, strict=True)):
        ids[index, : len(row)] = row
        spots[index, : len(read)] = read
    is_read = np.arange(spots.shape[1]) < np.array(counts)[:, None]
    return _Rows(torch.from_numpy(ids), lengths, torch.from_numpy(spots), torch.from_numpy(is_read))
