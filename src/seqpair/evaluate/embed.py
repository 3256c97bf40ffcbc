"""Texts to vectors, packed without padding, longest first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqpair.errors import EvaluationError
from seqpair.evaluate.loaded import Ids
from seqpair.hub.opened import OpenedModel
from seqpair.nn.layout import Layout

POOLINGS: dict[str, str] = {
    "mean": "the mean over the text's own tokens, as the evaluation does; [CLS] for a text without tokens",
    "mean-all": "the mean over all tokens, [CLS] and [SEP] too, as sentence-transformers does on an export",
    "cls": "the first token, [CLS]; a decoder's sees nothing of the text",
    "last": "the last token: [SEP] of an encoder, the text's last token of a decoder",
}
BATCH_TOKENS = 8192


def require_pooling(name: str) -> None:
    """Check that there is a pooling of this name.

    Raises:
        EvaluationError: There is none.
    """
    if name not in POOLINGS:
        raise EvaluationError("there is no pooling of this name", seen=repr(name), allowed=", ".join(POOLINGS))


def token_batches(lengths: Sequence[int], budget_tokens: int) -> list[list[int]]:
    """Cut rows into packed batches of at most so many tokens, longest first; one longer row goes alone.

    Args:
        lengths: Tokens of each row.
        budget_tokens: Most tokens of a batch.

    Returns:
        Batches of row indices; every index exactly once.
    """
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if lengths[index] > room or not batches:
            batches.append([])
            room = budget_tokens
        batches[-1].append(index)
        room -= lengths[index]
    return batches


@torch.inference_mode()
def embed_texts(
    model: OpenedModel,
    texts: Sequence[str],
    pooling: str = "mean",
    *,
    normalise: bool = False,
    batch_tokens: int = BATCH_TOKENS,
    watch: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Return a vector for each text; it depends neither on the other texts nor on the batches.

    A text longer than the model was trained on is cut on the right.

    Args:
        model: An encoder or a decoder, read in the direction it was trained in.
        texts: The texts; an empty one has its specials.
        pooling: A name in `POOLINGS`.
        normalise: Scale every vector to length 1.
        batch_tokens: Most tokens computed at once.
        watch: Called after every batch with how many tokens are done.

    Returns:
        (n, D) float32, in the texts' order.

    Raises:
        EvaluationError: There is no such pooling.
    """
    require_pooling(pooling)
    specials = model.tokenizer.specials
    ends = [specials.sep] if model.native.direction == "bidirectional" else []
    room = model.max_tokens - 1 - len(ends)
    rows = [np.array([specials.cls, *ids[:room], *ends], dtype=np.int64) for ids in model.tokenizer.encode(texts)]
    vectors = np.empty((len(rows), model.native.model.backbone.plan.shape.width), dtype=np.float32)
    done = 0
    for batch in token_batches([len(row) for row in rows], batch_tokens):
        pooled = _pool(model, [rows[index] for index in batch], pooling, len(ends))
        if normalise:
            pooled = torch.nn.functional.normalize(pooled, dim=-1)
        vectors[batch] = pooled.float().cpu().numpy()
        done += sum(len(rows[index]) for index in batch)
        if watch is not None:
            watch(done)
    return vectors


def _pool(model: OpenedModel, rows: Sequence[Ids], pooling: str, ends: int) -> Tensor:
    """Return (S, D) fp64 vectors of packed rows; where one token is pooled, the last MLP runs only there."""
    native = model.native
    device = native.model.output_weight.device
    layout = Layout.from_lengths([len(row) for row in rows], device)
    ids = torch.from_numpy(np.concatenate(rows)).to(device)
    backbone = native.model.backbone
    if pooling in ("cls", "last"):
        wanted = layout.starts[:-1] if pooling == "cls" else layout.starts[1:] - 1
        one: Tensor = backbone(ids, layout, native.direction, native.rope, wanted)
        return one.double()
    states: Tensor = backbone(ids, layout, native.direction, native.rope)
    lengths = torch.tensor(layout.lengths, device=device)
    kept = torch.ones(len(ids), dtype=torch.bool, device=device)
    if pooling == "mean":
        own = lengths - 1 - ends
        kept = (layout.positions > 0) & (layout.positions <= own[layout.sequence_ids])
        kept[layout.starts[:-1][own == 0]] = True
    owners = layout.sequence_ids[kept]
    sums = torch.zeros(len(rows), states.shape[1], dtype=torch.float64, device=device)
    sums.index_add_(0, owners, states[kept].double())
    return sums / torch.bincount(owners, minlength=len(rows))[:, None]
