"""A causal model that reads its past from a cache: the backbone's weights, laid out for one token at a time.

The training forward knows nothing of it.

Queries and keys have their features reordered within each head, the same for both, so that the pairs that
rotary positions turn lie side by side: scores do not change, and a rotation is one complex product. The token
table is shared with the model; the layers' matrices are copied. All in fp32.

On a CPU with a C++ compiler a single row's token goes through `one_token` in one call; the tensor calls here serve
prompts, several rows, other devices, and machines without a compiler.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from seqpair.nn.attention import Window, attend
from seqpair.nn.backbone import Layer, attention_window
from seqpair.nn.decode.cache import KeyValueCache
from seqpair.nn.decode.one_token import OneTokenStep, find_library
from seqpair.nn.layout import Layout
from seqpair.nn.model import LanguageModel
from seqpair.nn.rope import RopeBases, complex_turns, paired_features
from seqpair.recipe.plan import ModelPlan

_HALF_ROOT = 0.5**0.5


class Piece(NamedTuple):
    """Tokens [begin, end) of a row's prompt."""

    row: int
    begin: int
    end: int


class _Weights(NamedTuple):
    """One layer's weights: norms (D,) or None, matrices as (in, out), which is faster for several rows."""

    attention_norm: Tensor | None
    wqkv: Tensor
    attention_out: Tensor
    mlp_norm: Tensor
    mlp_in: Tensor
    mlp_out: Tensor


def plan_pieces(lengths: Sequence[int], chunk_tokens: int) -> list[list[Piece]]:
    """Cut prompts into chunks of at most `chunk_tokens`, row after row; only a chunk's first piece can continue a row.

    Args:
        lengths: Tokens of each prompt, at least 1.
        chunk_tokens: Most tokens of a chunk.
    """
    assert chunk_tokens > 0, "a chunk holds at least one token"
    chunks: list[list[Piece]] = []
    room = 0
    for row, length in enumerate(lengths):
        begin = 0
        while begin < length:
            if room == 0:
                chunks.append([])
                room = chunk_tokens
            end = min(length, begin + room)
            chunks[-1].append(Piece(row, begin, end))
            room -= end - begin
            begin = end
    return chunks


class CachedDecoder:
    """A language model, read causally, with its past in a `KeyValueCache`.

    Args:
        model: The model, in fp32; later changes of its layers' weights are not seen.
        rope: The RoPE bases it was trained with last.
        compiled: Take the compiled step for a single row where it can be had.
    """

    def __init__(self, model: LanguageModel, rope: RopeBases, *, compiled: bool = True) -> None:
        assert model.output_weight.dtype == torch.float32, "a model's weights are fp32"
        self.plan: ModelPlan = model.backbone.plan
        backbone, shape = model.backbone, self.plan.shape
        self._width, self._eps = (shape.width,), self.plan.norm_eps
        self.table = model.output_weight.detach()
        self.bias = model.output_bias.detach()
        self._embedding_norm = backbone.embedding_norm.weight.detach()
        self._final_norm = backbone.final_norm.weight.detach()
        self._dense = model.head.dense.weight.detach().t().contiguous()
        self._head_norm = model.head.norm.weight.detach()
        self._layers = [self._lay_out(layer) for layer in backbone.layers]
        self._windows: list[Window] = [attention_window(self.plan, i, "causal") for i in range(shape.layers)]
        self._thetas = [rope.of_layer(i, self.plan.global_every) for i in range(shape.layers)]
        self._turns: dict[float, Tensor] = {}  # theta -> (positions, 1, K/2) complex
        self._turns_made = 0
        self._one_token = self._make_one_token() if compiled and OneTokenStep.fits(shape, self.table.device) else None

    def _make_one_token(self) -> OneTokenStep | None:
        library = find_library()
        if library.read_token is None:
            return None
        ends = (self.table, self._embedding_norm, self._final_norm, self._dense, self._head_norm, self.bias)
        return OneTokenStep(library, self.plan.shape, self._eps, ends, self._layers)

    def _lay_out(self, layer: Layer) -> _Weights:
        shape = self.plan.shape
        query_key, value = layer.attention.wqkv.weight.detach().split((2 * shape.width, shape.width))
        return _Weights(
            attention_norm=getattr(layer.attention_norm, "weight", None),
            wqkv=torch.cat([paired_features(query_key, shape.head_dim), value]).t().contiguous(),
            attention_out=layer.attention.wo.weight.detach().t().contiguous(),
            mlp_norm=layer.mlp_norm.weight.detach(),
            mlp_in=layer.mlp.wi.weight.detach().t().contiguous(),
            mlp_out=layer.mlp.wo.weight.detach().t().contiguous(),
        )

    def weight_bytes(self) -> int:
        """Return the bytes of weights that one token reads: all but the rows of the token table it looks up twice."""
        tensors = [weight for layer in self._layers for weight in layer if weight is not None]
        tensors += [self.table, self.bias, self._dense, self._embedding_norm, self._final_norm, self._head_norm]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def reserve(self, tokens: int) -> None:
        """Make the rotations of positions 0 .. tokens - 1, unless they are there."""
        if tokens <= self._turns_made:
            return
        for theta in set(self._thetas):
            self._turns[theta] = complex_turns(tokens, theta, self.plan.shape.head_dim, self.table.device)
        self._turns_made = tokens
        if self._one_token is not None:
            self._one_token.set_turns([self._turns[theta] for theta in self._thetas])

    def _rotate(self, qkv: Tensor, turns: Tensor) -> None:
        """Turn the queries and keys of (N, 3H, K) in place."""
        shape = self.plan.shape
        pairs = qkv[:, : 2 * shape.heads].view(len(qkv), 2 * shape.heads, shape.head_dim // 2, 2)
        torch.view_as_complex(pairs).mul_(turns)

    def _norm(self, states: Tensor, weight: Tensor) -> Tensor:
        return F.layer_norm(states, self._width, weight, None, self._eps)

    def _qkv(self, layer: _Weights, states: Tensor) -> Tensor:
        normed = states if layer.attention_norm is None else self._norm(states, layer.attention_norm)
        shape = self.plan.shape
        return torch.mm(normed, layer.wqkv).view(len(states), 3 * shape.heads, shape.head_dim)

    def _add_mlp(self, layer: _Weights, states: Tensor) -> Tensor:
        normed = self._norm(states, layer.mlp_norm)
        activated, gate = torch.mm(normed, layer.mlp_in).chunk(2, dim=-1)
        if len(states) == 1:  # gelu written out: for one row the library's costs more to call than to run
            erf = torch.mul(activated, _HALF_ROOT).erf_()
            inner = torch.addcmul(activated, activated, erf).mul_(gate)
            return torch.addmm(states, inner, layer.mlp_out, alpha=0.5)
        inner = F.gelu(activated).mul_(gate)
        return torch.addmm(states, inner, layer.mlp_out)

    def _head(self, states: Tensor) -> Tensor:
        hidden = self._norm(states, self._final_norm)
        return self._norm(F.gelu(torch.mm(hidden, self._dense)), self._head_norm)

    def logits(self, head_states: Tensor) -> Tensor:
        """Return (B, V) for (B, D)."""
        if len(head_states) == 1 and self._one_token is not None:
            return self._one_token.logits(head_states)
        return F.linear(head_states, self.table, self.bias)

    def read_prompts(self, cache: KeyValueCache, prompts: Sequence[Tensor], chunk_tokens: int) -> Tensor:
        """Read prompts into an empty cache, packed and in chunks.

        Args:
            cache: Made for these prompts' lengths.
            prompts: (T,) int64 ids of each row, longest first.
            chunk_tokens: Most tokens computed at once; it bounds memory and changes nothing else.

        Returns:
            (B, D) head states of each row's last token.
        """
        self.reserve(cache.capacity)
        lengths = [len(prompt) for prompt in prompts]
        last: list[Tensor] = []
        for pieces in plan_pieces(lengths, chunk_tokens):
            last.append(self._read_pieces(cache, prompts, pieces))
        return self._head(torch.cat(last))

    def _read_pieces(self, cache: KeyValueCache, prompts: Sequence[Tensor], pieces: Sequence[Piece]) -> Tensor:
        """Read some pieces; return the (R, D) states of the R rows that end in them."""
        ids = torch.cat([prompts[piece.row][piece.begin : piece.end] for piece in pieces])
        layout = Layout.from_lengths([piece.end - piece.begin for piece in pieces], ids.device)
        positions = layout.positions.clone()
        positions[: layout.lengths[0]] += pieces[0].begin
        ends = layout.starts[1:] - 1
        finished = [index for index, piece in enumerate(pieces) if piece.end == len(prompts[piece.row])]
        fresh = layout if pieces[0].begin == 0 else None
        if fresh is None and len(pieces) > 1:
            fresh = Layout.from_lengths(layout.lengths[1:], ids.device)
        turns = {theta: table.index_select(0, positions) for theta, table in self._turns.items()}
        states = self._norm(F.embedding(ids, self.table), self._embedding_norm)
        for index, layer in enumerate(self._layers):
            qkv = self._qkv(layer, states)
            self._rotate(qkv, turns[self._thetas[index]])
            mixed = self._attend_pieces(index, qkv, cache, pieces[0], layout.lengths[0], fresh).flatten(1)
            for piece, part in zip(pieces, qkv.split(list(layout.lengths)), strict=True):
                cache.write_prompt(index, piece.row, piece.begin, part[:, self.plan.shape.heads :])
            if index == len(self._layers) - 1:  # nothing but the rows' last tokens is needed from here on
                mixed, states = mixed[ends[finished]], states[ends[finished]]
            states = torch.addmm(states, mixed, layer.attention_out)
            states = self._add_mlp(layer, states)
        return states

    def _attend_pieces(
        self, index: int, qkv: Tensor, cache: KeyValueCache, first: Piece, first_tokens: int, fresh: Layout | None
    ) -> Tensor:
        """Return (N, H, K): rows that begin here by the training kernels, one that goes on against its cache."""
        window, parts = self._windows[index], []
        if first.begin > 0:
            context = cache.read_context(index, first.row, first.begin)
            parts.append(self._attend_context(qkv[:first_tokens], context, window))
            qkv = qkv[first_tokens:]
        if fresh is not None:
            query, key, value = qkv.chunk(3, dim=1)
            parts.append(attend(query, key, value, fresh, window))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _attend_context(self, qkv: Tensor, context: Tensor, window: Window) -> Tensor:
        """Attend from (n, 3H, K) to `context` (2H, C, K) and to themselves; return (n, H, K)."""
        heads, before, n = self.plan.shape.heads, context.shape[1], len(qkv)
        queries = qkv[:, :heads].transpose(0, 1)
        seen = torch.cat([context, qkv[:, heads:].transpose(0, 1)], dim=1)  # (2H, C + n, K)
        offset = (
            torch.arange(before + n, device=qkv.device) - torch.arange(before, before + n, device=qkv.device)[:, None]
        )
        mask = offset <= 0
        if window[0] is not None:
            mask &= offset >= -window[0]
        mixed = F.scaled_dot_product_attention(queries, seen[:heads], seen[heads:], attn_mask=mask)
        return mixed.transpose(0, 1)

    def read_tokens(self, cache: KeyValueCache, ids: Tensor) -> Tensor:
        """Read one more token of every row.

        Args:
            cache: What has been read so far.
            ids: (B,) int64.

        Returns:
            (B, D) head states.
        """
        cache.begin_step()
        rows = len(ids)
        if rows == 1 and self._one_token is not None:
            return self._one_token.read(cache, int(ids))
        if rows == 1:
            at = cache.end - 1 - cache.starts[0]
            turns = {theta: table[at : at + 1] for theta, table in self._turns.items()}
        else:
            positions = cache.positions()
            turns = {theta: table.index_select(0, positions) for theta, table in self._turns.items()}
        states = self._norm(F.embedding(ids, self.table), self._embedding_norm)
        for index, layer in enumerate(self._layers):
            qkv = self._qkv(layer, states)
            self._rotate(qkv, turns[self._thetas[index]])
            mixed = cache.attend(index, qkv).reshape(rows, -1)
            states = torch.addmm(states, mixed, layer.attention_out)
            states = self._add_mlp(layer, states)
        return self._head(states)

    def likeliest_tokens(self, cache: KeyValueCache, token: int) -> Iterator[int] | None:
        """Read a token of the only row and yield the likeliest next one, then read that, and so on.

        None where there is no compiled step. The cache must not be changed from elsewhere meanwhile.
        """
        return None if self._one_token is None else self._one_token.likeliest(cache, token)
