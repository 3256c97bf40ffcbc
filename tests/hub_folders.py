"""Folders of the two Hugging Face classes with random weights, as transformers writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from seqpair.data.tokenizer.tokenizer import Tokenizer
from seqpair.hub.export import write_tokenizer
from seqpair.recipe.objectives import OBJECTIVES

LAYERS, WIDTH, INNER, HEADS = 4, 32, 48, 2


def write_hub_folder(
    folder: Path, kind: str, tokenizer: Tokenizer, *, config: dict[str, Any] | None = None, **saving: Any
) -> Path:
    """Write a folder of a class such as `ModernBertForMaskedLM`, with weights wide enough that a wrong window shows.

    Args:
        folder: Where.
        kind: The name of the class.
        tokenizer: Its tokenizer.
        config: Keys of the configuration besides shape and special ids.
        saving: Options of `save_pretrained`; `dtype` converts the weights first.
    """
    import transformers

    causal, ids = "Decoder" in kind, tokenizer.specials
    values = {
        **{"vocab_size": tokenizer.vocab_size, "hidden_size": WIDTH, "intermediate_size": INNER},
        **{"num_hidden_layers": LAYERS, "num_attention_heads": HEADS},
        **{"bos_token_id": ids.cls, "cls_token_id": ids.cls, "eos_token_id": ids.sep, "sep_token_id": ids.sep},
        **{"pad_token_id": ids.pad, **(config or {})},
    }
    make = transformers.ModernBertDecoderConfig if causal else transformers.ModernBertConfig
    torch.manual_seed(5)
    model = getattr(transformers, kind)(make(**values))
    with torch.no_grad():
        for values in model.parameters():
            values.add_(torch.randn(values.shape) * (0.2 if values.ndim == 2 else 0.1))
    model.to(saving.pop("dtype", torch.float32)).save_pretrained(folder, **saving)
    write_tokenizer(folder, tokenizer, OBJECTIVES["clm" if causal else "mlm"], 512)
    return folder


def change_config(folder: Path, **values: Any) -> Path:
    """Change keys of a folder's configuration; a value of None removes the key."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | values
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}), encoding="utf-8")
    return folder
