"""The Hugging Face class that computes what a tuned model computes, where there is one.

A class is built from the backbone's configuration, filled with the backbone's and the head's weights, and taken only if
it gives the tuned model's outputs on real rows. The last layer of a head has a bias; places for a bias that our head
lacks are filled with zeros.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from seqpair.errors import EvaluationError
from seqpair.evaluate.finetune.model import TunedModel
from seqpair.evaluate.finetune.sets import Kind, LabelledSet
from seqpair.hub.library import require_transformers

TOLERANCE = 1e-4
AUTO_CLASSES: dict[Kind, str] = {
    "classes": "AutoModelForSequenceClassification",
    "number": "AutoModelForSequenceClassification",
    "tags": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering",
    "text": "AutoModelForCausalLM",
}
_LAST_LAYERS = ("classifier", "score", "qa_outputs")
Batch = tuple[Tensor, Tensor, Tensor]


def hub_model(tuned: TunedModel, labelled: LabelledSet, pad_id: int, dropout: float, batch: Batch) -> tuple[Any, str]:
    """Return the class's model that computes the same, or `None` and the reason why there is none.

    Args:
        tuned: The tuned model, in evaluation mode.
        labelled: The set of its head.
        pad_id: What rows are padded with.
        dropout: Of the head, for those who train it further.
        batch: Ids, token types and mask (B, T) of rows of different lengths.
    """
    transformers = require_transformers(EvaluationError, "keeping a tuned model")
    auto = getattr(transformers, AUTO_CLASSES[labelled.kind])
    config = hub_config_of(tuned, labelled, pad_id, dropout)
    try:
        model = auto.from_config(config).eval().to(batch[0].device)
    except (ValueError, AttributeError) as error:
        return None, f"transformers has no such class for it: {str(error).splitlines()[0][:120]}"
    fault = _fill(model, tuned, labelled.name)
    if fault:
        return None, fault
    difference = largest_difference(tuned, model, labelled, batch)
    if not difference <= TOLERANCE:
        name = type(model).__name__
        return None, f"{name} computes something else: outputs differ by {difference:.3g} ({tuned.pooling} pooling)"
    return model, ""


def hub_config_of(tuned: TunedModel, labelled: LabelledSet, pad_id: int, dropout: float) -> Any:
    """Return the backbone's configuration with what the head needs."""
    config = copy.deepcopy(tuned.backbone.config)
    names = labelled.labels if labelled.kind in ("classes", "tags") else ("LABEL_0", "LABEL_1")[: labelled.outputs]
    config.id2label = dict(enumerate(names))
    config.label2id = {name: index for index, name in enumerate(names)}
    problems = {"number": "regression", "classes": "single_label_classification"}
    config.problem_type = problems.get(labelled.kind)
    if config.pad_token_id is None:
        config.pad_token_id = pad_id
    if hasattr(config, "classifier_pooling") and tuned.pooling != "last":
        config.classifier_pooling = tuned.pooling
    wanted = {"classifier_bias": True, "classifier_activation": "gelu", "classifier_dropout": dropout}
    for name, value in wanted.items():
        if hasattr(config, name):
            setattr(config, name, value)
    return config


@torch.no_grad()
def _fill(model: Any, tuned: TunedModel, name: str) -> str:
    """Put all weights in their places; return what does not fit, or nothing."""
    base = model.base_model
    if base is model:
        return f"{type(model).__name__} has no part that is the backbone"
    missing = base.load_state_dict(tuned.backbone.state_dict(), strict=False).missing_keys
    if missing:
        return f"{type(model).__name__} has other weights: {missing[0]}"
    head, own = tuned.heads[name], {f"{model.base_model_prefix}.{one}" for one, _ in base.named_parameters()}
    ours = {"head.dense.weight": head.dense.weight, "head.norm.weight": head.norm.weight} if head.dense else {}
    for last in _LAST_LAYERS:
        ours |= {f"{last}.weight": head.out.weight, f"{last}.bias": head.out.bias}
    used = set()
    for place, parameter in model.named_parameters():
        if place in own:
            continue
        if place in ours and ours[place].shape == parameter.shape:
            parameter.copy_(ours[place])
            used.add(place)
        elif place.endswith(".bias"):
            parameter.zero_()
        else:
            return f"the head of {type(model).__name__} is another one: it has {place}"
    wanted = {"head.dense.weight", "head.norm.weight"} if head.dense else set()
    if not wanted <= used or not any(place.endswith(".weight") for place in used - wanted):
        return f"the head of {type(model).__name__} is another one"
    return ""


@torch.no_grad()
def outputs_of_hub_model(model: Any, kind: Kind, batch: Batch, *, takes_types: bool) -> Tensor:
    """Return what a class gives: (B, C), or (B, T, C) for tags and answers."""
    ids, types, mask = batch
    options = {"token_type_ids": types} if takes_types else {}
    out = model(input_ids=ids, attention_mask=mask, **options)
    outputs: Tensor = torch.stack((out.start_logits, out.end_logits), -1) if kind == "span" else out.logits
    return outputs.float()


@torch.no_grad()
def largest_difference(tuned: TunedModel, model: Any, labelled: LabelledSet, batch: Batch) -> float:
    """Return the largest difference of outputs at real tokens; infinite for another shape."""
    ours = tuned(labelled.name, *batch)
    theirs = outputs_of_hub_model(model, labelled.kind, batch, takes_types=tuned.takes_types)
    if ours.shape != theirs.shape:
        return float("inf")
    if ours.ndim == 3:
        ours, theirs = ours[batch[2].bool()], theirs[batch[2].bool()]
    return float((ours - theirs).abs().max())
