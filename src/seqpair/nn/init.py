"""Initialisation `full_megatron`: a table from parameter names to standard deviations."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from seqpair.counter import key_words
from seqpair.nn.model import LanguageModel
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
