"""Finding the function for a docstring, for every model that can embed a text.

An item is a held-out function: its docstring's first paragraph is the query, the code of all held-out
functions (docstrings removed) are the candidates, and the value is the reciprocal of the true
function's rank by cosine of the embeddings. No training for it. A tie takes the mean rank.

Docstrings and code share words, so even an untrained model is far above chance: the baseline is a bag of
tokens, each token's count times its unigram bits, under the same cosine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seqpair.counter import hash_words, key_words
from seqpair.evaluate.results import ItemOutcome
from seqpair.evaluate.tasks.task import BOTH, TaskInputs, TaskOutcome, TaskSkippedError, TaskSpec
from seqpair.files import hash64
from seqpair.models.embed import embed_texts
from seqpair.models.text_model import TextModel

NAME, VERSION = "docstring_retrieval", 1
MOST_ITEMS = 200
LEAST_ITEMS = 10


def ranks_of(queries: NDArray[np.float32], candidates: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the rank, from 1, of candidate i for query i by cosine.

    Args:
        queries: (n, D) vectors.
        candidates: (n, D) vectors in the same order.

    Returns:
        (n,) ranks; candidates that tie share their mean rank.
    """
    unit = [
        vectors.astype(np.float64) / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
        for vectors in (queries, candidates)
    ]
    cosine = unit[0] @ unit[1].T  # (n, n)
    own = np.diagonal(cosine)[:, None]
    above = (cosine > own).sum(axis=1)
    ties = (cosine == own).sum(axis=1)
    return 1.0 + above + (ties - 1) / 2.0


def bags_of_tokens(texts: Sequence[str], inputs: TaskInputs) -> NDArray[np.float32]:
    """Return (n, entries) vectors: how often each token occurs in a text, times its unigram bits."""
    bits = inputs.unigram.bits
    contents = inputs.prepared.tokenizer.encode(texts)
    return np.stack([np.bincount(content, minlength=len(bits)) * bits for content in contents]).astype(np.float32)


def run(model: TextModel, inputs: TaskInputs) -> TaskOutcome:
    """Measure a model of either direction.

    Raises:
        TaskSkippedError: The study has no `python` source, or it holds out too few functions.
    """
    if len(inputs.functions) < LEAST_ITEMS:
        raise TaskSkippedError(
            "the docstring task needs held-out functions of a python source",
            seen=f"{len(inputs.functions)} functions",
            allowed=f"at least {LEAST_ITEMS}",
            fix="add a source of kind python, or hold out more of it",
        )
    key = key_words("evaluate", NAME, VERSION)
    by_hash = sorted(
        inputs.functions, key=lambda function: (hash_words(key, hash64(function.id) & 0xFFFFFFFF), function.id)
    )
    functions = by_hash[:MOST_ITEMS]
    docstrings, codes = [function.docstring for function in functions], [function.code for function in functions]
    embedded = [embed_texts(model, texts, "mean-text") for texts in (docstrings, codes)]
    ranks = ranks_of(embedded[0].vectors, embedded[1].vectors)
    simple = ranks_of(bags_of_tokens(docstrings, inputs), bags_of_tokens(codes, inputs))
    items = [
        ItemOutcome(id=function.id, value=1.0 / float(rank), detail={"rank": float(rank)})
        for function, rank in zip(functions, ranks, strict=True)
    ]
    n = len(items)
    return TaskOutcome(
        items=items,
        settings={"most_items": MOST_ITEMS, "pooling": "mean over the text's own tokens", "similarity": "cosine"},
        chance=math.fsum(1.0 / rank for rank in range(1, n + 1)) / n,
        baselines={"bag_of_tokens": float((1.0 / simple).mean())},
        figures={"accuracy_at_1": float((ranks == 1.0).mean()), "accuracy_at_1_chance": 1.0 / n},
        truncated=sum(one.truncated for one in embedded),
    )


SPEC = TaskSpec(
    name=NAME,
    version=VERSION,
    title="Function for a docstring",
    metric="mean_reciprocal_rank",
    unit="mean reciprocal rank",
    higher_is_better=True,
    directions=BOTH,
    run=run,
)
