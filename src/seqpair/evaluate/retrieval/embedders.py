"""What turns texts into vectors: our own packed forward pass, sentence-transformers, or pooled hidden states.

A fine-tuned embedder is a folder for sentence-transformers, which `seqpair embed` also opens where the model is ours.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from safetensors.torch import load_file, save

from seqpair.errors import EvaluationError, needs_extra
from seqpair.files import read_json, replacing_folder, sha256_json, write_bytes, write_json
from seqpair.hub.library import require_transformers
from seqpair.hub.weights import WEIGHTS_NAME
from seqpair.models.embed import Embedded, embed_texts, require_pooling
from seqpair.models.open import open_model
from seqpair.models.text_model import TextModel, length_batches

MODULES_NAME = "modules.json"
AS_FOLDER = "folder"
EMBEDDER_RECORD = "seqpair_embedder.json"
TOLERANCE = 1e-4
CHUNK_TEXTS, CHUNK_CHARACTERS = 512, 500_000
_POOLING_MODES = {"mean": "mean", "last": "lasttoken", "cls": "cls"}
_OUR_POOLINGS = {"mean": "mean", "lasttoken": "last", "cls": "cls"}
_EXPORT_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
_PROBES = ("a short text", "def length(text):\n    return len(text)", "It rained all day, and the river rose. " * 8)


class Embedder(Protocol):
    """Texts to vectors.

    Attributes:
        method: How, in words; part of a result's settings.
        max_tokens: The longest text, specials included.
    """

    method: str
    max_tokens: int

    def embed(self, texts: Sequence[str]) -> Embedded:
        """Return the vectors, and how many texts were cut."""
        ...


class ModelEmbedder:
    """The pooled hidden states of a model.

    Args:
        model: The model.
        pooling: A name in `models.embed.POOLINGS`.
    """

    def __init__(self, model: TextModel, pooling: str) -> None:
        self.model, self.pooling = model, pooling
        self.method = f"{'hidden states' if model.native is None else 'native'}, {pooling} pooling"
        self.max_tokens = model.max_tokens

    def embed(self, texts: Sequence[str]) -> Embedded:
        """Return the vectors, and how many texts were cut."""
        return embed_texts(self.model, texts, self.pooling)


class SentenceEmbedder:
    """A model of sentence-transformers with its own modules.

    Args:
        model: The `SentenceTransformer`.
        batch_tokens: Most places of a padded batch.
    """

    def __init__(self, model: Any, batch_tokens: int) -> None:
        self.model, self.batch_tokens = model, batch_tokens
        self.max_tokens = int(model.max_seq_length or model.tokenizer.model_max_length)
        modules = ", ".join(type(module).__name__ for module in model)
        self.method = f"sentence-transformers: {modules}; {pooling_of(model)} pooling"

    def embed(self, texts: Sequence[str]) -> Embedded:
        """Return the vectors, and how many texts were cut."""
        encoded = self.model.tokenizer(list(texts), truncation=False, padding=False, verbose=False)["input_ids"]
        lengths = [min(len(ids), self.max_tokens) for ids in encoded]
        width = int(self.model.get_embedding_dimension())
        vectors = np.empty((len(texts), width), dtype=np.float32)
        for batch in length_batches(lengths, self.batch_tokens):
            given = [texts[index] for index in batch]
            vectors[batch] = self.model.encode(given, batch_size=len(given), show_progress_bar=False)
        return Embedded(vectors, sum(len(ids) > self.max_tokens for ids in encoded))


def pooling_of(model: Any) -> str:
    """Return the name of the pooling of a `SentenceTransformer`, or `no` without such a module."""
    for module in model:
        if type(module).__name__ == "Pooling":
            return str(module.pooling_mode)
    return "no"


def require_sentence_transformers() -> Any:
    """Return the module `sentence_transformers`, quiet.

    Raises:
        EvaluationError: It is not installed.
    """
    require_transformers(EvaluationError, "the retrieval suite")
    with needs_extra("the retrieval suite", "eval", EvaluationError):
        import sentence_transformers
    import transformers

    transformers.utils.logging.set_verbosity_error()
    return sentence_transformers


def open_sentence_model(folder: Path, device: str) -> Any:
    """Return the `SentenceTransformer` of a folder.

    Raises:
        EvaluationError: It cannot be loaded, or has no tokenizer.
    """
    library = require_sentence_transformers()
    try:
        model = library.SentenceTransformer(str(folder), device=device, local_files_only=True)
        tokenizer = model.tokenizer
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError, TypeError) as error:
        raise EvaluationError(
            "sentence-transformers cannot load this folder",
            seen=f"{folder}: {str(error).splitlines()[0]}",
            fix="save the model again",
        ) from error
    if tokenizer is None:
        raise EvaluationError("this folder has no tokenizer", seen=folder, fix="save the tokenizer beside the model")
    return model.eval()


def embedder_of(model: TextModel, pooling: str) -> Embedder:
    """Return what embeds with a model as it is.

    Args:
        model: Any model that was opened by its name.
        pooling: A name in `embed.POOLINGS`; `folder` is what the folder's own modules say, and the mean over the
            text's own tokens for a model without modules and for our exports, which were not trained to be pooled.

    Raises:
        EvaluationError: There is no such pooling, or the folder's modules cannot be loaded.
    """
    require_pooling(pooling, more=(AS_FOLDER,))
    folder = model.folder
    if pooling == AS_FOLDER and folder is not None and not model.is_ours and (folder / MODULES_NAME).is_file():
        return SentenceEmbedder(open_sentence_model(folder, model.device), model.batch_tokens)
    return ModelEmbedder(model, "mean-text" if pooling == AS_FOLDER else pooling)


def embed_by_chunks(
    embedder: Embedder, texts: Sequence[str], kept: Path | None, watch: Callable[[int], None]
) -> Embedded:
    """Return the vectors of texts, computed some at a time; a chunk in the folder `kept` is not computed again.

    Args:
        embedder: What computes them.
        texts: The texts.
        kept: Where chunks survive an interruption; `None` keeps none.
        watch: Called with how many texts are done.

    Raises:
        EvaluationError: A vector is not finite.
    """
    found, done = [], 0
    for chunk in _chunks(texts):
        name = sha256_json([embedder.method, embedder.max_tokens, chunk])[:24]
        path = None if kept is None else kept / f"vectors-{name}.npz"
        found.append(_chunk(embedder, chunk, path))
        done += len(chunk)
        watch(done)
    return Embedded(np.concatenate([one.vectors for one in found]), sum(one.truncated for one in found))


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    """Cut texts into runs that take about as long, long texts or short."""
    chunk: list[str] = []
    characters = 0
    for text in texts:
        if chunk and (len(chunk) == CHUNK_TEXTS or characters + len(text) > CHUNK_CHARACTERS):
            yield chunk
            chunk, characters = [], 0
        chunk.append(text)
        characters += len(text)
    if chunk:
        yield chunk


def _chunk(embedder: Embedder, texts: list[str], path: Path | None) -> Embedded:
    if path is not None and path.is_file():
        with np.load(path, allow_pickle=False) as stored:
            return Embedded(stored["vectors"], int(stored["truncated"]))
    found = embedder.embed(texts)
    if not np.isfinite(found.vectors).all():
        raise EvaluationError(
            "the model gives vectors that are not finite",
            seen=embedder.method,
            fix="train again with a lower rate, or check the model",
        )
    if path is not None:
        buffer = io.BytesIO()
        np.savez(buffer, vectors=found.vectors, truncated=np.int64(found.truncated))
        write_bytes(path, buffer.getvalue())
    return found


def open_for_tuning(model: TextModel, pooling: str) -> Any:
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
        raise EvaluationError(
            "only a model that was opened by its name can be fine-tuned", fix="open it with `open_model`"
        )
    if pooling == "default" and (model.folder / MODULES_NAME).is_file():
        return open_sentence_model(model.folder, model.device)
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    usual = "mean" if model.direction == "bidirectional" else "last"
    mode = _POOLING_MODES[usual if pooling == "default" else pooling]
    transformer = Transformer(str(model.folder), max_seq_length=min(model.max_tokens, 1_000_000))
    pooled = Pooling(model.width, mode)
    return library.SentenceTransformer(modules=[transformer, pooled], device=model.device)


def keep_embedder(trained: Any, model: TextModel, folder: Path, record: dict[str, Any]) -> None:
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
    kept = open_model(folder, device=str(trained.device))
    vectors = embed_texts(kept, _PROBES, _OUR_POOLINGS[pooling_of(trained)]).vectors
    wanted = trained.encode(list(_PROBES), show_progress_bar=False)
    difference = float(np.abs(vectors - wanted).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(wanted).max())):
        raise EvaluationError(
            "the kept embedder does not give the trained one's vectors", seen=difference, allowed=TOLERANCE
        )


def read_tuned_record(folder: Path) -> dict[str, Any] | None:
    """Return what was noted of a kept embedder; `None` if there is no whole one."""
    path = folder / EMBEDDER_RECORD
    if not path.is_file():
        return None
    return read_json(path, EvaluationError, "remove the folder; the next call trains the embedder again")


def open_kept(folder: Path, model: TextModel) -> Embedder:
    """Return what embeds with a kept embedder: our own forward pass where it can, else sentence-transformers.

    Args:
        folder: The embedder's folder.
        model: What it was trained from.
    """
    sentence = open_sentence_model(folder, model.device)
    if not model.is_ours:
        return SentenceEmbedder(sentence, model.batch_tokens)
    kept = open_model(folder, device=model.device, batch_tokens=model.batch_tokens)
    return ModelEmbedder(kept, _OUR_POOLINGS[pooling_of(sentence)])
