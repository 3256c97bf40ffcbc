"""GGUF files of an encoder's export, for llama.cpp: its backbone, which gives embeddings.

llama.cpp has no graph for the decoder class, and a tokenizer that it does not know would give other ids without a
message; both are refused. A file is read back and every tensor and value in it compared before it counts.

Source: llama.cpp, conversion of `ModernBertModel`, and the tables of the package `gguf`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from seqpair.data.tokenizer.tokenizer import Tokenizer
from seqpair.errors import ExportError, needs_extra
from seqpair.hub.config import ModelFacts, local_attention

GGUF_FOLDER = "gguf"
PRECISIONS: dict[str, torch.dtype] = {"f32": torch.float32, "f16": torch.float16}
_ARCHITECTURE = "modern-bert"
_PLAIN_STAGE = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}


def require_gguf() -> ModuleType:
    """Return the module `gguf`.

    Raises:
        ExportError: It is not installed.
    """
    with needs_extra("the format gguf", "gguf", ExportError):
        return importlib.import_module("gguf")


def require_gguf_holds(facts: ModelFacts, tokenizer: Tokenizer) -> None:
    """Check that llama.cpp computes such a model and cuts text as its tokenizer does.

    Raises:
        ExportError: It is a decoder, or its tokenizer is not plain byte-level BPE.
    """
    if facts.direction == "causal":
        raise ExportError(
            "a decoder cannot be written as GGUF: llama.cpp has no graph for its class",
            seen="a member last trained causally: ModernBertDecoderForCausalLM",
            allowed="an encoder",
            fix="serve a decoder with `transformers serve` (docs/serving.md)",
        )
    content = json.loads(tokenizer.backend.to_str())
    stage, model = content["pre_tokenizer"], content["model"]
    faults = {
        "normaliser": (content["normalizer"] or {}).get("type"),
        "pre-tokenizer": None if _PLAIN_STAGE.items() <= stage.items() else stage["type"],
        "ignore_merges": model.get("ignore_merges") or None,
        "byte_fallback": model.get("byte_fallback") or None,
    }
    found = [f"{name} {value}" for name, value in faults.items() if value is not None]
    if found:
        raise ExportError(
            "the tokenizer cannot be written as GGUF: llama.cpp would cut text into other tokens",
            seen=", ".join(found),
            allowed="byte-level BPE with GPT-2's pattern alone and no normaliser, as seqpair trains it",
            fix="leave out the format gguf",
        )


def write_gguf(
    folder: Path, facts: ModelFacts, tensors: Mapping[str, Tensor], tokenizer: Tokenizer, about: Mapping[str, str]
) -> list[Path]:
    """Write `gguf/model-f32.gguf` and `gguf/model-f16.gguf`, and read them back.

    Args:
        folder: The export.
        facts: The model's configuration.
        tensors: The tensors of its Hugging Face file, by name.
        tokenizer: Its tokenizer.
        about: What the files say of themselves.

    Raises:
        ExportError: What is read back is not what was given, or a weight is too large for f16.
    """
    library = require_gguf()
    names = library.get_tensor_name_map(library.MODEL_ARCH.MODERN_BERT, facts.model.shape.layers)
    # The head for masked tokens is left out: the class of llama.cpp gives pooled states.
    backbone = {
        names.get_name(name.removeprefix("model."), try_suffixes=(".weight",)): values
        for name, values in tensors.items()
        if name.startswith("model.")
    }
    values = {**_hyper_parameters(library, facts), **_vocabulary(library, tokenizer), **about}
    (folder / GGUF_FOLDER).mkdir()
    written = []
    for precision, dtype in PRECISIONS.items():
        path = folder / GGUF_FOLDER / f"model-{precision}.gguf"
        # One-dimensional tensors stay in f32, as llama.cpp's own converter leaves them.
        stored = {
            name: tensor.to(dtype if tensor.ndim > 1 else torch.float32).numpy() for name, tensor in backbone.items()
        }
        kind = library.LlamaFileType.ALL_F32 if precision == "f32" else library.LlamaFileType.MOSTLY_F16
        _write(library, path, values | {"general.file_type": int(kind)}, stored)
        _require_read_back(library, path, values, stored)
        written.append(path)
    return written


def _hyper_parameters(library: ModuleType, facts: ModelFacts) -> dict[str, Any]:
    shape = facts.model.shape
    own = {
        "context_length": facts.seq_len,
        "embedding_length": shape.width,
        "feed_forward_length": shape.inner,
        "block_count": shape.layers,
        "vocab_size": facts.model.vocab_size,
        "attention.head_count": shape.heads,
        "attention.layer_norm_epsilon": facts.model.norm_eps,
        "attention.causal": False,
        "attention.sliding_window": local_attention(facts.model.window_tokens, facts.direction),
        "attention.sliding_window_pattern": facts.model.global_every,
        "rope.freq_base": facts.rope_global_theta,
        "rope.freq_base_swa": facts.rope_local_theta,
        "rope.scaling.type": "none",
        "pooling_type": int(library.PoolingType.MEAN),
    }
    return {"general.architecture": _ARCHITECTURE} | {f"{_ARCHITECTURE}.{name}": value for name, value in own.items()}


def _vocabulary(library: ModuleType, tokenizer: Tokenizer) -> dict[str, Any]:
    content = json.loads(tokenizer.backend.to_str())
    kinds = library.TokenType
    # Rows that pad the table have no token, but a file needs a name for each.
    tokens = [(f"[UNUSED{index}]", kinds.UNUSED) for index in range(tokenizer.vocab_size)]
    for token, index in content["model"]["vocab"].items():
        tokens[index] = (token, kinds.NORMAL)
    for entry in content["added_tokens"]:
        tokens[entry["id"]] = (entry["content"], kinds.CONTROL if entry["special"] else kinds.USER_DEFINED)
    merges = content["model"]["merges"]
    specials = tokenizer.specials
    own = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": [token for token, _ in tokens],
        "token_type": [int(kind) for _, kind in tokens],
        "merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in merges],
        "bos_token_id": specials.cls,
        "eos_token_id": specials.sep,
        "unknown_token_id": specials.unk,
        "seperator_token_id": specials.sep,  # spelled like this in the format
        "padding_token_id": specials.pad,
        "mask_token_id": specials.mask,
        "add_bos_token": True,
        "add_eos_token": True,
        "add_sep_token": True,
    }
    return {f"tokenizer.ggml.{name}": value for name, value in own.items()}


def _write(library: ModuleType, path: Path, values: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    writer = library.GGUFWriter(path, _ARCHITECTURE)
    for name, value in values.items():
        if name == "general.architecture":
            continue  # the writer has it
        # A boolean is a number in Python, so it comes first.
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_array(name, value)
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _require_read_back(
    library: ModuleType, path: Path, values: Mapping[str, Any], tensors: Mapping[str, np.ndarray]
) -> None:
    """Compare a file with what was to be written: every value by name, every tensor bit for bit.

    Raises:
        ExportError: Something differs, or is not finite.
    """
    reader = library.GGUFReader(path)
    read = {tensor.name: tensor.data for tensor in reader.tensors}
    faults = sorted(set(read) ^ set(tensors))
    for name, wanted in tensors.items():
        seen = read.get(name)
        same = seen is not None and seen.dtype == wanted.dtype and np.array_equal(seen.reshape(wanted.shape), wanted)
        if not same or not np.isfinite(wanted).all():
            faults.append(name)
    for name, value in values.items():
        field = reader.get_field(name)
        given = np.float32(value).item() if isinstance(value, float) else value
        if field is None or field.contents() != given:
            faults.append(name)
    if faults:
        raise ExportError(
            f"{path.name} does not contain what was written to it; nothing was written",
            seen=f"{len(faults)} values or tensors differ: {', '.join(faults[:6])}",
            allowed="every value and every tensor as given, and finite",
            fix="report this with the version of the package gguf; without f16's range a model has no GGUF file",
        )
