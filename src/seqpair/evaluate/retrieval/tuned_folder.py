"""A fine-tuned embedder as a folder for sentence-transformers, and `seqpair embed` where it is of our classes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save

from seqpair.errors import EvaluationError
from seqpair.evaluate.loaded import LoadedModel
from seqpair.evaluate.retrieval.embedders import (
    MODULES_NAME,
    Embedder,
    NativeEmbedder,
    SentenceEmbedder,
    open_sentence_model,
    pooling_of,
    require_sentence_transformers,
)
from seqpair.files import replacing_folder, write_bytes, write_json
from seqpair.hub import opened
from seqpair.hub.export import WEIGHTS_NAME

EMBEDDER_RECORD = "seqpair_embedder.json"
TOLERANCE = 1e-4
_POOLING_MODES = {"mean": "mean", "last": "lasttoken", "cls": "cls"}
_OUR_POOLINGS = {"mean": "mean-all", "lasttoken": "last", "cls": "cls"}
_EXPORT_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
_PROBES = ("a short text", "def length(text):\n    return len(text)", "It rained all day, and the river rose. " * 8)


def open_for_tuning(model: LoadedModel, pooling: str) -> Any:
    """Return a fresh `SentenceTransformer` of a model.

    Args:
        model: The model.
        pooling: `mean`, `last` or `cls`; `default` takes the folder's own modules, and without some the mean for an
            encoder and the last token for a decoder.

    Raises:
        EvaluationError: It cannot be loaded.
    """
    library = require_sentence_transformers()
    if model.folder is None:
        raise EvaluationError("only a model that was opened by its name can be fine-tuned")
    if pooling == "default" and (model.folder / MODULES_NAME).is_file():
        return open_sentence_model(model.folder, model.device)
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    usual = "mean" if model.direction == "bidirectional" else "last"
    mode = _POOLING_MODES[usual if pooling == "default" else pooling]
    transformer = Transformer(str(model.folder), max_seq_length=min(model.max_tokens, 1_000_000))
    pooled = Pooling(int(model.model.config.hidden_size), mode)
    return library.SentenceTransformer(modules=[transformer, pooled], device=model.device)


def keep_tuned(trained: Any, model: LoadedModel, folder: Path, record: dict[str, Any]) -> None:
    """Write a trained embedder; an earlier one in the folder is replaced.

    Of our exports it keeps the export's form, with the trained weights in place of the old ones, so that our own
    forward pass opens it too; that it gives the same vectors is checked.

    Args:
        trained: The trained `SentenceTransformer`.
        model: What it was trained from.
        folder: Where to write.
        record: What to note of it.

    Raises:
        EvaluationError: Our forward pass does not give the trained model's vectors.
    """
    if folder.exists():
        shutil.rmtree(folder)
    with replacing_folder(folder) as place:
        trained.save(str(place), create_model_card=False)
        if model.is_ours and model.folder is not None:
            for name in _EXPORT_FILES:
                if (model.folder / name).is_file():
                    shutil.copyfile(model.folder / name, place / name)
            tensors = load_file(model.folder / WEIGHTS_NAME)
            for name, values in trained[0].auto_model.state_dict().items():
                tensors[f"model.{name}"] = values.detach().cpu().float().contiguous()
            write_bytes(place / WEIGHTS_NAME, save(tensors, metadata={"format": "pt"}))
            _require_same(trained, place)
        write_json(place / EMBEDDER_RECORD, record)


def _require_same(trained: Any, folder: Path) -> None:
    native = NativeEmbedder(opened.open_model(folder), _OUR_POOLINGS[pooling_of(trained)], 8192)
    wanted = trained.encode(list(_PROBES), show_progress_bar=False)
    difference = float(np.abs(native.embed(_PROBES) - wanted).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(wanted).max())):
        raise EvaluationError(
            "the kept embedder does not give the trained one's vectors", seen=difference, allowed=TOLERANCE
        )


def read_tuned_record(folder: Path) -> dict[str, Any] | None:
    """Return what was noted of a kept embedder; `None` if there is no whole one."""
    path = folder / EMBEDDER_RECORD
    if not path.is_file():
        return None
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return record


def open_tuned(folder: Path, model: LoadedModel) -> Embedder:
    """Return what embeds with a kept embedder: our own forward pass where it can, else sentence-transformers.

    Args:
        folder: The embedder's folder.
        model: What it was trained from.
    """
    sentence = open_sentence_model(folder, model.device)
    if not model.is_ours:
        return SentenceEmbedder(sentence, model.batch_tokens)
    read = opened.open_model(folder)
    read.native.model.to(model.device)
    return NativeEmbedder(read, _OUR_POOLINGS[pooling_of(sentence)], model.batch_tokens)
