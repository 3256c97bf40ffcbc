"""The one way to open a model; it believes no record.

An export whose files are the ones that it proved is computed by our own forward pass, without transformers. Any other
folder is loaded by transformers, and only if every tensor was found, none is left over and all are finite.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError

from seqpair.errors import EvaluationError, HubFolderError, UnsafeModelError
from seqpair.hub.config import HUB_CLASSES
from seqpair.hub.export import write_unproven
from seqpair.hub.folder_config import HEADLESS_CLASSES, read_folder_config
from seqpair.hub.import_folder import read_hub_folder, with_blank_head
from seqpair.hub.library import require_transformers
from seqpair.hub.native import NativeModel
from seqpair.hub.weights import from_hub
from seqpair.models.forward import backbone_of, find_head
from seqpair.models.place import ModelPlace, find_model
from seqpair.models.text_model import CPU_BATCH_TOKENS, DEVICE_BATCH_TOKENS, TextModel
from seqpair.nn.gpu_kernels import choose_flash
from seqpair.text import note

_PROOF_TOKENS = 8
"""Tokens beyond the window in the row on which our own forward pass is proven."""
_UNREADABLE = (SafetensorError, EOFError)  # weights that are cut off or damaged
_CLASS_NAMES = {name for name, _ in HUB_CLASSES.values()}
_NATIVE_NAMES = {*_CLASS_NAMES, *(names[0] for names in HEADLESS_CLASSES.values())}


def open_model(
    name: str | Path | ModelPlace,
    *,
    device: str = "auto",
    batch_tokens: int | None = None,
    as_class: str | None = None,
) -> TextModel:
    """Open an export, a checkpoint, a run's folder, a Hugging Face folder, or a name on the hub.

    Args:
        name: Any of these, or what `find_model` returned for it.
        device: Where the model computes: `cpu`, `cuda`, `cuda:1`, or `auto` for CUDA where it is there.
        batch_tokens: Most places of a batch; by default 2,048 on a CPU, else 16,384.
        as_class: For a checkpoint that was trained with `hybrid`: `mntp` (the default) or `clm`.

    Raises:
        EvaluationError: There is no such model, its files are not those that were exported, it cannot be loaded whole,
            or it is of a kind that cannot be used.
        CheckpointError: The checkpoint is damaged.
        ExportError: `as_class` is not what was trained, or was given for an export, which has one class.
    """
    place = name if isinstance(name, ModelPlace) else find_model(name, as_class)
    chosen = device_named(device)
    if batch_tokens is None:
        batch_tokens = CPU_BATCH_TOKENS if chosen == "cpu" else DEVICE_BATCH_TOKENS
    if place.as_class:
        # A checkpoint is read as the export that it would become, so that every use of a model has one form.
        folder = Path(tempfile.mkdtemp(prefix="seqpair-model-"))
        loader = _Loader(place, folder, chosen)
        weakref.finalize(loader, shutil.rmtree, folder, ignore_errors=True)
        write_unproven(place.folder, folder, place.as_class)
        return _open_ours(loader, batch_tokens)
    loader = _Loader(place, place.folder, chosen)
    return _open_ours(loader, batch_tokens) if place.is_proven else _open_any(loader, batch_tokens)


def device_named(name: str) -> str:
    """Return the device of a name; `auto` is CUDA where it is there, under torchrun this process's, else the CPU.

    Raises:
        EvaluationError: There is no such device here.
    """
    there = torch.cuda.is_available()
    if name == "auto":
        local_rank = os.environ.get("LOCAL_RANK")
        return "cpu" if not there else "cuda" if local_rank is None else f"cuda:{local_rank}"
    try:
        kind = torch.device(name).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda", "mps") or (kind == "cuda" and not there):
        raise EvaluationError("there is no such device here", seen=name, allowed="auto, cpu, cuda, cuda:1, ...")
    return name


@dataclass(frozen=True, eq=False)
class _Loader:
    """Loads what transformers makes of a model's folder."""

    place: ModelPlace
    folder: Path
    device: str

    def network(self) -> Any:
        place = self.place
        transformers = require_transformers(EvaluationError, "evaluating a model")
        options = {"attn_implementation": "sdpa"} if place.is_ours or place.as_class else {}
        try:
            network, info = getattr(transformers, place.auto_class).from_pretrained(
                self.folder,
                dtype=torch.float32,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
        except UnpicklingError as error:
            raise UnsafeModelError(
                f"the pickled weights of {place.name} contain more than tensors, or are damaged; nothing was run",
                seen=str(place.folder),
                allowed="weights as safetensors",
                fix="download the safetensors files, or convert the file where you trust it",
            ) from error
        except (*_UNREADABLE, OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise _cannot_load(place, str(error).splitlines()[0]) from error
        _require_whole(place, network, info)
        return network.eval().to(self.device)

    def tokenizer(self) -> Any:
        transformers = require_transformers(EvaluationError, "evaluating a model")
        try:
            return transformers.AutoTokenizer.from_pretrained(
                self.folder, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            raise _cannot_load(self.place, str(error).splitlines()[0]) from error


def _cannot_load(place: ModelPlace, seen: str) -> EvaluationError:
    return EvaluationError(
        f"transformers cannot load the model {place.name}",
        seen=seen,
        allowed="a folder that AutoModel and AutoTokenizer open",
    )


def _open_ours(loader: _Loader, batch_tokens: int) -> TextModel:
    """Open the files that an export has, by our own forward pass and tokenizer."""
    place = loader.place
    try:
        read = read_hub_folder(loader.folder)
    except UnsafeModelError:
        raise
    except HubFolderError as error:
        raise EvaluationError(
            f"the model {place.name} cannot be opened", seen=error, fix="save the model again, or put back a good copy"
        ) from error
    native = NativeModel(read.model_plan, read.model, read.direction, read.rope)
    native.model.to(loader.device)
    choose_flash(torch.device(loader.device))
    return TextModel(
        place.direction,
        place.predicts,
        place.model_digest,
        native=native,
        own_tokenizer=read.tokenizer,
        loader=loader,
        max_tokens=read.seq_len,
        place=place,
        folder=loader.folder,
        device=loader.device,
        batch_tokens=batch_tokens,
    )


def _open_any(loader: _Loader, batch_tokens: int) -> TextModel:
    """Open a folder by transformers; one of our two classes is computed by our forward pass if that gives the same."""
    place = loader.place
    network, tokenizer = loader.network(), loader.tokenizer()
    if place.is_ours and type(network).__name__ not in _CLASS_NAMES:
        raise EvaluationError(
            "this class of model cannot be evaluated",
            seen=type(network).__name__,
            allowed=", ".join(_CLASS_NAMES),
            fix="export the checkpoint with this version",
        )
    _require_fitting(place, network, tokenizer)
    native = _native_of(network, place) if type(network).__name__ in _NATIVE_NAMES else None
    return TextModel(
        place.direction,
        place.predicts,
        place.model_digest,
        network=network,
        tokenizer=tokenizer,
        native=native,
        head=find_head(network, place.direction) if place.has_head and native is None else None,
        place=place,
        folder=place.folder,
        device=loader.device,
        batch_tokens=batch_tokens,
        has_head=place.has_head,
    )


def _require_whole(place: ModelPlace, network: Any, info: dict[str, Any]) -> None:
    """Check that every tensor of the model was found, that none of the backbone is left over, and all are finite."""
    backbone = backbone_of(network, has_head=place.has_head)
    prefix = f"{getattr(network, 'base_model_prefix', '')}."

    def counts(name: str) -> bool:
        # A pooler and the heads of other tasks are no part of what is computed here; a layer that is left over is.
        own = name.removeprefix(prefix).split(".")[0]
        return own != "pooler" and getattr(backbone, own, None) is not None

    faults = {
        "missing": [name for name in info.get("missing_keys", ()) if "pooler" not in name],
        "left over": [name for name in info.get("unexpected_keys", ()) if place.is_ours or counts(name)],
        "of another shape": list(info.get("mismatched_keys", ())),
        "not finite": [name for name, values in network.named_parameters() if not bool(torch.isfinite(values).all())],
    }
    if any(faults.values()):
        raise EvaluationError(
            f"the weights of {place.name} are not whole",
            seen="; ".join(f"{kind}: {_few(names)}" for kind, names in faults.items() if names),
            allowed="a finite tensor for every part of the model",
            fix="export the model again, or download it again",
        )


def _few(names: Iterable[object]) -> str:
    shown = sorted(map(str, names))
    return ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")


def _require_fitting(place: ModelPlace, network: Any, tokenizer: Any) -> None:
    rows, largest = len(network.get_input_embeddings().weight), max(tokenizer.get_vocab().values(), default=-1)
    if largest >= rows:
        raise EvaluationError(
            f"the tokenizer of {place.name} has more entries than the model has rows",
            seen=f"id {largest}, {rows} rows",
            fix="use a folder whose files belong together",
        )


@torch.no_grad()
def _native_of(network: Any, place: ModelPlace) -> NativeModel | None:
    """Return our own form of a model of our two classes, proven on a row that is longer than the window."""
    try:
        config = read_folder_config(place.folder)
        plan = config.model_plan()
        state = from_hub(network.state_dict(), plan.shape.layers, config.direction, has_head=place.has_head)
        if not place.has_head:
            state = with_blank_head(state, plan)
        native = NativeModel(plan, state, config.direction, config.rope())
    except HubFolderError:
        return None  # something that our model cannot express: the class itself computes it
    tokens = min(plan.window_tokens + _PROOF_TOKENS, config.max_position_embeddings)
    row = np.arange(tokens, dtype=np.int64) * 7 % plan.vocab_size
    options = {"use_cache": False} if config.direction == "causal" else {}
    backbone = backbone_of(network, has_head=place.has_head)
    theirs = backbone(input_ids=torch.from_numpy(row)[None].to(network.device), **options).last_hidden_state[0]
    if torch.allclose(native.states([row], [np.arange(tokens)]), theirs, rtol=1e-3, atol=1e-3):
        return native
    note(f"{place.name}: our own forward differs from {type(network).__name__}, which is used instead and is slower")
    return None
