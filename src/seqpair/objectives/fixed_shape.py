"""Microbatches of one shape, so that a compiled model is compiled once.

Neither changes a real token's output or the loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from seqpair.nn.layout import Layout
from seqpair.objectives.targets import ModelInput
from seqpair.recipe.objectives import Objective

_STEP_TOKENS = 16
"""Products in float8 need a multiple of it along the tokens, and others on a GPU like it."""
_STEP_OUTPUTS = 64
_DEVIATIONS = 6.0
"""A microbatch of random masks has more outputs than this many standard deviations above the mean once in 1e9."""


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
