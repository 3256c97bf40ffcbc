"""A backbone with one head a set: the same head for encoders and decoders.

    mlp:     dense -> GELU -> norm -> dropout -> linear        the head of ModernBERT's own classes
    linear:  dropout -> linear

on the pooled state of a row (`classes`, `number`) or on every state (`tags`, `span`). The dense layer and the norm
have no bias, the last layer has one: the form that the Hugging Face classes of both directions can hold.

Shapes: B rows, T positions, D width, C outputs.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from seqpair.errors import EvaluationError
from seqpair.evaluate.finetune.sets import Kind, LabelledSet
from seqpair.evaluate.finetune.settings import HeadKind, Pooling, TuneSetting
from seqpair.models.text_model import TextModel
from seqpair.recipe.objectives import Direction

NORM_EPS = 1e-5
TOKEN_KINDS = ("tags", "span")


def head_pooling(pooling: Pooling, direction: Direction) -> Pooling:
    """Return the pooling that `default` means for a direction."""
    if pooling != "default":
        return pooling
    return "last" if direction == "causal" else "cls"


def pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Return one vector a row.

    Args:
        states: (B, T, D), rows padded on the right.
        mask: 1 for real tokens (B, T).
        pooling: `cls`: the first token; `last`: the last real one; `mean`: over all real ones, specials included.
    """
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), mask.sum(1) - 1]
    # A product and not a selection: rows of one batch have different lengths.
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1)


class TaskHead(nn.Module):
    """From states to outputs.

    Args:
        width: Of a state.
        outputs: How many values.
        kind: `mlp` or `linear`.
        dropout: Share of values dropped before the last layer.
        std: Standard deviation of the initial weights.
        eps: Of the norm; the backbone's, where it has one.
        generator: Draws them.
    """

    def __init__(
        self,
        width: int,
        outputs: int,
        kind: HeadKind,
        dropout: float,
        std: float,
        generator: torch.Generator,
        eps: float = NORM_EPS,
    ) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width, bias=False) if kind == "mlp" else None
        self.norm = nn.LayerNorm(width, eps=eps, bias=False) if kind == "mlp" else None
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, outputs)
        with torch.no_grad():
            if self.dense is not None:
                self.dense.weight.normal_(0.0, std, generator=generator)
            self.out.weight.normal_(0.0, std, generator=generator)
            self.out.bias.zero_()

    def forward(self, states: Tensor) -> Tensor:
        """Return outputs (..., C) of states (..., D)."""
        if self.dense is not None and self.norm is not None:
            states = self.norm(nn.functional.gelu(self.dense(states)))
        outputs: Tensor = self.out(self.dropout(states))
        return outputs


class TunedModel(nn.Module):
    """A backbone and a head for each set.

    Args:
        backbone: A model that gives the last hidden states; for `text` a decoder with its own head.
        heads: By the set's name.
        kinds: The kind of each set.
        pooling: `cls`, `mean` or `last`.
        is_causal: Whether the backbone is a decoder.
    """

    def __init__(
        self,
        backbone: Any,
        heads: Mapping[str, TaskHead],
        kinds: Mapping[str, Kind],
        pooling: Pooling,
        *,
        is_causal: bool,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict(heads)
        self.kinds, self.pooling, self.is_causal = dict(kinds), pooling, is_causal
        self.takes_types = int(getattr(backbone.config, "type_vocab_size", 0) or 0) > 1

    def forward(self, name: str, ids: Tensor, types: Tensor, mask: Tensor) -> Tensor:
        """Return a set's outputs: (B, C), or (B, T, C) for tags, answers and texts; ids, types and mask are (B, T)."""
        options: dict[str, Any] = {"use_cache": False} if self.is_causal else {}
        if self.takes_types:
            options["token_type_ids"] = types
        if self.kinds[name] == "text":
            logits: Tensor = self.backbone(input_ids=ids, attention_mask=mask, **options).logits.float()
            return logits
        states = self.backbone(input_ids=ids, attention_mask=mask, **options).last_hidden_state
        if self.kinds[name] not in TOKEN_KINDS:
            states = pool(states, mask, self.pooling)
        outputs: Tensor = self.heads[name](states).float()
        return outputs


def tuned_model(model: TextModel, sets: Sequence[LabelledSet], setting: TuneSetting, seed: int) -> TunedModel:
    """Return a copy of a model's backbone with a head for each set; the model itself stays as it is.

    Raises:
        EvaluationError: Texts are to be learned by a model that is no decoder, or heads are to start from a
            language-model head that the model does not have in their form.
    """
    writes = [one.name for one in sets if one.kind == "text"]
    if writes and (len(sets) > 1 or model.direction != "causal" or not model.has_head):
        raise EvaluationError(
            "only a decoder can learn to write texts, and one set of them at a time",
            seen=f"{', '.join(one.name for one in sets)} with {model.name}, {model.direction}",
            allowed="a causal model with its language-model head",
        )
    # In float32, whatever the file has: the optimiser's small steps are lost in bfloat16.
    backbone = copy.deepcopy(model.network if writes else model.backbone).float()
    backbone.requires_grad_(True)
    width, std = int(backbone.config.hidden_size), float(getattr(backbone.config, "initializer_range", 0.02))
    generator = torch.Generator().manual_seed(seed)
    eps = float(getattr(backbone.config, "norm_eps", NORM_EPS))
    made = setting.head, setting.dropout, std, generator, eps
    heads = {one.name: TaskHead(width, one.outputs, *made) for one in sets if not writes}
    if setting.head_start == "pretrained":
        for head in heads.values():
            _start_from_pretrained(head, model)
    kinds = {one.name: one.kind for one in sets}
    chosen = head_pooling(setting.pooling, model.direction)
    return TunedModel(backbone, heads, kinds, chosen, is_causal=model.direction == "causal").to(model.device)


def _start_from_pretrained(head: TaskHead, model: TextModel) -> None:
    """Give a head the dense layer and the norm between a model's states and its logits.

    That is how published encoders start: `ModernBertForMaskedLM.head` and `ModernBertForSequenceClassification.head`
    share a name, so transformers loads the one into the other. The classes of a decoder have no such pair of names.

    Raises:
        EvaluationError: The model has no such layers, or the head is linear.
    """
    # ModernBERT calls it `head` in the encoder and `lm_head` in the decoder.
    parts = [getattr(model.network, name, None) for name in ("head", "lm_head")] if model.has_head else []
    found = next((part for part in parts if hasattr(part, "dense") and hasattr(part, "norm")), None)
    weights = None if found is None else {**_own(found, "dense"), **_own(found, "norm")}
    wanted = {name: value.shape for name, value in head.state_dict().items() if not name.startswith("out.")}
    if not wanted or weights is None or {name: value.shape for name, value in weights.items()} != wanted:
        raise EvaluationError(
            "the head cannot start from the model's language-model head",
            seen=f"{model.name} with {', '.join(weights or {}) or 'no dense layer and norm'}",
            allowed=f"head mlp, and a language-model head of the form of ModernBERT: {', '.join(wanted)}",
            fix="leave head_start at fresh",
        )
    head.load_state_dict(weights, strict=False)


def _own(part: nn.Module, name: str) -> dict[str, Tensor]:
    return {f"{name}.{key}": value for key, value in getattr(part, name).state_dict().items()}
