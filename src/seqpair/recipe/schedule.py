"""Schedules as pure functions of tokens: the learning-rate curve, the batch ramp, cadences.

Owns the formulas. Must not know plans, optimisers or trainers. Entry points: `LrCurve`, `lr_fraction`,
`ramp_stages`, `steps_at_cadence`.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict


class LrCurve(BaseModel):
    """A phase's learning-rate curve, stated by its two ends as fractions of the peak.

    Attributes:
        curve: `warmup_stable_decay` (linear warm-up from zero, plateau, linear decay), `one_minus_sqrt`
            or `constant`.
        start_frac: The fraction after the warm-up (or at the phase's start).
        end_frac: The fraction at the phase's end.
        warmup_tokens: Content tokens of the linear warm-up from zero to `start_frac`.
        decay_tokens: Content tokens of the final decay to `end_frac` (`warmup_stable_decay` only).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    curve: Literal["warmup_stable_decay", "one_minus_sqrt", "constant"]
    start_frac: float = 1.0
    end_frac: float = 1.0
    warmup_tokens: int = 0
    decay_tokens: int = 0


def lr_fraction(curve: LrCurve, tokens: float, total_tokens: float) -> float:
    """Return the learning rate at `tokens` of `total_tokens`, as a fraction of the peak.

    one_minus_sqrt: f(t) = end + (start - end) * (1 - sqrt(t / T)).

    Source: arXiv 2507.11412; facts of the published schedules in docs/recipe.md.
    Differs: the curve runs between two stated ends; nothing is multiplied into it from an earlier phase.
    """
    start, end = curve.start_frac, curve.end_frac
    if tokens < curve.warmup_tokens:
        return start * tokens / curve.warmup_tokens
    if curve.curve == "one_minus_sqrt":
        done = (tokens - curve.warmup_tokens) / max(total_tokens - curve.warmup_tokens, 1.0)
        return end + (start - end) * (1.0 - math.sqrt(min(1.0, done)))
    decay_from = total_tokens - curve.decay_tokens
    if curve.curve == "warmup_stable_decay" and curve.decay_tokens > 0 and tokens > decay_from:
        return start + (end - start) * min(1.0, (tokens - decay_from) / curve.decay_tokens)
    return start


def ramp_stages(
    first_sequences: int, final_sequences: int, ramp_positions: float, max_stages: int = 64
) -> list[tuple[int, int]]:
    """Return the batch ramp as (steps, sequences) stages; the last one, (0, final), is open-ended.

    The batch grows evenly from `first_sequences` to `final_sequences` while about `ramp_positions`
    sequences are read; each stage is a whole number of steps (at least one).
    """
    if ramp_positions <= 0 or first_sequences >= final_sequences:
        return [(0, final_sequences)]
    count = max(1, min(max_stages - 1, final_sequences - first_sequences))
    stages: list[tuple[int, int]] = []
    for index in range(count):
        sequences = first_sequences + (final_sequences - first_sequences) * index // count
        stages.append((max(1, round(ramp_positions / count / sequences)), sequences))
    return [*stages, (0, final_sequences)]


def steps_at_cadence(tokens_at: list[float], every_tokens: int) -> list[int]:
    """Return after how many steps a cadence of `every_tokens` falls due, the last step included.

    Args:
        tokens_at: Planned content tokens after 1, 2, ... steps.
        every_tokens: The cadence.
    """
    due: list[int] = []
    passed = 0
    for steps_done, tokens in enumerate(tokens_at, start=1):
        if int(tokens // every_tokens) > passed:
            passed = int(tokens // every_tokens)
            due.append(steps_done)
    if tokens_at and (not due or due[-1] != len(tokens_at)):
        due.append(len(tokens_at))
    return due
