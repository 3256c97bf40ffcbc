"""A model's plan as the values of a Hugging Face `config.json`; `folder_config` is the way back.

The values are written by us, not by `save_pretrained`, because transformers 5 drops the keys that transformers 4 and
other readers need.

The window. Our plan counts the keys on each visible side, the token itself extra: `window_tokens` w
means keys i - w .. i + w for bidirectional and i - w .. i for causal layers. The two classes count
differently (measured with transformers 5.23 and 4.57, docs/export.md):

    encoder: |i - j| <= local_attention // 2          so local_attention = 2 w
    decoder: i - local_attention // 2 < j <= i        so local_attention = 2 (w + 1)

The predicted token. A bidirectional model that predicts a masked token one position before it (`mntp`) is
of the same class as one that predicts it in place, and nothing in Hugging Face's keys tells them apart:
`seqpair_predicts: masked_next` does, and its absence means what the class implies.

Source: transformers 5.23, configuration_modernbert.py and configuration_modernbert_decoder.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from seqpair.data.tokenizer.tokenizer import SpecialIds
from seqpair.errors import ExportError
from seqpair.recipe.objectives import Direction
from seqpair.recipe.plan import ModelPlan

Predicts = Literal["next", "masked", "masked_next"]

CONFIG_NAME = "config.json"

HUB_CLASSES: dict[str, tuple[str, str]] = {
    "bidirectional": ("ModernBertForMaskedLM", "modernbert"),
    "causal": ("ModernBertDecoderForCausalLM", "modernbert-decoder"),
}
"""For each attention direction, the class that computes it and its `model_type`."""

PREDICTS_KEY = "seqpair_predicts"
"""The key of `config.json` that says where predictions stand, written where the class does not imply it."""


@dataclass(frozen=True)
class ModelFacts:
    """What a configuration says of a trained model.

    Attributes:
        model: Its plan.
        direction: The attention direction that it was last trained in.
        seq_len: The longest sequence it was trained on, specials included.
        rope_global_theta, rope_local_theta: The RoPE bases of its last phase.
        specials: Its special ids.
        predicts: Which output predicts which token, as in the objectives table.
    """

    model: ModelPlan
    direction: Direction
    seq_len: int
    rope_global_theta: float
    rope_local_theta: float
    specials: SpecialIds
    predicts: Predicts


def local_attention(window_tokens: int, direction: Direction) -> int:
    """Return the `local_attention` whose class sees exactly `window_tokens` keys on each visible side.

    Raises:
        ExportError: The window is below one token; the classes' slices misread that.
    """
    if window_tokens < 1:
        raise ExportError(
            "the local window cannot be expressed in a Hugging Face configuration",
            seen=f"window_tokens {window_tokens}",
            allowed="1 or more",
            fix="train with a larger window",
        )
    return 2 * window_tokens if direction == "bidirectional" else 2 * (window_tokens + 1)


def layer_types(layers: int, global_every: int) -> list[str]:
    """Return each layer's attention type; layer i is global when i is a multiple of `global_every`."""
    return ["sliding_attention" if index % global_every else "full_attention" for index in range(layers)]


def hub_config(facts: ModelFacts, transformers_version: str) -> dict[str, Any]:
    """Return the whole `config.json`, with the keys of transformers 5 and the legacy ones.

    Legacy keys (`global_attn_every_n_layers`, `global_rope_theta`, `local_rope_theta`) are ignored by
    transformers 5 and needed by transformers 4 and by converters that read the file themselves.
    """
    shape = facts.model.shape
    hub_class, model_type = HUB_CLASSES[facts.direction]
    config: dict[str, Any] = {
        "architectures": [hub_class],
        "model_type": model_type,
        "vocab_size": facts.model.vocab_size,
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "hidden_activation": "gelu",
        "max_position_embeddings": facts.seq_len,
        "initializer_range": facts.model.init_std,
        "initializer_cutoff_factor": 2.0,
        "norm_eps": facts.model.norm_eps,
        "norm_bias": False,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "mlp_bias": False,
        "mlp_dropout": 0.0,
        "decoder_bias": True,
        "classifier_activation": "gelu",
        "classifier_bias": False,
        "classifier_dropout": 0.0,
        "tie_word_embeddings": True,
        "local_attention": local_attention(facts.model.window_tokens, facts.direction),
        "layer_types": layer_types(shape.layers, facts.model.global_every),
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": facts.rope_global_theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": facts.rope_local_theta},
        },
        "global_attn_every_n_layers": facts.model.global_every,
        "global_rope_theta": facts.rope_global_theta,
        "local_rope_theta": facts.rope_local_theta,
        "bos_token_id": facts.specials.cls,
        "cls_token_id": facts.specials.cls,
        "eos_token_id": facts.specials.sep,
        "sep_token_id": facts.specials.sep,
        "pad_token_id": facts.specials.pad,
        "dtype": "float32",
        "transformers_version": transformers_version,
    }
    if facts.predicts == "masked_next":
        config[PREDICTS_KEY] = facts.predicts
    if facts.direction == "causal" and facts.rope_global_theta != facts.rope_local_theta:
        config["seqpair_needs"] = "transformers 5 or newer: version 4 has one RoPE base for all layers of a decoder"
    if facts.direction == "bidirectional":
        config["classifier_pooling"] = "cls"
    else:
        config["use_cache"] = True
    return config


def generation_config(specials: SpecialIds, transformers_version: str) -> dict[str, Any]:
    """Return `generation_config.json` of a decoder: `[SEP]` ends a text. The length stays the caller's choice."""
    return {
        "bos_token_id": specials.cls,
        "eos_token_id": specials.sep,
        "pad_token_id": specials.pad,
        "transformers_version": transformers_version,
    }
