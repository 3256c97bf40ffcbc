"""What an export is made of, and the formats besides the Hugging Face folder: ONNX, int8, GGUF and bf16 weights.

Every format is made of the weights in the folder and compared with the model: exactly where it keeps fp32, and
otherwise measured, since a number of lower precision has no error that would be a fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from seqpair.checkpoint.manifest import CheckpointManifest
from seqpair.data.tokenizer.tokenizer import Tokenizer
from seqpair.errors import ExportError
from seqpair.hub.config import ModelFacts
from seqpair.hub.gguf import require_gguf, require_gguf_holds, write_gguf
from seqpair.hub.native import NativeModel
from seqpair.hub.onnx import onnx_function, prove_onnx, quantise_onnx, require_onnx, write_onnx
from seqpair.hub.verify import (
    batches,
    checked_row_tokens,
    load_hub_model,
    measure_deviation,
    rows_of_training,
)
from seqpair.nn.rope import RopeBases
from seqpair.recipe.objectives import Objective

Format = Literal["hf", "onnx", "onnx-int8", "gguf"]
Dtype = Literal["fp32", "bf16"]
DTYPES: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class ExportSource:
    """A checkpoint that is exported, and everything that fixes the files made of it.

    Attributes:
        manifest: The checkpoint's manifest.
        tensors: What the weights file gets, by Hugging Face's names, in the file's precision.
        tokenizer: The run's tokenizer.
        trained, objective: The objective that was trained last, and the one that it is exported for.
        facts: What the configuration says.
        dtype: The file's precision.
        state: The trained weights by our names, as the checkpoint has them.
    """

    manifest: CheckpointManifest
    tensors: dict[str, Tensor]
    tokenizer: Tokenizer
    trained: Objective
    objective: Objective
    facts: ModelFacts
    dtype: Dtype
    state: dict[str, Tensor]

    @property
    def row_tokens(self) -> int:
        """The longest row compared."""
        return checked_row_tokens(self.facts.seq_len, self.facts.model.window_tokens)

    def native(self, *, rounded: bool) -> NativeModel:
        """Return the trained model, or the one whose weights are rounded as the files' are."""
        rope = RopeBases(self.facts.rope_global_theta, self.facts.rope_local_theta)
        kind = DTYPES[self.dtype] if rounded else torch.float32
        state = {name: values.to(kind) for name, values in self.state.items()}
        return NativeModel(self.facts.model, state, self.objective.direction, rope)

    def about(self) -> dict[str, str]:
        """Return what a file of weights says of itself, so that it can be told from others without its folder."""
        manifest = self.manifest
        return {
            "study": manifest.study,
            "member": manifest.member,
            "checkpoint": manifest.name,
            "plan_digest": manifest.plan_digest,
        }


def require_formats(source: ExportSource, formats: Sequence[Format]) -> None:
    """Check that every format is known, has its library, and can hold the model.

    Raises:
        ExportError: One is not, has not, or cannot.
    """
    unknown = sorted(set(formats) - set(get_args(Format)))
    if unknown:
        raise ExportError("there is no such format", seen=", ".join(unknown), allowed=", ".join(get_args(Format)))
    if {"onnx", "onnx-int8"} & set(formats):
        require_onnx()
    if "gguf" in formats:
        require_gguf_holds(source.facts, source.tokenizer)
        require_gguf()


def add_formats(
    folder: Path, source: ExportSource, native: NativeModel, texts: Sequence[str], formats: Sequence[Format]
) -> dict[str, dict[str, Any]]:
    """Write the further formats, and return what was measured of each and of weights of lower precision."""
    tokenizer, objective, tokens = source.tokenizer, source.objective, source.row_tokens
    about = source.about() | {"predicts": objective.predicts}
    measured: dict[str, dict[str, Any]] = {}
    trained = native if source.dtype == "fp32" else source.native(rounded=False)
    if source.dtype != "fp32":
        model, _ = load_hub_model(folder, native.direction, "sdpa", dtype=DTYPES[source.dtype])
        found = measure_deviation(
            lambda ids, mask: model(input_ids=ids, attention_mask=mask).logits,
            *(trained, tokenizer, objective, texts, tokens),
        )
        measured[source.dtype] = found.as_json()
    if {"onnx", "onnx-int8"} & set(formats):
        written = write_onnx(folder, native, about)
        of_batches = batches(texts, tokens, native.vocab_size)
        rows = [rows_of_training(batch, tokenizer, objective.direction, tokens) for batch in of_batches]
        largest = prove_onnx(folder, native, rows, tokenizer.specials.pad)
        if "onnx" in formats:
            measured["onnx"] = {"max_abs_difference": largest}
        if "onnx-int8" in formats:
            _, logits = quantise_onnx(folder)
            deviation = measure_deviation(onnx_function(logits), trained, tokenizer, objective, texts, tokens)
            measured["onnx-int8"] = deviation.as_json()
        for path in written if "onnx" not in formats else ():
            path.unlink()
    if "gguf" in formats:
        exact = {name: values.float() for name, values in source.tensors.items()}
        write_gguf(folder, source.facts, exact, tokenizer, {f"seqpair.{key}": value for key, value in about.items()})
        measured["gguf"] = {"read_back": "every tensor bit for bit, every value by name"}
    return measured
