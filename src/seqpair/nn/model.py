"""The language model: backbone, prediction head, an output that shares the token table, and its starting values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seqpair.counter import key_words
from seqpair.nn.backbone import Backbone, Norm
from seqpair.nn.layout import Layout
from seqpair.nn.rope import RopeBases
from seqpair.recipe.objectives import Direction
from seqpair.recipe.plan import ModelPlan

FULL_MEGATRON: dict[str, str] = {
    "backbone.embedding.weight": "in",
    "*.attention.wqkv.weight": "in",
    "*.mlp.wi.weight": "in",
    "head.dense.weight": "in",
    "*.attention.wo.weight": "out",
    "*.mlp.wo.weight": "out",
    "*norm.weight": "one",
    "output_bias": "zero",
}
"""Name pattern -> rule. `in`: std s; `out`: std s / sqrt(2L); `one`, `zero`: that constant."""

HIDDEN_MATRICES: dict[str, int] = {
    "backbone.layers.*.attention.wqkv.weight": 3,
    "backbone.layers.*.attention.wo.weight": 1,
    "backbone.layers.*.mlp.wi.weight": 2,
    "backbone.layers.*.mlp.wo.weight": 1,
}
"""Name pattern -> how many maps of the hidden state lie one under the other in it: queries, keys and values; the two
halves of the gated MLP. The token table, which is also the output, and the head's dense layer are none of them."""


class Head(nn.Module):
    """norm(gelu(dense(x))), for both directions."""

    def __init__(self, plan: ModelPlan) -> None:
        super().__init__()
        self.dense = nn.Linear(plan.shape.width, plan.shape.width, bias=False)
        self.norm = Norm(plan)

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
        residual: What the states between the layers are under autocast, `fp32` or `bf16`.

    Raises:
        SeqpairError: There is no kernel of this name.
    """

    def __init__(self, model: ModelPlan, kernel: str = "auto", residual: str = "fp32") -> None:
        super().__init__()
        self.backbone = Backbone(model, kernel)
        self.head = Head(model)
        self.output_bias = nn.Parameter(torch.zeros(model.vocab_size))
        for norm in (module for module in self.modules() if isinstance(module, Norm)):
            norm.in_bf16 = residual == "bf16"

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


def initialise(model: LanguageModel, plan: ModelPlan, seed: int) -> None:
    """Give every parameter its starting value.

    | parameters | rule |
    |---|---|
    | token table (also the output matrix), wqkv, MLP wi, head dense | normal, std s = `init_std` |
    | attention wo, MLP wo | normal, std s / sqrt(2L), the same at every depth |
    | norm weights | 1 |
    | output bias | 0 |

    Normals are cut at two standard deviations without a correction of the variance, so what comes out
    has a standard deviation of 0.88 of the nominal one.

    Source: `full_megatron` of the ModernBERT training code (`initialization.py`), after Shoeybi et al.,
    arXiv 1909.08053, section 3. Differs: the published code leaves the tied output's bias at
    U(-1/sqrt(D), 1/sqrt(D)), by an oversight as it seems; here it starts at zero.

    Args:
        model: Its parameters are overwritten, on whatever device they are.
        plan: The model's part of the plan.
        seed: The study's seed.
    """
    deviations = {"in": plan.init_std, "out": plan.init_std / math.sqrt(2 * plan.shape.layers)}
    for name, parameter in model.named_parameters():
        rule = next(rule for pattern, rule in FULL_MEGATRON.items() if fnmatchcase(name, pattern))
        with torch.no_grad():
            if rule in deviations:
                parameter.copy_(_cut_normal(parameter.shape, deviations[rule], seed, name))
            else:
                parameter.fill_(1.0 if rule == "one" else 0.0)


def _cut_normal(shape: torch.Size, std: float, seed: int, name: str) -> Tensor:
    low, high = key_words(seed, "init", name)
    generator = torch.Generator("cpu").manual_seed(low | high << 32)
    values = torch.empty(shape, dtype=torch.float32)
    return nn.init.trunc_normal_(values, std=std, a=-2 * std, b=2 * std, generator=generator)


def part_of(name: str) -> int | Literal["embedding", "head"]:
    """Return the part of the model that a parameter belongs to: its layer's number, `embedding` or `head`."""
    if name.startswith("backbone.layers."):
        return int(name.split(".")[2])
    return "embedding" if name.startswith("backbone.embedding") else "head"


@torch.no_grad()
def drift(model: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> dict[str, float]:
    """Return how far each part of a model is from where it started: |w - w0| / |w0| over all of the part's parameters.

    Args:
        model: Its parameters by name.
        start: Those that it started from.
    """
    sums: dict[str, tuple[float, float]] = {}
    for name, before in start.items():
        moved, size = sums.get(str(part_of(name)), (0.0, 0.0))
        then, now = before.double(), model[name].to(before.device).double()
        sums[str(part_of(name))] = moved + float((now - then).square().sum()), size + float(then.square().sum())
    return {part: math.sqrt(moved / size) for part, (moved, size) in sums.items()}


def maps_in(name: str) -> int:
    """Return how many maps lie in a parameter; 0 if it is no matrix of a layer."""
    return next((count for pattern, count in HIDDEN_MATRICES.items() if fnmatchcase(name, pattern)), 0)
