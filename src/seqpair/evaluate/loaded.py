"""An exported model, loaded as any user would, with the two things evaluation needs of it.

Owns loading through transformers' classes, batching by token budget, and the head at chosen positions
only. Must not know tasks. Entry point: `LoadedModel.open`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqpair.errors import EvaluationError
from seqpair.hub.config import HUB_CLASSES
from seqpair.hub.export import read_export_record
from seqpair.hub.library import require_transformers
from seqpair.recipe.objectives import Direction

Ids = NDArray[np.int64]

BATCH_TOKENS = 8192


def length_batches(lengths: Sequence[int], budget_tokens: int) -> list[list[int]]:
    """Cut rows into batches of similar length, longest first.

    Args:
        lengths: Tokens of each row.
        budget_tokens: Most places of a padded batch, rows x longest; one longer row goes alone.

    Returns:
        Batches of row indices; every index exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    batches: list[list[int]] = []
    for index in order:
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= budget_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


class LoadedModel:
    """A Hugging Face model of one of the two classes, and the facts of its export.

    Args:
        model: The model, in fp32 and evaluation mode.
        tokenizer: Its fast tokenizer.
        direction: `bidirectional` or `causal`.
        predicts: `masked`, `masked_next` or `next`: where the logits of a token stand.
        model_digest: The digest of the weights.
        batch_tokens: Most places of a padded batch.
        folder: The export it was loaded from, if it was.

    Attributes:
        max_tokens: The longest row, specials included.
        cls_id, sep_id, mask_id, pad_id: The special ids.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        direction: Direction,
        predicts: str,
        model_digest: str,
        *,
        batch_tokens: int = BATCH_TOKENS,
        folder: Path | None = None,
    ) -> None:
        """Take the parts; use `open` for an exported folder."""
        self.model, self.tokenizer = model, tokenizer
        self.direction, self.predicts, self.model_digest = direction, predicts, model_digest
        self.batch_tokens, self.folder = batch_tokens, folder
        self.max_tokens = int(model.config.max_position_embeddings)
        self.cls_id, self.sep_id = int(tokenizer.cls_token_id), int(tokenizer.sep_token_id)
        self.mask_id, self.pad_id = int(tokenizer.mask_token_id), int(tokenizer.pad_token_id)

    @classmethod
    def open(cls, folder: Path, *, batch_tokens: int = BATCH_TOKENS) -> LoadedModel:
        """Load an export of ours.

        Raises:
            ExportError: The folder is no export of ours.
            EvaluationError: transformers is missing, or the class is not one of the two.
        """
        record = read_export_record(folder)
        transformers = require_transformers(EvaluationError, "evaluating an export")
        direction: Direction = record["direction"]
        if record["class"] != HUB_CLASSES[direction][0]:
            raise EvaluationError(
                "this class of model cannot be evaluated",
                seen=record["class"],
                allowed=", ".join(name for name, _ in HUB_CLASSES.values()),
                fix="export the checkpoint with this version",
            )
        auto = transformers.AutoModelForMaskedLM if direction == "bidirectional" else transformers.AutoModelForCausalLM
        model = auto.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return cls(
            model.eval(),
            tokenizer,
            direction,
            record["predicts"],
            record["model_digest"],
            batch_tokens=batch_tokens,
            folder=folder,
        )

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Return the content ids of texts, without specials and without truncation."""
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [np.asarray(ids, dtype=np.int64) for ids in encoded]

    def wrap(self, content: Ids) -> Ids:
        """Add the special tokens of this model's direction: `[CLS]`, and `[SEP]` for encoders."""
        ends = [self.sep_id] if self.direction == "bidirectional" else []
        return np.concatenate(([self.cls_id], content, ends)).astype(np.int64)

    @torch.no_grad()
    def states(self, rows: Sequence[Ids]) -> Iterator[tuple[list[int], Tensor]]:
        """Yield the last hidden states, batch by batch.

        Rows are padded on the right with an attention mask, whatever the tokenizer's side: positions
        then count from the row's start, and no real token sees padding.

        Args:
            rows: Token ids with specials.

        Yields:
            The rows' indices, and their states (B, T, D); states past a row's end mean nothing.
        """
        for batch in length_batches([len(row) for row in rows], self.batch_tokens):
            longest = len(rows[batch[0]])
            ids = torch.full((len(batch), longest), self.pad_id)
            mask = torch.zeros((len(batch), longest), dtype=torch.int64)
            for place, index in enumerate(batch):
                ids[place, : len(rows[index])] = torch.from_numpy(rows[index])
                mask[place, : len(rows[index])] = 1
            options = {"use_cache": False} if self.direction == "causal" else {}
            yield batch, self.model.model(input_ids=ids, attention_mask=mask, **options).last_hidden_state

    @torch.no_grad()
    def log_probabilities(self, states: Tensor) -> Tensor:
        """Return the log-probabilities (R, V), fp32, of gathered hidden states (R, D)."""
        head = self.model.head if self.direction == "bidirectional" else self.model.lm_head
        return torch.log_softmax(self.model.decoder(head(states)).float(), dim=-1)
