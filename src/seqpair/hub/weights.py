"""Parameter names of our model and of the two Hugging Face classes.

The fused projection is kept by the encoder class and split in three by the decoder class; the output matrix is the
token table and is never written (a second copy that differs would load untied, without a message).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from seqpair.errors import ExportError, HubFolderError, SeqpairError
from seqpair.recipe.objectives import Direction

WEIGHTS_NAME = "model.safetensors"
_SHOWN_NAMES = 6
_FUSED = "attention.wqkv.weight"
_SPLIT = ("attn.q_proj.weight", "attn.k_proj.weight", "attn.v_proj.weight")

_LAYER_NAMES = {
    "attention_norm.weight": "attn_norm.weight",
    "attention.wo.weight": "attn.Wo.weight",
    "mlp_norm.weight": "mlp_norm.weight",
    "mlp.wi.weight": "mlp.Wi.weight",
    "mlp.wo.weight": "mlp.Wo.weight",
}


def _name_map(layers: int, direction: Direction) -> dict[str, tuple[str, ...]]:
    """Return, for each of our parameters, the names it goes to; several names share its rows equally."""
    head = "head" if direction == "bidirectional" else "lm_head"
    fused = ("attn.Wqkv.weight",) if direction == "bidirectional" else _SPLIT
    names: dict[str, tuple[str, ...]] = {
        "backbone.embedding.weight": ("model.embeddings.tok_embeddings.weight",),
        "backbone.embedding_norm.weight": ("model.embeddings.norm.weight",),
        "backbone.final_norm.weight": ("model.final_norm.weight",),
        "head.dense.weight": (f"{head}.dense.weight",),
        "head.norm.weight": (f"{head}.norm.weight",),
        "output_bias": ("decoder.bias",),
    }
    for index in range(layers):
        for ours, theirs in _LAYER_NAMES.items():
            if index > 0 or ours != "attention_norm.weight":
                names[f"backbone.layers.{index}.{ours}"] = (f"model.layers.{index}.{theirs}",)
        names[f"backbone.layers.{index}.{_FUSED}"] = tuple(f"model.layers.{index}.{name}" for name in fused)
    return names


def _require_names(seen: set[str], wanted: set[str], fault: type[SeqpairError], fix: str) -> None:
    if seen != wanted:
        raise fault(
            "the weights do not have the parameters that the model's shape calls for",
            seen=f"missing {_few(wanted - seen)}, unknown {_few(seen - wanted)}",
            fix=fix,
        )


def _few(names: set[str]) -> str:
    """Return the first names as a list, and how many more there are."""
    shown = sorted(names)[:_SHOWN_NAMES]
    return f"{shown}" + (f" and {len(names) - len(shown)} more" if len(names) > len(shown) else "")


def to_hub(state: Mapping[str, Tensor], layers: int, direction: Direction) -> dict[str, Tensor]:
    """Return the tensors of a Hugging Face file for our model's parameters, in fp32 on the CPU.

    Args:
        state: Our parameters by name, as `LanguageModel.state_dict()` gives them.
        layers: How many layers the model has.
        direction: `bidirectional` for ModernBertForMaskedLM, `causal` for ModernBertDecoderForCausalLM.

    Raises:
        ExportError: A parameter is missing or unknown.
    """
    names = _name_map(layers, direction)
    fix = "use a checkpoint whose manifest belongs to its weights"
    _require_names(set(state), set(names), ExportError, fix)
    tensors: dict[str, Tensor] = {}
    for ours, theirs in names.items():
        values = state[ours].detach().to(device="cpu", dtype=torch.float32)
        parts = [values] if len(theirs) == 1 else [part.clone() for part in values.chunk(len(theirs), dim=0)]
        tensors.update(zip(theirs, parts, strict=True))
    return tensors


def from_hub(
    tensors: Mapping[str, Tensor], layers: int, direction: Direction, *, has_head: bool = True
) -> dict[str, Tensor]:
    """Return our model's parameters for the tensors of a Hugging Face file; the inverse of `to_hub`.

    A `decoder.weight` that equals the token table is accepted and dropped. Tensors that need no joining are
    those given, not copies.

    Args:
        tensors: The file's tensors by name.
        layers: How many layers the model has.
        direction: The attention direction of its class.
        has_head: Whether its head is a language model's. Without one only the backbone is taken.

    Raises:
        HubFolderError: A parameter is missing or unknown, or the output matrix is not the token table.
    """
    table = tensors.get("model.embeddings.tok_embeddings.weight")
    output = tensors.get("decoder.weight")
    if output is not None and (table is None or not torch.equal(output, table)):
        raise HubFolderError(
            "the model's output matrix is not its token table",
            seen="a decoder.weight that differs from tok_embeddings.weight",
            allowed="tied weights only",
            fix="use a model with tie_word_embeddings",
        )
    names = _name_map(layers, direction)
    if not has_head:
        names = {ours: theirs for ours, theirs in names.items() if ours.startswith("backbone.")}
        tensors = _backbone_of(tensors)
    wanted = {name for theirs in names.values() for name in theirs}
    fix = "use a folder whose config.json belongs to its weights"
    _require_names(set(tensors) - {"decoder.weight"}, wanted, HubFolderError, fix)
    return {
        ours: tensors[theirs[0]] if len(theirs) == 1 else torch.cat([tensors[name] for name in theirs])
        for ours, theirs in names.items()
    }


def _backbone_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the backbone's tensors under the names that they have below a head; a bare model's lack the prefix."""
    if not any(name.startswith("model.") for name in tensors):
        return {f"model.{name}": values for name, values in tensors.items()}
    return {name: values for name, values in tensors.items() if name.startswith("model.")}
