"""The language model: backbone, prediction head, and an output that shares the token table."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqpair.nn.backbone import Backbone, layer_norm
from seqpair.nn.layout import Layout
from seqpair.nn.rope import RopeBases
from seqpair.recipe.objectives import Direction
from seqpair.recipe.plan import ModelPlan


class Head(nn.Module):
    """norm(gelu(dense(x))), for both directions."""

    def __init__(self, plan: ModelPlan) -> None:
        super().__init__()
        self.dense = nn.Linear(plan.shape.width, plan.shape.width, bias=False)
        self.norm = layer_norm(plan)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map (M, D) to (M, D)."""
        out: Tensor = self.norm(F.gelu(self.dense(hidden)))
        return out


class LanguageModel(nn.Module):
    """Token ids to head states, and head states to logits.

    Parameters, all fp32 (i counts layers, the first has no attention norm):
        `backbone.embedding.weight` (V, D), `backbone.embedding_norm.weight` (D,),
        `backbone.layers.{i}.attention_norm.weight`, `.attention.wqkv.weight` (3D, D),
        `.attention.wo.weight` (D, D), `.mlp_norm.weight`, `.mlp.wi.weight` (2F, D),
        `.mlp.wo.weight` (D, F), `backbone.final_norm.weight`, `head.dense.weight` (D, D),
        `head.norm.weight`, `output_bias` (V,).

    Args:
        model: The model's part of the plan.
        kernel: The attention kernel's name, or `auto`.

    Raises:
        SeqpairError: There is no kernel of this name.
    """

    def __init__(self, model: ModelPlan, kernel: str = "auto") -> None:
        super().__init__()
        self.backbone = Backbone(model, kernel)
        self.head = Head(model)
        self.output_bias = nn.Parameter(torch.zeros(model.vocab_size))

    @property
    def output_weight(self) -> Tensor:
        """Return the (V, D) output matrix: the token table itself."""
        return self.backbone.embedding.weight

    def forward(
        self, ids: Tensor, layout: Layout, direction: Direction, rope: RopeBases, output_index: Tensor
    ) -> Tensor:
        """Return the states that the vocabulary projection takes, only where something is predicted.

        Args:
            ids: (N,) int64 token ids, packed, with specials.
            layout: The sequences' boundaries.
            direction: `bidirectional` or `causal`.
            rope: The bases of global and local layers.
            output_index: (M,) int64, the outputs that predict something; may be empty.

        Returns:
            (M, D) head states.
        """
        out: Tensor = self.head(self.backbone(ids, layout, direction, rope, output_index))
        return out

    def hidden(self, ids: Tensor, layout: Layout, direction: Direction, rope: RopeBases) -> Tensor:
        """Return the (N, D) hidden states after the final norm, without the head."""
        out: Tensor = self.backbone(ids, layout, direction, rope)
        return out

    def logits(self, head_states: Tensor) -> Tensor:
        """Return the (M, V) logits of (M, D) head states; for evaluation, never in training."""
        return F.linear(head_states, self.output_weight, self.output_bias)
