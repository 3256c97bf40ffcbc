"""Targets: which output predicts which token, and what the model is given.

What is predicted is chosen before anything is built, by each rank for its sequences; the sums over the ranks give the
divisor of the step's loss.

| objective | output t predicts | at |
|---|---|---|
| clm | token t + 1 of its sequence | every t but the last of a sequence |
| prefix | token t + 1 | as clm, from the prefix's last token on |
| mlm, diffusion | token t | chosen t |
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
from seqpair.objectives.selection import MASKINGS, Part, TokenCounters, corrupted_ids, prefix_tokens
from seqpair.recipe.objectives import Direction, Objective

IntArray = npt.NDArray[np.int64]

_STEP_TOKENS = 16
"""Products in float8 need a multiple of it along the tokens, and others on a GPU like it."""
_STEP_OUTPUTS = 64
_NO_VOTES = np.empty(0, dtype=np.float32)
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
        votes: (M,) fp32, the weight of each one's loss; null if each has one vote.
    """

    ids: Tensor
    layout: Layout
    direction: Direction
    output_index: Tensor
    target_ids: Tensor
    filler_tokens: int = 0
    votes: Tensor | None = None

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> ModelInput:
        """Return this microbatch with all its tensors changed: pinned, or copied to a device."""
        return replace(
            self,
            ids=change(self.ids),
            layout=self.layout.map_tensors(change),
            output_index=change(self.output_index),
            target_ids=change(self.target_ids),
            votes=None if self.votes is None else change(self.votes),
        )


@dataclass(frozen=True)
class ChosenTokens:
    """Content tokens chosen for prediction.

    Attributes:
        index: (M,) uint32, each one's index in its sequence's content, sequence after sequence.
        shown: (M,) uint32, what the model is given in its place.
        votes: (M,) fp32, the weight of its loss; null if each has one vote.
        borders: (S + 1,) int64: those of the batch's sequence i are `index[borders[i]:borders[i + 1]]`.
    """

    index: npt.NDArray[np.uint32]
    shown: npt.NDArray[np.uint32]
    votes: npt.NDArray[np.float32] | None
    borders: IntArray


@dataclass(frozen=True)
class Chosen:
    """What a step's part, or a rank's share of it, predicts, however it is cut into microbatches.

    Attributes:
        count: Predicted tokens: the sum of M over the microbatches built of the part.
        divisor: Its share of what the summed loss is divided by: the count, or where tokens have weighted votes, how
            many content tokens could have been chosen. It depends on neither the model nor the layout.
        tokens: Which content tokens; None where every next token is predicted.
        prefixes: (S,) int64, for each sequence of the batch how many of its tokens, `[CLS]` included, are its prefix;
            None where there are none.
    """

    count: int
    divisor: int
    tokens: ChosenTokens | None
    prefixes: IntArray | None = None


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
        """Return what a part predicts and sees instead, and its share of what the loss is divided by.

        Args:
            part: The objective and its sequences; there may be none.
            batch: The step's sequences, or a rank's share of them.
            mask_frac: Share of content tokens to choose; null for an objective that does not take it.
        """
        objective = part.objective
        if not part.indices.size:
            return Chosen(0, 0, None)
        begin = batch.offsets[part.indices]
        lengths = batch.offsets[part.indices + 1] - begin
        if objective.predicts == "next":
            ends = batch.is_last_piece[part.indices] | objective.ends_every_piece
            count = int(lengths.sum() + ends.sum())  # [CLS] is no target; [SEP] is one where it stands
            if not objective.has_prefix:
                return Chosen(count, count, None)
            hidden = prefix_tokens(batch.positions[part.indices], lengths, self._seed, batch.phase)
            prefixes = np.ones(batch.positions.size, dtype=np.int64)
            prefixes[part.indices] += hidden
            count -= int(hidden.sum())
            return Chosen(count, count, None, prefixes)
        assert objective.masking is not None, "an objective that does not predict every next token chooses some"
        rule = MASKINGS[objective.masking]
        found: list[tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.float32]]] = []
        could_be_chosen = 0
        counts = np.zeros(batch.positions.size, dtype=np.int64)
        for some in chunks(borders_of(lengths)):
            indices = part.indices[some]
            everything = TokenCounters.of(batch.positions[indices], lengths[some])
            masking = rule(everything, self._seed, batch.phase, mask_frac)
            where = np.flatnonzero(masking.chosen)
            tokens = everything.take(where)
            ids = batch.content.take(begin[some][tokens.sequence] + tokens.index)
            is_regular = self._is_regular.take(ids)
            if not is_regular.all():
                where, tokens, ids = where[is_regular], tokens.take(is_regular), ids[is_regular]
            votes = _NO_VOTES
            if masking.votes is not None:
                votes = masking.votes[where]
                content = batch.content.take(begin[some][everything.sequence] + everything.index)
                could_be_chosen += int(np.count_nonzero(self._is_regular.take(content)))
            counts[indices] = np.bincount(tokens.sequence, minlength=indices.size)
            found.append((tokens.index, self._shown(objective, ids, tokens, batch.phase), votes))
        index, shown, votes = (np.concatenate(column) for column in zip(*found, strict=True))
        if not could_be_chosen:
            return Chosen(index.size, index.size, ChosenTokens(index, shown, None, borders_of(counts)))
        return Chosen(index.size, could_be_chosen, ChosenTokens(index, shown, votes, borders_of(counts)))

    def _shown(
        self, objective: Objective, ids: npt.NDArray[np.uint32], tokens: TokenCounters, phase: str
    ) -> npt.NDArray[np.uint32]:
        """Return what the model is given in place of chosen tokens."""
        mask = self._specials.mask
        if objective.shows == "mask":
            return np.full_like(ids, mask)
        shown: npt.NDArray[np.uint32] = corrupted_ids(ids, tokens, self._seed, phase, mask, self._regular_ids)
        return shown

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
            ends = np.cumsum(rows.lengths)
            has_next[ends - 1] = False
            prefixes = None if chosen.prefixes is None else chosen.prefixes[rows.indices]
            if prefixes is not None:  # a prefix's last token predicts what follows it, the others see what they would
                has_next[span_numbers(ends - rows.lengths, prefixes - 1)] = False
            outputs = np.flatnonzero(has_next)
            return self._place(ids, rows, objective, outputs, ids[1:][has_next[:-1]], device, prefixes=prefixes)
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
        votes = None if chosen.tokens.votes is None else chosen.tokens.votes.take(mine)
        return self._place(seen, rows, objective, outputs, targets, device, votes)

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
        votes: npt.NDArray[np.float32] | None = None,
        prefixes: IntArray | None = None,
    ) -> ModelInput:
        return ModelInput(
            ids=torch.from_numpy(ids).to(device),
            layout=Layout.from_lengths(rows.lengths, device, prefixes=prefixes),
            direction=objective.direction,
            output_index=torch.from_numpy(outputs).to(device),
            target_ids=torch.from_numpy(targets).to(device),
            votes=None if votes is None else torch.from_numpy(votes).to(device),
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
            mask_frac: Share of content tokens that is chosen; null for an objective that does not take it.
            microbatch_tokens: The budget of packing.
            seq_len: Tokens of the longest sequence, specials included.
        """
        tokens = _STEP_TOKENS * math.ceil(max(microbatch_tokens, seq_len) / _STEP_TOKENS)
        if not objective.takes_mask_frac:
            return cls(tokens, seq_len, tokens)  # a microbatch of few sequences may have nearly all tokens masked
        assert mask_frac is not None, "an objective that takes the mask rate has one in its plan"
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
    added = [*[shape.longest_tokens] * whole, *([rest] if rest else [])]
    prefixes = given.layout.prefixes and (*given.layout.prefixes, *[1] * len(added))
    return replace(
        given,
        ids=_extended(given.ids, shape.tokens, filler_id),
        layout=Layout.from_lengths(
            [*given.layout.lengths, *added], given.layout.device, shape.longest_tokens, prefixes=prefixes
        ),
        output_index=_extended(given.output_index, outputs, shape.tokens - 1),
        filler_tokens=given.filler_tokens + missing,
    )


def _extended(values: Tensor, count: int, value: int) -> Tensor:
    out = torch.full((count,), value, dtype=values.dtype, device=values.device)
    out[: values.shape[0]] = values
    return out
