"""Targets: which output predicts which token, and what the model is given.

What is predicted is chosen once for a step, over all ranks, which gives the divisor of its loss before anything is
built.

| objective | output t predicts | at |
|---|---|---|
| clm | token t + 1 of its sequence | every t but the last of a sequence |
| mlm | token t | chosen t |
| mntp | token t + 1 | t + 1 chosen |
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seqpair.data.order.batches import Batch, PackedRows, borders_of, chunks, span_numbers
from seqpair.data.tokenizer.tokenizer import Tokenizer
from seqpair.nn.layout import Layout
from seqpair.objectives.selection import Part, TokenCounters, chosen_tokens, corrupted_ids
from seqpair.recipe.objectives import Direction, Objective

IntArray = npt.NDArray[np.int64]

_STEP_TOKENS = 16
"""Products in float8 need a multiple of it along the tokens, and others on a GPU like it."""
_STEP_OUTPUTS = 64
_DEVIATIONS = 6.0
"""A microbatch of random masks has more outputs than this many standard deviations above the mean once in 1e9."""


@dataclass(frozen=True)
class ModelInput:
    """One microbatch, on the device.

    Attributes:
        ids: (N,) int64, what the model sees.
        layout: The sequences' boundaries.
        direction: The attention direction.
        output_index: (M,) int64, ascending: the outputs that predict something.
        target_ids: (M,) int64, what they predict.
        filler_tokens: Tokens among N that belong to no sequence of the batch.
    """

    ids: Tensor
    layout: Layout
    direction: Direction
    output_index: Tensor
    target_ids: Tensor
    filler_tokens: int = 0

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> ModelInput:
        """Return this microbatch with all its tensors changed: pinned, or copied to a device."""
        return replace(
            self,
            ids=change(self.ids),
            layout=self.layout.map_tensors(change),
            output_index=change(self.output_index),
            target_ids=change(self.target_ids),
        )


@dataclass(frozen=True)
class ChosenTokens:
    """Content tokens chosen for prediction.

    Attributes:
        index: (M,) uint32, each one's index in its sequence's content, sequence after sequence.
        shown: (M,) uint32, what the model is given in its place.
        borders: (S + 1,) int64: those of the batch's sequence i are `index[borders[i]:borders[i + 1]]`.
    """

    index: npt.NDArray[np.uint32]
    shown: npt.NDArray[np.uint32]
    borders: IntArray


@dataclass(frozen=True)
class Chosen:
    """What a step's part predicts, however it is cut into microbatches.

    Attributes:
        count: Predicted tokens over all ranks: the sum of M over the microbatches built of the part.
        tokens: Which content tokens; None where every next token is predicted.
    """

    count: int
    tokens: ChosenTokens | None


class TargetBuilder:
    """Builds inputs and targets; holds what it needs of the tokenizer.

    Args:
        tokenizer: The study's tokenizer.
        seed: The study's seed.
    """

    def __init__(self, tokenizer: Tokenizer, seed: int) -> None:
        self._seed = seed
        self._specials = tokenizer.specials
        self._regular_ids = np.asarray(tokenizer.regular_ids, dtype=np.int64)
        self._is_regular = np.ones(tokenizer.vocab_size, dtype=bool)
        self._is_regular[tokenizer.special_ids] = False

    def choose(self, part: Part, batch: Batch, mask_frac: float | None) -> Chosen:
        """Return what a step's part predicts and sees instead, over all ranks; the counts sum to the loss's divisor.

        Args:
            part: The objective and its sequences.
            batch: The step's sequences.
            mask_frac: Share of content tokens to choose; not used by `clm`.
        """
        objective = part.objective
        begin = batch.offsets[part.indices]
        lengths = batch.offsets[part.indices + 1] - begin
        if objective.predicts == "next":
            ends = batch.is_last_piece[part.indices] | objective.ends_every_piece
            return Chosen(int(lengths.sum() + ends.sum()), None)  # [CLS] is no target; [SEP] is one where it stands
        assert mask_frac is not None, "an objective that corrupts has a mask rate in its plan"
        found: list[tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]] = []
        counts = np.zeros(batch.positions.size, dtype=np.int64)
        for some in chunks(borders_of(lengths)):
            indices = part.indices[some]
            tokens = TokenCounters.of(batch.positions[indices], lengths[some])
            tokens = tokens.take(np.flatnonzero(chosen_tokens(tokens, self._seed, batch.phase, mask_frac)))
            ids = batch.content.take(begin[some][tokens.sequence] + tokens.index)
            is_regular = self._is_regular.take(ids)
            if not is_regular.all():
                tokens, ids = tokens.take(is_regular), ids[is_regular]
            shown = corrupted_ids(ids, tokens, self._seed, batch.phase, self._specials.mask, self._regular_ids)
            counts[indices] = np.bincount(tokens.sequence, minlength=indices.size)
            found.append((tokens.index, shown))
        index, shown = (np.concatenate(column) for column in zip(*found, strict=True))
        return Chosen(index.size, ChosenTokens(index, shown, borders_of(counts)))

    def build(self, objective: Objective, rows: PackedRows, chosen: Chosen, device: torch.device | str) -> ModelInput:
        """Return the model's input for packed rows.

        Args:
            objective: The step's objective.
            rows: Packed ids with specials, and each sequence's length and training position.
            chosen: What the rows' part predicts, by `choose`.
            device: Where the tensors go.
        """
        ids = np.asarray(rows.ids, dtype=np.int64)
        if chosen.tokens is None:
            has_next = np.ones(ids.size, dtype=bool)
            has_next[np.cumsum(rows.lengths) - 1] = False
            outputs = np.flatnonzero(has_next)
            return self._place(ids, rows, objective, outputs, ids[1:][has_next[:-1]], device)
        first = chosen.tokens.borders[rows.indices]
        counts = chosen.tokens.borders[rows.indices + 1] - first
        mine = span_numbers(first, counts)
        begin = np.cumsum(rows.lengths) - rows.lengths + 1  # [CLS] comes before the content
        where = np.repeat(begin, counts)
        where += chosen.tokens.index.take(mine)
        targets = ids.take(where)
        seen = ids.copy()
        seen[where] = chosen.tokens.shown.take(mine)
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
            filler_tokens=1,
        )

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
            layout=Layout.from_lengths(rows.lengths, device),
            direction=objective.direction,
            output_index=torch.from_numpy(outputs).to(device),
            target_ids=torch.from_numpy(targets).to(device),
        )


# --- microbatches of one shape, so that a compiled model is compiled once ---


@dataclass(frozen=True)
class FixedShape:
    """The shape of all microbatches of one objective in one phase.

    Attributes:
        tokens: N, a multiple of 16.
        longest_tokens: The longest sequence's bound, real or filled in.
        outputs: M, a multiple of 16; a microbatch that predicts more than this gets N instead.
    """

    tokens: int
    longest_tokens: int
    outputs: int

    @classmethod
    def of(cls, objective: Objective, mask_frac: float | None, microbatch_tokens: int, seq_len: int) -> FixedShape:
        """Return the shape that holds every microbatch packed to a budget, or one whole sequence if that is more.

        Args:
            objective: What is predicted.
            mask_frac: Share of content tokens that is chosen; not used where every next token is predicted.
            microbatch_tokens: The budget of packing.
            seq_len: Tokens of the longest sequence, specials included.
        """
        tokens = _STEP_TOKENS * math.ceil(max(microbatch_tokens, seq_len) / _STEP_TOKENS)
        if objective.predicts == "next":
            return cls(tokens, seq_len, tokens)
        assert mask_frac is not None, "an objective that corrupts has a mask rate in its plan"
        most = tokens * mask_frac + _DEVIATIONS * math.sqrt(tokens * mask_frac * (1.0 - mask_frac))
        return cls(tokens, seq_len, min(tokens, _STEP_OUTPUTS * math.ceil(most / _STEP_OUTPUTS)))


def fill(given: ModelInput, shape: FixedShape, filler_id: int) -> ModelInput:
    """Return a microbatch with N and M of the shape; `target_ids` stay as many as they are.

    Args:
        given: The microbatch, on the host.
        shape: What it becomes.
        filler_id: The id of the tokens that are filled in.

    Returns:
        The microbatch. Its layout has further sequences of at most `longest_tokens` filler tokens, and
        `output_index` further entries, all of the last token: the loss takes only as many as there are targets.
    """
    missing = shape.tokens - given.layout.total
    predicted = given.target_ids.shape[0]
    outputs = shape.outputs if predicted <= shape.outputs else shape.tokens
    assert missing >= 0, "a microbatch is packed to the shape's tokens"
    assert given.layout.max_length <= shape.longest_tokens, "no sequence is longer than the phase's"
    whole, rest = divmod(missing, shape.longest_tokens)
    lengths = [*given.layout.lengths, *[shape.longest_tokens] * whole, *([rest] if rest else [])]
    return replace(
        given,
        ids=_extended(given.ids, shape.tokens, filler_id),
        layout=Layout.from_lengths(lengths, given.layout.device, longest_tokens=shape.longest_tokens),
        output_index=_extended(given.output_index, outputs, shape.tokens - 1),
        filler_tokens=given.filler_tokens + missing,
    )


def _extended(values: Tensor, count: int, value: int) -> Tensor:
    out = torch.full((count,), value, dtype=values.dtype, device=values.device)
    out[: values.shape[0]] = values
    return out
