"""The backbone: token ids to hidden states, one class for both directions.

Source: the ModernBERT architecture (arXiv 2412.13663, section 2.1) as trained by arXiv 2507.11412:
pre-norm without biases, GeGLU, rotary positions, a norm after the embedding and none before the first
attention, every third layer global and the others within a window, dropout after the attention output.
Differs: a causal local layer sees `window_tokens` to the left and itself; nothing else depends on the
direction.
"""

from __future__ import annotations

from torch import Tensor, nn

from seqpair.nn.attention import Window, attend, check_kernel
from seqpair.nn.dropout import dropout
from seqpair.nn.gate import gated_gelu
from seqpair.nn.layout import Layout
from seqpair.nn.rope import RopeBases, rotary_tables, rotated_parts
from seqpair.nn.varlen import short_starts
from seqpair.recipe.objectives import Direction
from seqpair.recipe.plan import ModelPlan


def attention_window(plan: ModelPlan, layer: int, direction: Direction) -> Window:
    """Return the (left, right) window of a layer, the token itself extra; `None` is unbounded."""
    reach = None if layer % plan.global_every == 0 else plan.window_tokens
    return (reach, 0 if direction == "causal" else reach)


def layer_norm(plan: ModelPlan) -> nn.LayerNorm:
    """Return a layer norm over the width, without bias."""
    return nn.LayerNorm(plan.shape.width, eps=plan.norm_eps, bias=False)


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

    def forward(
        self, states: Tensor, layout: Layout, window: Window, theta: float, output_index: Tensor | None
    ) -> Tensor:
        """Return (N, D), or (M, D) at `output_index` only."""
        qkv = self.wqkv(states).view(-1, 3 * self.heads, self.head_dim)
        query, key, value = rotated_parts(qkv, rotary_tables(layout, theta, self.head_dim))  # (N, H, K) each
        mixed = attend(query, key, value, layout, window, self.kernel).flatten(1)
        if output_index is not None:
            mixed = mixed.index_select(0, output_index)
        return dropout(self.wo(mixed), self.dropout, self.training)


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
        self.attention_norm = layer_norm(plan) if index > 0 else nn.Identity()
        self.attention = Attention(plan, kernel)
        self.mlp_norm = layer_norm(plan)
        self.mlp = GatedMlp(plan)

    def forward(
        self, states: Tensor, layout: Layout, window: Window, theta: float, output_index: Tensor | None = None
    ) -> Tensor:
        """Map (N, D) to (N, D), or to (M, D) at `output_index` only."""
        mixed = self.attention(self.attention_norm(states), layout, window, theta, output_index)
        states = (states if output_index is None else states.index_select(0, output_index)) + mixed
        return states + self.mlp(self.mlp_norm(states))


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
        self.embedding = nn.Embedding(plan.vocab_size, plan.shape.width)
        self.embedding_norm = layer_norm(plan)
        self.layers = nn.ModuleList(Layer(plan, index, kernel) for index in range(plan.shape.layers))
        self.final_norm = layer_norm(plan)

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
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            window = attention_window(self.plan, index, direction)
            theta = rope.of_layer(index, self.plan.global_every)
            states = layer(states, layout, window, theta, output_index if index == last else None)
        hidden: Tensor = self.final_norm(states)
        return hidden
