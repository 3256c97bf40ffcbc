"""A causal model that reads its past from a cache: the backbone's layers, with attention from a `KeyValueCache`.

On a CPU with a C++ compiler a single row's token goes through `one_token` in one call. The tensor calls here serve
prompts, several rows, other devices, and machines without a compiler.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqpair.nn.attention import Window, attend
from seqpair.nn.backbone import Layer, attention_window
from seqpair.nn.decode.cache import KeyValueCache
from seqpair.nn.decode.one_token import OneTokenStep, find_library
from seqpair.nn.layout import Layout
from seqpair.nn.model import LanguageModel
from seqpair.nn.rope import RopeBases, Tables, tables_at, turn_in_place
from seqpair.recipe.plan import ModelPlan


class FedPiece(NamedTuple):
    """Tokens [begin, end) of a row's prompt."""

    row: int
    begin: int
    end: int


def plan_pieces(lengths: Sequence[int], chunk_tokens: int) -> list[list[FedPiece]]:
    """Cut prompts into chunks of at most `chunk_tokens`, row after row; only a chunk's first piece can continue a row.

    Args:
        lengths: Tokens of each prompt, at least 1.
        chunk_tokens: Most tokens of a chunk.
    """
    assert chunk_tokens > 0, "a chunk holds at least one token"
    chunks: list[list[FedPiece]] = []
    room = 0
    for row, length in enumerate(lengths):
        begin = 0
        while begin < length:
            if room == 0:
                chunks.append([])
                room = chunk_tokens
            end = min(length, begin + room)
            chunks[-1].append(FedPiece(row, begin, end))
            room -= end - begin
            begin = end
    return chunks


class CachedDecoder:
    """A language model, read causally, with its past in a `KeyValueCache`.

    Args:
        model: The model, in fp32; later changes of its layers' weights are not seen.
        rope: The RoPE bases it was trained with last.
        never: Ids that are never chosen: the vocabulary's rows that have no token.
        compiled: Take the compiled step for a single row where it can be had.
    """

    def __init__(
        self, model: LanguageModel, rope: RopeBases, *, never: Sequence[int] = (), compiled: bool = True
    ) -> None:
        assert model.output_weight.dtype == torch.float32, "a model's weights are fp32"
        self.plan: ModelPlan = model.backbone.plan
        backbone, shape = model.backbone, self.plan.shape
        self.table = model.output_weight.detach()
        self.bias = model.output_bias.detach()
        if never:  # a row of the vocabulary without a token is then never the likeliest one, nor drawn
            self.bias = self.bias.index_fill(0, torch.tensor(never, device=self.bias.device), -torch.inf)
        self._embedding_norm, self._final_norm = _laid_out(backbone.embedding_norm), _laid_out(backbone.final_norm)
        self._head = _laid_out(model.head)
        self._layers = [_laid_out(layer) for layer in backbone.layers]
        self._windows: list[Window] = [attention_window(self.plan, i, "causal") for i in range(shape.layers)]
        self._thetas = [rope.of_layer(i, self.plan.global_every) for i in range(shape.layers)]
        self._turns: dict[float, Tensor] = {}  # theta -> (positions, 1, K), cosines before sines
        self._turns_made = 0
        self._one_token = self._make_one_token() if compiled and OneTokenStep.fits(shape, self.table.device) else None

    def _make_one_token(self) -> OneTokenStep | None:
        library = find_library()
        if library.read_token is None:
            return None
        norms = (self._embedding_norm.weight, self._final_norm.weight)
        ends = (self.table, *norms, self._head.dense.weight.t(), self._head.norm.weight, self.bias)
        layers = [
            (
                getattr(layer.attention_norm, "weight", None),
                layer.attention.wqkv.weight.t(),
                layer.attention.wo.weight.t(),
                layer.mlp_norm.weight,
                layer.mlp.wi.weight.t(),
                layer.mlp.wo.weight.t(),
            )
            for layer in self._layers
        ]
        return OneTokenStep(library, self.plan.shape, self.plan.norm_eps, ends, layers)

    def weight_bytes(self) -> int:
        """Return the bytes of weights that one token reads: all but the rows of the token table it looks up twice."""
        modules = (*self._layers, self._head, self._embedding_norm, self._final_norm)
        tensors = [self.table, self.bias, *(weight for module in modules for weight in module.parameters())]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def reserve(self, tokens: int) -> None:
        """Make the rotations of positions 0 .. tokens - 1, unless they are there."""
        if tokens <= self._turns_made:
            return
        positions = torch.arange(tokens, device=self.table.device)
        for theta in set(self._thetas):
            self._turns[theta] = torch.cat(tables_at(positions, theta, self.plan.shape.head_dim), dim=-1)
        self._turns_made = tokens
        if self._one_token is not None:
            self._one_token.set_turns([self._turns[theta] for theta in self._thetas])

    def _tables(self, positions: Tensor) -> dict[float, Tables]:
        """Return the rotations of (N,) positions, for each base."""
        chosen = {theta: turns.index_select(0, positions).chunk(2, dim=-1) for theta, turns in self._turns.items()}
        return {theta: (cos, sin) for theta, (cos, sin) in chosen.items()}

    def _embed(self, ids: Tensor) -> Tensor:
        states: Tensor = self._embedding_norm(F.embedding(ids, self.table))
        return states

    def _qkv(self, index: int, states: Tensor, tables: dict[float, Tables]) -> Tensor:
        """Return (N, 3H, K), queries and keys rotated."""
        layer: Layer = self._layers[index]
        qkv = layer.attention.project(layer.attention_norm(states))
        turn_in_place(qkv[:, : 2 * self.plan.shape.heads], tables[self._thetas[index]])
        return qkv

    def _finish(self, index: int, states: Tensor, mixed: Tensor) -> Tensor:
        layer: Layer = self._layers[index]
        return layer.finish(states, layer.attention.output(mixed))

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
        head_states: Tensor = self._head(self._final_norm(torch.cat(last)))
        return head_states

    def _read_pieces(self, cache: KeyValueCache, prompts: Sequence[Tensor], pieces: Sequence[FedPiece]) -> Tensor:
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
        tables = self._tables(positions)
        states = self._embed(ids)
        for index in range(len(self._layers)):
            qkv = self._qkv(index, states, tables)
            mixed = self._attend_pieces(index, qkv, cache, pieces[0], layout.lengths[0], fresh)
            for piece, part in zip(pieces, qkv.split(list(layout.lengths)), strict=True):
                cache.write_prompt(index, piece.row, piece.begin, part[:, self.plan.shape.heads :])
            if index == len(self._layers) - 1:  # nothing but the rows' last tokens is needed from here on
                mixed, states = mixed[ends[finished]], states[ends[finished]]
            states = self._finish(index, states, mixed)
        return states

    def _attend_pieces(
        self, index: int, qkv: Tensor, cache: KeyValueCache, first: FedPiece, first_tokens: int, fresh: Layout | None
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
        if len(ids) == 1 and self._one_token is not None:
            return self._one_token.read(cache, int(ids))
        tables = self._tables(cache.positions())
        states = self._embed(ids)
        for index in range(len(self._layers)):
            mixed = cache.attend(index, self._qkv(index, states, tables))
            states = self._finish(index, states, mixed)
        head_states: Tensor = self._head(self._final_norm(states))
        return head_states

    def likeliest_tokens(self, cache: KeyValueCache, token: int) -> Iterator[int] | None:
        """Read a token of the only row and yield the likeliest next one, then read that, and so on.

        None where there is no compiled step. The cache must not be changed from elsewhere meanwhile.
        """
        return None if self._one_token is None else self._one_token.likeliest(cache, token)


def _laid_out(module: nn.Module) -> Any:
    """Return a copy of a module whose matrices lie as (in, out): faster for a few rows, and `one_token` needs it."""
    copied = copy.deepcopy(module).eval().requires_grad_(False)
    for part in copied.modules():
        if isinstance(part, nn.Linear):
            part.weight.data = part.weight.t().contiguous().t()
    return copied
