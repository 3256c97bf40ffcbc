"""Targets: which output predicts which token, and what the model is given.

Owns the step from packed ids to a model's input for each objective. Must not know models beyond their
layout, nor ranks. `count` gives the divisor of a step's loss before anything is built. Entry points:
`TargetBuilder`, `ModelInput`.

| objective | output t predicts | at |
|---|---|---|
| clm | token t + 1 of its sequence | every t but the last of a sequence |
| mlm | token t | chosen t |
| mntp | token t + 1 | t + 1 chosen |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seqpair.data.batches import Batch, PackedRows
from seqpair.data.tokenizer import Tokenizer
from seqpair.nn.layout import Layout
from seqpair.objectives.corruption import TokenCounters, chosen_tokens, corrupted_ids
from seqpair.objectives.parts import Part
from seqpair.recipe.objectives import Direction, Objective

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ModelInput:
    """One microbatch, on the device.

    Attributes:
        ids: (N,) int64, what the model sees.
        layout: The sequences' boundaries.
        direction: The attention direction.
        output_index: (M,) int64, ascending: the outputs that predict something.
        target_ids: (M,) int64, what they predict.
    """

    ids: Tensor
    layout: Layout
    direction: Direction
    output_index: Tensor
    target_ids: Tensor


class TargetBuilder:
    """Builds inputs and targets; holds what it needs of the tokenizer.

    Args:
        tokenizer: The study's tokenizer.
        seed: The study's seed.
    """

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        """Take the special ids and the ids that random replacement draws from."""
        self._seed = seed
        self._specials = tokenizer.specials
        self._regular_ids = np.asarray(tokenizer.regular_ids, dtype=np.int64)
        self._is_special = np.zeros(tokenizer.vocab_size, dtype=bool)
        self._is_special[tokenizer.special_ids] = True

    def count(self, part: Part, batch: Batch, mask_frac: float | None) -> int:
        """Return the predicted tokens of a step's part, over all ranks; the parts' sum is the loss's divisor.

        It is the sum of M over the microbatches that `build` makes of the step, however it is cut.

        Args:
            part: The objective and its sequences.
            batch: The step's sequences.
            mask_frac: Share of content tokens to choose; not used by `clm`.
        """
        objective, lengths = part.objective, np.diff(batch.offsets)
        if objective.predicts == "next":
            ends = batch.is_last_piece[part.indices] | objective.ends_every_piece
            return int(lengths[part.indices].sum() + ends.sum())  # [CLS] is no target; [SEP] is one where it stands
        mine = np.zeros(lengths.size, dtype=bool)
        mine[part.indices] = True
        counters = TokenCounters(np.repeat(batch.positions, lengths), _index_in_sequence(batch.offsets))
        chosen = self._choose(batch.content, counters, batch.phase, mask_frac)
        return int((chosen & np.repeat(mine, lengths)).sum())

    def build(
        self, objective: Objective, phase: str, rows: PackedRows, mask_frac: float | None, device: torch.device | str
    ) -> ModelInput:
        """Return the model's input for packed rows.

        Args:
            objective: The step's objective.
            phase: The phase's name: part of the corruption's key.
            rows: Packed ids with specials, and each sequence's length and training position.
            mask_frac: Share of content tokens to choose; not used by `clm`.
            device: Where the tensors go.
        """
        starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(rows.lengths, dtype=np.int64)])
        ids = np.asarray(rows.ids, dtype=np.int64)
        if objective.predicts == "next":
            outputs = np.delete(np.arange(ids.size), starts[1:] - 1)
            return self._place(ids, rows, objective, outputs, ids[outputs + 1], device)
        index = np.maximum(_index_in_sequence(starts) - 1, 0)  # [CLS] comes before the content
        counters = TokenCounters(np.repeat(rows.positions, rows.lengths), index)
        where = np.flatnonzero(self._choose(ids, counters, phase, mask_frac))
        targets = ids[where]
        seen = ids.copy()
        seen[where] = corrupted_ids(
            targets, counters.take(where), self._seed, phase, self._specials.mask, self._regular_ids
        )
        outputs = where if objective.predicts == "masked" else where - 1
        return self._place(seen, rows, objective, outputs, targets, device)

    def dummy(self, objective: Objective, device: torch.device | str) -> ModelInput:
        """Return a sequence of one `[CLS]` without targets, for a rank that has run out of microbatches."""
        nothing = torch.empty(0, dtype=torch.int64, device=device)
        return ModelInput(
            ids=torch.tensor([self._specials.cls], device=device),
            layout=Layout.from_lengths([1], device),
            direction=objective.direction,
            output_index=nothing,
            target_ids=nothing,
        )

    def _choose(
        self, ids: IntArray, counters: TokenCounters, phase: str, mask_frac: float | None
    ) -> npt.NDArray[np.bool_]:
        assert mask_frac is not None, "an objective that corrupts has a mask rate in its plan"
        chosen: npt.NDArray[np.bool_] = chosen_tokens(counters, self._seed, phase, mask_frac)
        return chosen & ~self._is_special[ids]

    @staticmethod
    def _place(
        ids: IntArray,
        rows: PackedRows,
        objective: Objective,
        outputs: IntArray,
        targets: IntArray,
        device: torch.device | str,
    ) -> ModelInput:
        return ModelInput(
            ids=torch.from_numpy(ids).to(device),
            layout=Layout.from_lengths(rows.lengths.tolist(), device),
            direction=objective.direction,
            output_index=torch.from_numpy(outputs).to(device),
            target_ids=torch.from_numpy(targets).to(device),
        )


def _index_in_sequence(starts: IntArray) -> IntArray:
    """Return (T,) int64: each token's index in its own sequence, for boundaries (S+1,)."""
    index: IntArray = np.arange(starts[-1]) - np.repeat(starts[:-1], np.diff(starts))
    return index
