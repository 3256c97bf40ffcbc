"""Texts to vectors: the pooled last hidden states of a model of either direction."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqpair.errors import EvaluationError
from seqpair.files import read_json
from seqpair.models.forward import Ids
from seqpair.models.text_model import TextModel

POOLINGS: dict[str, str] = {
    "default": "what the folder states for sentence-transformers; else `mean` of an encoder, `last` of a decoder",
    "mean": "the mean over all tokens, [CLS] and [SEP] too, as sentence-transformers and fine-tuned heads take it",
    "mean-text": "the mean over the text's own tokens, the same for both directions; [CLS] for a text without tokens",
    "cls": "the first token, [CLS]; a decoder's sees nothing of the text",
    "last": "the last token: [SEP] of an encoder, the text's last token of a decoder",
}
EMBED_BATCH_TOKENS = 8192
_MODULES = "modules.json"
_STATED = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
"""The poolings of sentence-transformers that we have, under its names and ours."""


class StatedPooling(NamedTuple):
    """What a folder's sentence-transformers modules say.

    Attributes:
        pooling: A name in `POOLINGS`.
        normalise: Whether vectors are scaled to length 1.
        prompt: What is put in front of every text.
        max_tokens: The longest row; None is what the model reads.
    """

    pooling: str
    normalise: bool = False
    prompt: str = ""
    max_tokens: int | None = None


class Embedded(NamedTuple):
    """Vectors (n, D) float32 in the texts' order, and how many texts were longer than the model reads, and cut."""

    vectors: NDArray[np.float32]
    truncated: int


def require_pooling(name: str, more: Sequence[str] = ()) -> None:
    """Check that there is a pooling of this name.

    Args:
        name: The name.
        more: Names that are allowed too.

    Raises:
        EvaluationError: There is none.
    """
    if name not in (*more, *POOLINGS):
        raise EvaluationError(
            "there is no pooling of this name", seen=repr(name), allowed=", ".join((*more, *POOLINGS))
        )


def embed_texts(
    model: TextModel,
    texts: Sequence[str],
    pooling: str = "default",
    *,
    normalise: bool = False,
    batch_tokens: int | None = None,
    watch: Callable[[int], None] | None = None,
) -> Embedded:
    """Return a vector for each text; it depends neither on the other texts nor on the batches.

    A text longer than the model reads is cut on the right.

    Args:
        model: An encoder or a decoder, read in the direction it was trained in.
        texts: The texts; an empty one has its specials.
        pooling: A name in `POOLINGS`.
        normalise: Scale every vector to length 1.
        batch_tokens: Most tokens computed at once; by default as the model was opened.
        watch: Called after every batch with how many tokens are done.

    Raises:
        EvaluationError: There is no such pooling, or the folder states one that is not among ours.
    """
    stated = stated_pooling(model) if pooling == "default" else StatedPooling(pooling)
    texts, normalise = [stated.prompt + text for text in texts], normalise or stated.normalise
    rows, places, truncated = _rows_of(model, texts, stated.pooling, stated.max_tokens)
    vectors = np.empty((len(rows), model.width), dtype=np.float32)
    done = 0
    for batch, states in model.states_at(rows, places, batch_tokens):
        pooled = _pooled(states, [len(places[index]) for index in batch])
        if normalise:
            pooled = torch.nn.functional.normalize(pooled, dim=-1)
        vectors[batch] = pooled.float().cpu().numpy()
        done += sum(len(rows[index]) for index in batch)
        if watch is not None:
            watch(done)
    return Embedded(vectors, truncated)


def nearest_texts(
    model: TextModel, texts: Sequence[str], queries: Sequence[str], top: int, pooling: str = "default"
) -> list[list[tuple[int, float]]]:
    """Return for each query the nearest texts, nearest first: their indices and the cosines of the vectors.

    Args:
        model: An encoder or a decoder.
        texts: The texts that are searched.
        queries: The queries.
        top: How many texts to return for a query, if there are as many.
        pooling: A name in `POOLINGS`, the same for both.

    Raises:
        EvaluationError: There is no such pooling.
    """
    vectors = embed_texts(model, texts, pooling, normalise=True).vectors
    found = []
    for query in embed_texts(model, queries, pooling, normalise=True).vectors:
        cosines = vectors @ query  # (n,)
        best = np.argsort(-cosines, kind="stable")[:top]  # stable, so that equal texts stay in the file's order
        found.append([(int(index), float(cosines[index])) for index in best])
    return found


def embed_layers(
    model: TextModel, texts: Sequence[str], pooling: str = "mean-text", watch: Callable[[int], None] | None = None
) -> Embedded:
    """Return a vector for each text from the embedding and from each layer, (L + 1, n, D), pooled alike.

    Args:
        model: An encoder or a decoder, read in the direction it was trained in.
        texts: The texts; an empty one has its specials, one longer than the model reads is cut on the right.
        pooling: A name in `POOLINGS`.
        watch: Called after every batch with how many texts are done.

    Raises:
        EvaluationError: There is no such pooling.
    """
    rows, places, truncated = _rows_of(model, texts, stated_pooling(model).pooling if pooling == "default" else pooling)
    vectors, done = np.empty((0, len(rows), model.width), dtype=np.float32), 0
    for batch, states in model.layer_states_at(rows, places):
        if not len(vectors):  # how many layers there are is known when the first batch has passed through them
            vectors = np.empty((len(states), len(rows), states.shape[-1]), dtype=np.float32)
        counts = [len(places[index]) for index in batch]
        for layer, own in enumerate(states):
            vectors[layer, batch] = _pooled(own, counts).float().cpu().numpy()
        done += len(batch)
        if watch is not None:
            watch(done)
    return Embedded(vectors, truncated)


def stated_pooling(model: TextModel) -> StatedPooling:
    """Return what a model's folder states for sentence-transformers; without modules its direction decides.

    Raises:
        EvaluationError: The modules do something that is not done here.
    """
    usual = StatedPooling("mean" if model.direction == "bidirectional" else "last")
    folder = model.folder
    if folder is None or not (folder / _MODULES).is_file():
        return usual
    modules = _modules(folder / _MODULES)
    kinds = [kind for kind, _ in modules]
    pooling = _settings(folder / modules[1][1] / "config.json") if kinds[1:2] == ["Pooling"] else {}
    # Since version 6 the modes are a name or a list of names, before one switch for each.
    named = pooling.get("pooling_mode", [])
    modes = [named] if isinstance(named, str) else list(named)
    modes += [key.removeprefix("pooling_mode_").removesuffix("_tokens") for key, on in pooling.items() if on is True]
    modes = [mode.replace("cls_token", "cls") for mode in modes if mode != "include_prompt"]
    settings = _settings(folder / "config_sentence_transformers.json")
    lengths = _settings(folder / "sentence_bert_config.json")
    done_here = kinds in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
    whole = pooling.get("include_prompt", True) and not lengths.get("do_lower_case")
    if not (done_here and whole and len(modes) == 1 and modes[0] in _STATED):
        raise EvaluationError(
            f"the sentence-transformers modules of {model.name} do something that is not done here",
            seen=f"{', '.join(kinds)}; pooling {' and '.join(modes) or 'none'}; {lengths}",
            allowed=f"Transformer, Pooling by one of {', '.join(_STATED)}, and Normalize",
            fix="name a pooling, such as `--pooling mean`, or embed with sentence-transformers",
        )
    prompt = (settings.get("prompts") or {}).get(settings.get("default_prompt_name") or "", "")
    return StatedPooling(_STATED[modes[0]], "Normalize" in kinds, prompt, lengths.get("max_seq_length"))


def _settings(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file; nothing where there is none."""
    return read_json(path, EvaluationError, "save the model again", missing_ok=True)


def _modules(path: Path) -> list[tuple[str, str]]:
    """Return the class and the folder of each module."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return [(str(entry["type"]).rsplit(".", 1)[-1], str(entry["path"])) for entry in found]
    except (ValueError, TypeError, KeyError) as error:
        raise EvaluationError(
            f"{path} does not list modules",
            seen=f"{type(error).__name__}: {error}",
            allowed="a JSON list of objects with `type` and `path`",
            fix="save the model again",
        ) from error


def _rows_of(
    model: TextModel, texts: Sequence[str], pooling: str, max_tokens: int | None = None
) -> tuple[list[Ids], list[Ids], int]:
    """Return the texts' rows, the places of each that are pooled, and how many texts were cut."""
    require_pooling(pooling)
    room = min(model.max_tokens, max_tokens or model.max_tokens) - 1 - len(model.ends())
    whole = model.encode(texts)
    contents = [ids[:room] for ids in whole]
    rows = [model.wrap(content) for content in contents]
    places = []
    for row, content in zip(rows, contents, strict=True):
        begin = len(model.begin(len(content)))
        own = (begin, begin + len(content)) if len(content) else (0, 1)
        spans = {"mean": (0, len(row)), "mean-text": own, "cls": (0, 1), "last": (len(row) - 1, len(row))}
        places.append(np.arange(*spans[pooling]))
    return rows, places, sum(len(ids) > room for ids in whole)


def _pooled(states: Tensor, counts: Sequence[int]) -> Tensor:
    """Return the mean of each text's states, (B, D), fp64."""
    sizes = torch.tensor(counts, device=states.device)
    # In fp64, so that a mean over thousands of tokens does not depend on the order of its terms.
    sums = torch.zeros(len(counts), states.shape[-1], dtype=torch.float64, device=states.device)
    sums.index_add_(0, torch.arange(len(counts), device=states.device).repeat_interleave(sizes), states.double())
    return sums / sizes[:, None]
