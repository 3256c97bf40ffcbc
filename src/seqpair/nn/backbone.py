"""The backbone: token ids to hidden states, one class for both directions.

Source: the ModernBERT architecture (arXiv 2412.13663, section 2.1) as trained by arXiv 2507.11412:
pre-norm without biases, GeGLU, rotary positions, a norm after the embedding and none before the first
attention, every third layer global and the others within a window, dropout after the attention output.
Differs: a causal local layer sees `window_tokens` to the left and itself; nothing else depends on the
direction.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqpair.nn.attention import attend, check_kernel, suited_kernel
from seqpair.nn.blocked import attend_at, few_places
from seqpair.nn.gpu_kernels import short_starts
from seqpair.nn.layout import Layout, Window
from seqpair.nn.rope import RopeBases, rotary_tables, rotated_parts, turn_in_place
from seqpair.recipe.objectives import Direction
from seqpair.recipe.plan import ModelPlan

_LEVELS = 1 << 16
"""Steps of a dropout probability on a CPU: what a random word of 16 bits can tell apart."""


def attention_window(plan: ModelPlan, layer: int, direction: Direction) -> Window:
    """Return the (left, right) window of a layer, the token itself extra; `None` is unbounded."""
    reach = None if layer % plan.global_every == 0 else plan.window_tokens
    return (reach, 0 if direction == "causal" else reach)


class Norm(nn.LayerNorm):
    """A layer norm over the width, without bias.

    Attributes:
        in_bf16: Under autocast, return bf16 instead of fp32, so that the states between the layers are bf16, too.
    """

    in_bf16 = False

    def __init__(self, plan: ModelPlan) -> None:
        super().__init__(plan.shape.width, eps=plan.norm_eps, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """Map (N, D) to (N, D)."""
        device = states.device.type
        if not self.in_bf16 or not torch.is_autocast_enabled(device):
            return super().forward(states)
        with torch.autocast(device, enabled=False):  # which would cast to fp32; the kernel computes in fp32 anyway
            return F.layer_norm(states.bfloat16(), self.normalized_shape, self.weight.bfloat16(), None, self.eps)


# --- the layers' functions ------------------------------------------------------------------------


def gated_gelu(states: Tensor) -> Tensor:
    """Return gelu(u) * g, (N, F), where (u, g) are the halves of (N, 2F) states; exact GELU.

    Without gradients the states are overwritten: they are the product of a linear layer, which nothing else reads.
    """
    if torch.compiler.is_compiling():  # the compiler fuses the definition, and decides itself what to keep
        activated, gate = states.chunk(2, dim=-1)
        return F.gelu(activated) * gate
    if not torch.is_grad_enabled():
        activated, gate = states.chunk(2, dim=-1)
        inner: Tensor = torch.ops.aten.gelu_(activated)  # new memory would cost as much as the function itself
        return inner.mul_(gate)
    out: Tensor = _GatedGelu.apply(states)
    return out


class _GatedGelu(torch.autograd.Function):
    """Keeps (u, g) only; gelu(u) is made again, which costs less than to write and read it."""

    @staticmethod
    def forward(ctx: Any, states: Tensor) -> Tensor:
        ctx.save_for_backward(states)
        activated, gate = states.chunk(2, dim=-1)
        return F.gelu(activated).mul_(gate)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (states,) = ctx.saved_tensors
        activated, gate = states.chunk(2, dim=-1)
        # Both gradients are written into the halves of one buffer: joining them afterwards would be one copy more.
        out = torch.empty_like(states)
        grad_activated, grad_gate = out.chunk(2, dim=-1)
        torch.mul(F.gelu(activated), grad, out=grad_gate)
        torch.ops.aten.gelu_backward.grad_input(grad * gate, activated, grad_input=grad_activated)
        return out


def dropout(states: Tensor, probability: float, training: bool) -> Tensor:
    """Set values to zero with a probability, and scale the others so that the expectation stays.

    On a CPU torch draws one double per value, which costs more than the layer it regularises. Here one 64-bit draw of
    the global generator decides four values. Elsewhere, and in compiled code, it is torch's own.

    Args:
        states: Any shape.
        probability: In [0, 1); on a CPU it is rounded to a multiple of 2^-16.
        training: Whether to do anything at all.
    """
    if not training or probability == 0.0:
        return states
    if states.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(states, probability)
    dropped: Tensor = _Dropout.apply(states, round(probability * _LEVELS))
    return dropped


class _Dropout(torch.autograd.Function):
    """Keeps the 0/1 mask as bytes, a quarter of the states' size."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, level: int) -> Tensor:
        words = torch.empty(-(-states.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
        # The words are read as signed 16-bit numbers, uniform on [-2^15, 2^15): the bound moves by half the levels.
        kept = words.view(torch.int16)[: states.numel()].view(states.shape) >= level - _LEVELS // 2
        ctx.save_for_backward(kept)
        ctx.scale = _LEVELS / (_LEVELS - level)
        return (states * kept).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (kept,) = ctx.saved_tensors
        return (grad * kept).mul_(ctx.scale), None


def _plus(states: Tensor, change: Tensor) -> Tensor:
    """Return x + f(x); without gradients in the memory of x, which nothing reads any more."""
    in_place = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    return states.add_(change) if in_place else states + change


# --- modules --------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Multi-head attention with rotary positions.

    Parameters: `wqkv` (3D, D), rows in the order queries, keys, values; `wo` (D, D).
    """

    def __init__(self, plan: ModelPlan, kernel: str) -> None:
        super().__init__()
        width = plan.shape.width
        self.heads, self.head_dim = plan.shape.heads, plan.shape.head_dim
        self.dropout = plan.attn_out_dropout
        self.kernel = kernel
        self.wqkv = nn.Linear(width, 3 * width, bias=False)
        self.wo = nn.Linear(width, width, bias=False)

    def project(self, states: Tensor) -> Tensor:
        """Return the heads of queries, keys and values, (N, 3H, K), not rotated yet."""
        qkv: Tensor = self.wqkv(states)
        return qkv.view(-1, 3 * self.heads, self.head_dim)

    def output(self, mixed: Tensor) -> Tensor:
        """Return (N, D) for what the heads have mixed, (N, H, K)."""
        return dropout(self.wo(mixed.flatten(1)), self.dropout, self.training)

    def forward(
        self, states: Tensor, layout: Layout, window: Window, theta: float, output_index: Tensor | None
    ) -> Tensor:
        """Return (N, D), or (M, D) at `output_index` only."""
        if output_index is not None and self._can_attend_at(states, layout) and few_places(layout, output_index):
            return self._attend_at(states, layout, window, theta, output_index)
        qkv = self.project(states)
        query, key, value = rotated_parts(qkv, rotary_tables(layout, theta, self.head_dim))  # (N, H, K) each
        mixed = attend(query, key, value, layout, window, self.kernel)
        return self.output(mixed if output_index is None else mixed.index_select(0, output_index))

    def _can_attend_at(self, states: Tensor, layout: Layout) -> bool:
        """Return whether queries may be computed at some tokens only: on a CPU, where nothing is trained."""
        if (
            layout.prefixes is not None
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or states.dtype != self.wqkv.weight.dtype
        ):
            return False
        return self.kernel == "blocked" or (self.kernel == "auto" and suited_kernel(states) == "blocked")

    def _attend_at(self, states: Tensor, layout: Layout, window: Window, theta: float, index: Tensor) -> Tensor:
        """Return (M, D): queries at `index` only, keys and values of all tokens."""
        width = self.heads * self.head_dim
        tables = rotary_tables(layout, theta, self.head_dim)
        of_query, of_key_value = self.wqkv.weight.split((width, 2 * width))
        query = F.linear(states.index_select(0, index), of_query).view(-1, self.heads, self.head_dim)
        key, value = F.linear(states, of_key_value).view(-1, 2 * self.heads, self.head_dim).chunk(2, dim=1)
        turn_in_place(key, tables)
        turn_in_place(query, tuple(table.index_select(0, index) for table in tables))
        return self.output(attend_at(query, key, value, layout, window, index))


class GatedMlp(nn.Module):
    """The gated MLP: wo(gelu(u) * g), where (u, g) are the halves of wi(x); exact GELU.

    Parameters: `wi` (2F, D), the activated half first; `wo` (D, F).
    """

    def __init__(self, plan: ModelPlan) -> None:
        super().__init__()
        self.wi = nn.Linear(plan.shape.width, 2 * plan.shape.inner, bias=False)
        self.wo = nn.Linear(plan.shape.inner, plan.shape.width, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """Map (N, D) to (N, D)."""
        out: Tensor = self.wo(gated_gelu(self.wi(states)))
        return out


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); the first layer has no attention norm."""

    def __init__(self, plan: ModelPlan, index: int, kernel: str) -> None:
        super().__init__()
        self.attention_norm = Norm(plan) if index > 0 else nn.Identity()
        self.attention = Attention(plan, kernel)
        self.mlp_norm = Norm(plan)
        self.mlp = GatedMlp(plan)

    def forward(
        self, states: Tensor, layout: Layout, window: Window, theta: float, output_index: Tensor | None = None
    ) -> Tensor:
        """Map (N, D) to (N, D), or to (M, D) at `output_index` only."""
        mixed = self.attention(self.attention_norm(states), layout, window, theta, output_index)
        return self.finish(states if output_index is None else states.index_select(0, output_index), mixed)

    def finish(self, states: Tensor, mixed: Tensor) -> Tensor:
        """Return the layer's (N, D) states from those that came in and from what attention adds to them."""
        states = _plus(states, mixed)
        return _plus(states, self.mlp(self.mlp_norm(states)))


class Backbone(nn.Module):
    """Token ids to hidden states.

    Args:
        plan: The model's shape and constants.
        kernel: The attention kernel's name, or `auto`.

    Raises:
        SeqpairError: There is no kernel of this name.
    """

    def __init__(self, plan: ModelPlan, kernel: str = "auto") -> None:
        super().__init__()
        check_kernel(kernel)
        self.plan = plan
        table = torch.empty(plan.vocab_size, plan.shape.width)
        if not table.is_meta:  # drawing there imports torch's compiler: two seconds for every use of an export
            nn.init.normal_(table)
        self.embedding = nn.Embedding.from_pretrained(table, freeze=False)
        self.embedding_norm = Norm(plan)
        self.layers = nn.ModuleList(Layer(plan, index, kernel) for index in range(plan.shape.layers))
        self.final_norm = Norm(plan)

    def derive_tables(self, layout: Layout, rope: RopeBases) -> None:
        """Make what the layers derive from a layout, so that a compiled forward pass finds it there."""
        for theta in rope:
            rotary_tables(layout, theta, self.plan.shape.head_dim)
        if layout.device.type == "cuda":
            short_starts(layout)

    def forward(
        self,
        ids: Tensor,
        layout: Layout,
        direction: Direction,
        rope: RopeBases,
        output_index: Tensor | None = None,
    ) -> Tensor:
        """Return the hidden states.

        Args:
            ids: (N,) int64 token ids.
            layout: The sequences' boundaries.
            direction: `bidirectional` or `causal`.
            rope: The bases of global and local layers.
            output_index: (M,) int64: the last layer's MLP runs only at these tokens. Without it, at all.

        Returns:
            (M, D), or (N, D) without `output_index`.
        """
        states = self.embedding_norm(self.embedding(ids))
        if layout.prefixes is not None:
            assert direction == "causal", "what stands after a prefix is causal"
            direction = "bidirectional"  # the windows': the layout bounds what of them is seen
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            window = attention_window(self.plan, index, direction)
            theta = rope.of_layer(index, self.plan.global_every)
            states = layer(states, layout, window, theta, output_index if index == last else None)
        hidden: Tensor = self.final_norm(states)
        return hidden
