"""ONNX files of an export, traced from its proven folder by torch and compared with the trained model in onnxruntime.

One trace gives both files: `model.onnx` ends at the last hidden states, for embeddings, and `model_lm.onnx` at the
logits. A decoder's files have no cache, since transformers has no graph of it that is known to be right.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seqpair.errors import ExportError, needs_extra
from seqpair.hub.native import NativeModel
from seqpair.hub.verify import TOLERANCE, load_hub_model, padded

ONNX_FOLDER = "onnx"
GRAPHS = {"model": "last_hidden_state", "model_lm": "logits"}
"""Each file's name, and the one output that it has."""

_INPUTS = ("input_ids", "attention_mask")
_MOST_BYTES = (1 << 31) - (1 << 20)


def require_onnx() -> tuple[ModuleType, ModuleType]:
    """Return the modules `onnx` and `onnxruntime`.

    Raises:
        ExportError: One of them, or onnxscript, is not installed.
    """
    with needs_extra("the format onnx", "onnx", ExportError):
        importlib.import_module("onnxscript")  # torch's exporter needs it, and would say so only after the tracing
        return importlib.import_module("onnx"), importlib.import_module("onnxruntime")


class _Traced(nn.Module):
    """A model of one of the two classes as a function from ids and mask to states and logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        model: Any = self.model
        causal = hasattr(model, "lm_head")
        states = model.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            # Counted from each row's first token, so that padding on the left changes nothing, not even the rounding.
            position_ids=(attention_mask.cumsum(-1) - 1).clamp(min=0),
            **({"use_cache": False} if causal else {}),
        ).last_hidden_state
        return states, model.decoder((model.lm_head if causal else model.head)(states))


def write_onnx(folder: Path, native: NativeModel, about: dict[str, str]) -> list[Path]:
    """Write `onnx/model.onnx` and `onnx/model_lm.onnx` of an export.

    Args:
        folder: The proven folder.
        native: The model; its window fixes how long the traced row is.
        about: What the files say of themselves.

    Raises:
        ExportError: The model is too large for a single file, or a library is missing.
    """
    onnx, _ = require_onnx()
    size = 4 * sum(values.numel() for values in native.model.parameters())
    if size > _MOST_BYTES:
        raise ExportError(
            "the model is too large for an ONNX file",
            seen=f"{size:,} bytes of weights",
            allowed=f"at most {_MOST_BYTES:,} bytes in one file",
            fix="leave out the format onnx",
        )
    model, _ = load_hub_model(folder, native.direction, "sdpa")
    traced = _trace(_Traced(model).eval(), 2 * native.model.backbone.plan.window_tokens + 8)
    for node in traced.graph.node:
        del node.metadata_props[:]  # where in the Python code it came from: as large as a small model
    for key, value in about.items():
        traced.metadata_props.add(key=key, value=value)
    (folder / ONNX_FOLDER).mkdir()
    extractor, written = onnx.utils.Extractor(traced), []
    for name, output in GRAPHS.items():
        part = extractor.extract_model(list(_INPUTS), [output])
        part.metadata_props.extend(traced.metadata_props)
        written.append(folder / ONNX_FOLDER / f"{name}.onnx")
        onnx.save(part, written[-1])
    return written


def _trace(model: nn.Module, tokens: int) -> Any:
    """Return the model as a graph whose batch and length are free, from a batch longer than the window."""
    ids, mask = torch.ones((2, tokens), dtype=torch.int64), torch.ones((2, tokens), dtype=torch.int64)
    mask[1, tokens - 3 :] = 0
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it names every optional library that it does not find
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (ids, mask),
                dynamo=True,
                verbose=False,
                input_names=list(_INPUTS),
                output_names=list(GRAPHS.values()),
                dynamic_shapes=dict.fromkeys(_INPUTS, free),
            )
    finally:
        logger.setLevel(level)
    assert program is not None
    return program.model_proto


def onnx_function(path: Path) -> Callable[[Tensor, Tensor], Tensor]:
    """Return what a file computes in onnxruntime, from ids and mask (B, T) to its output (B, T, D or V)."""
    _, runtime = require_onnx()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(ids: Tensor, mask: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0])

    return run


@torch.no_grad()
def prove_onnx(folder: Path, native: NativeModel, batches: Sequence[Sequence[np.ndarray]], pad_id: int) -> float:
    """Compare both files with the model and return the largest difference of a state or a logit.

    Args:
        folder: The export.
        native: The model.
        batches: Rows of ids with specials; each batch is padded on the right and on the left.
        pad_id: What they are padded with.

    Raises:
        ExportError: A file computes something else.
    """
    worst = 0.0
    for name in GRAPHS:
        run = onnx_function(folder / ONNX_FOLDER / f"{name}.onnx")
        for rows in batches:
            states = native.states(rows, [np.arange(len(row)) for row in rows])  # (N, D)
            wanted = states if name == "model" else native.head(states)
            for side in ("right", "left"):
                ids, mask = padded(rows, pad_id, side)
                found = run(ids, mask)[mask.bool()]  # (N, D or V): row by row, as the native rows are packed
                difference = float((found - wanted).abs().max())
                # Not `max`, which lets a value that is no number pass.
                worst = difference if not difference <= worst else worst
    if not worst <= TOLERANCE:
        raise ExportError(
            "the ONNX files do not compute what the trained model computes; nothing was written",
            seen=f"max |difference| {worst:.3g}",
            allowed=f"at most {TOLERANCE:g}",
            fix="report this with the plan and the versions of torch, transformers and onnxruntime",
        )
    return worst


def quantise_onnx(folder: Path) -> list[Path]:
    """Write each ONNX file of an export with int8 weights, beside it as `..._int8.onnx`."""
    _, runtime = require_onnx()
    tools = importlib.import_module("onnxruntime.quantization")
    prepare = importlib.import_module("onnxruntime.quantization.shape_inference").quant_pre_process
    written = []
    for name in GRAPHS:
        path = folder / ONNX_FOLDER / f"{name}.onnx"
        written.append(path.with_name(f"{name}_int8.onnx"))
        with tempfile.TemporaryDirectory() as aside:
            prepared = Path(aside) / path.name
            # Only shapes are inferred: its optimiser would fold the tied table into a second copy.
            prepare(path, prepared, skip_optimization=True, skip_symbolic_shape=True)
            tools.quantize_dynamic(prepared, written[-1], weight_type=runtime.quantization.QuantType.QInt8)
    return written
