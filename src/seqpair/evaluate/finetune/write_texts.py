"""Letting a tuned decoder write: greedy, until its end token."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch

from seqpair.evaluate.finetune.rows import RowMaker
from seqpair.evaluate.finetune.sets import LabelledSet
from seqpair.evaluate.greedy import generate_texts
from seqpair.evaluate.loaded import LoadedModel

MOST_NEW_TOKENS = 256
_MARGIN_TOKENS = 8


def write_texts(model: LoadedModel, tuned: Any, labelled: LabelledSet, part: Literal["dev", "reported"]) -> list[str]:
    """Return what a tuned model writes for each row of a part; at most a few tokens more than any training target."""
    longest = max(len(ids) for ids in model.encode([row.label for row in labelled.train]))
    limit = min(MOST_NEW_TOKENS, longest + _MARGIN_TOKENS, model.max_tokens // 2)
    writer = copy.copy(model)
    writer.model = tuned.eval()
    maker = RowMaker(model, model.max_tokens)
    with torch.no_grad():
        return generate_texts(writer, [maker.prompt(row) for row in getattr(labelled, part)], (), limit)
