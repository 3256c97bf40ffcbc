"""Schedules as pure functions of tokens: the learning-rate curve, the mask rate, the batch ramp, cadences."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from seqpair.recipe.sizes import Count

_Rate = Annotated[float, Field(gt=0, lt=1)]


class LrCurve(BaseModel):
    """A phase's learning-rate curve, stated as fractions of the peak.

    Attributes:
        curve: Shape of the curve. `warmup_stable_decay` is a linear warm-up, a plateau and a linear decay; `points`
            joins given values by straight lines.
        start_frac: Fraction of the peak after the warm-up, or at the phase's start.
        end_frac: Fraction of the peak at the phase's end.
        warmup_tokens: Content tokens of the linear warm-up from zero to `start_frac`.
        decay_tokens: Content tokens of the linear decay to `end_frac`, for `warmup_stable_decay`.
        values: Fractions of the peak, for `points`: the first at the phase's start, the last at its end.
        at_frac: Fractions of the phase at which the values between the first and the last are reached, for `points`;
            by default evenly spaced.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    curve: Literal["warmup_stable_decay", "one_minus_sqrt", "cosine", "constant", "points"]
    start_frac: float = Field(default=1.0, ge=0, le=1)
    end_frac: float = Field(default=1.0, ge=0, le=1)
    warmup_tokens: Count = 0
    decay_tokens: Count = 0
    values: tuple[Annotated[float, Field(ge=0, le=1)], ...] = ()
    at_frac: tuple[_Rate, ...] = ()

    @model_validator(mode="after")
    def _says_what_it_does(self) -> LrCurve:
        if self.curve != "warmup_stable_decay" and self.decay_tokens:
            raise ValueError("'decay_tokens' belongs to curve 'warmup_stable_decay' only")
        if (self.curve == "points") == (len(self.values) < 2) or (self.at_frac and not self.values):
            raise ValueError("'values' and 'at_frac' belong to curve 'points', which needs at least two values")
        if self.curve == "points" and (self.warmup_tokens or (self.start_frac, self.end_frac) != (1.0, 1.0)):
            raise ValueError(
                "curve 'points' is stated by 'values' alone, without a warm-up, 'start_frac' and 'end_frac'"
            )
        if self.at_frac and len(self.at_frac) != len(self.values) - 2:
            raise ValueError(f"'at_frac' needs one fraction for each value between: {len(self.values) - 2}")
        if list(self.at_frac) != sorted(set(self.at_frac)):
            raise ValueError(f"'at_frac' must be ascending, but it is {list(self.at_frac)}")
        falls = self.curve in ("one_minus_sqrt", "cosine") or self.decay_tokens > 0
        if not falls and self.end_frac != self.start_frac:
            raise ValueError("'end_frac' differs from 'start_frac' but nothing leads there: set 'decay_tokens'")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Plans made before there were points have no such keys, and their digests stay what they are.
        written: dict[str, Any] = plain(self)
        return {key: value for key, value in written.items() if value or key not in ("values", "at_frac")}

    def tokens_before_length_matters(self, total_tokens: float) -> float:
        """Return up to how many tokens a phase of `total_tokens` has the rates that a longer one has, too."""
        if self.curve == "points":
            return 0.0
        if self.curve in ("one_minus_sqrt", "cosine"):
            return float(self.warmup_tokens)
        return total_tokens - self.decay_tokens if self.decay_tokens else math.inf


def lr_fraction(curve: LrCurve, tokens: float, total_tokens: float) -> float:
    """Return the learning rate at `tokens` of `total_tokens`, as a fraction of the peak.

    one_minus_sqrt: f(t) = end + (start - end) * (1 - sqrt(t / T)).
    cosine: f(t) = end + (start - end) * (1 + cos(pi t / T)) / 2. For both, t and T are counted from the warm-up's end.

    Source: arXiv 2507.11412; facts of the published schedules in results/published.md. Cosine: arXiv 1608.03983,
    equation 5, without restarts.
    Differs: the curve runs between two stated ends; nothing is multiplied into it from an earlier phase.
    """
    start, end = curve.start_frac, curve.end_frac
    if tokens < curve.warmup_tokens:
        return start * tokens / curve.warmup_tokens
    if curve.curve == "points":
        return _between_points(curve, min(1.0, tokens / max(total_tokens, 1.0)))
    if curve.curve in ("one_minus_sqrt", "cosine"):
        done = min(1.0, (tokens - curve.warmup_tokens) / max(total_tokens - curve.warmup_tokens, 1.0))
        left_frac = 1.0 - math.sqrt(done) if curve.curve == "one_minus_sqrt" else (1.0 + math.cos(math.pi * done)) / 2
        return end + (start - end) * left_frac
    left = max(0.0, total_tokens - tokens)
    if left < curve.decay_tokens:
        return end + (start - end) * (left / curve.decay_tokens)
    return start


def _between_points(curve: LrCurve, done: float) -> float:
    count = len(curve.values) - 1
    places: tuple[float, ...] = (0.0, *(curve.at_frac or (index / count for index in range(1, count))), 1.0)
    after = max(1, bisect.bisect_left(places, done))
    first, last = float(curve.values[after - 1]), float(curve.values[after])
    return first + (last - first) * (done - places[after - 1]) / (places[after] - places[after - 1])


class MaskCurve(BaseModel):
    """A mask rate that changes over a phase.

    Attributes:
        curve: Shape of the curve: `linear` from `start` to `end`, or `steps` with one value after another.
        start: Mask rate at the phase's start, for `linear`.
        end: Mask rate at the phase's end, for `linear`.
        values: Mask rates, for `steps`.
        at_frac: Fractions of the phase at which the second and later values begin, for `steps`; by default all values
            have equal parts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    curve: Literal["linear", "steps"]
    start: _Rate | None = None
    end: _Rate | None = None
    values: tuple[_Rate, ...] = ()
    at_frac: tuple[_Rate, ...] = ()

    @model_validator(mode="after")
    def _says_what_it_does(self) -> MaskCurve:
        is_linear = self.curve == "linear"
        if is_linear != (self.start is not None) or is_linear != (self.end is not None):
            raise ValueError("'start' and 'end' belong to curve 'linear', which needs both")
        if is_linear == (len(self.values) >= 2) or (is_linear and (self.values or self.at_frac)):
            raise ValueError("'values' and 'at_frac' belong to curve 'steps', which needs at least two values")
        if self.at_frac and len(self.at_frac) != len(self.values) - 1:
            raise ValueError(f"'at_frac' needs one fraction for each value but the first: {len(self.values) - 1}")
        if list(self.at_frac) != sorted(set(self.at_frac)):
            raise ValueError(f"'at_frac' must be ascending, but it is {list(self.at_frac)}")
        return self

    @property
    def borders(self) -> tuple[float, ...]:
        """Return after which fractions of the phase a later value of `steps` begins."""
        return self.at_frac or tuple(index / len(self.values) for index in range(1, len(self.values)))

    @property
    def highest(self) -> float:
        """Return the highest rate."""
        return max(self.values or (self.start or 0.0, self.end or 0.0))

    @property
    def mean(self) -> float:
        """Return the mean rate over the phase."""
        if self.start is not None and self.end is not None:
            return (self.start + self.end) / 2
        edges = (0.0, *self.borders, 1.0)
        return math.fsum(
            value * (stop - first) for value, first, stop in zip(self.values, edges, edges[1:], strict=False)
        )

    @property
    def frac_before_length_matters(self) -> float:
        """Return up to which fraction of a phase a longer phase has the same rates."""
        return self.borders[0] if self.curve == "steps" else 0.0

    def at(self, done: float) -> float:
        """Return the rate after a fraction of the phase, 0 <= done < 1."""
        if self.start is not None and self.end is not None:
            return self.start + (self.end - self.start) * done
        return self.values[bisect.bisect_right(self.borders, done)]

    def __str__(self) -> str:
        """Return the curve in words."""
        if self.curve == "linear":
            return f"{self.start:g} to {self.end:g}, linear"
        later = (f"{value:g} after {100 * at:g} %" for value, at in zip(self.values[1:], self.borders, strict=True))
        return ", ".join((f"{self.values[0]:g}", *later))


def _kind_of_rate(value: object) -> str:
    return "[curve]" if isinstance(value, (dict, MaskCurve)) else "[number]"


MaskFrac = Annotated[
    Annotated[_Rate, Tag("[number]")] | Annotated[MaskCurve, Tag("[curve]")], Discriminator(_kind_of_rate)
]
"""A mask rate: one for the whole phase, or one that changes over it."""


def mask_frac_text(rate: float | MaskCurve) -> str:
    """Return a mask rate in words."""
    return str(rate) if isinstance(rate, MaskCurve) else f"{rate:g}"


def early_steps(before: int) -> list[int]:
    """Return the steps 1, 2, 4, ... below `before`: checkpoints where a model learns fastest."""
    return [1 << power for power in range((before - 1).bit_length())] if before > 1 else []


def ramp_stages(
    first_sequences: int, final_sequences: int, ramp_positions: float, max_stages: int = 64
) -> list[tuple[int, int]]:
    """Return the batch ramp as (steps, sequences) stages; the last one, (0, final), is open-ended.

    The batch grows evenly from `first_sequences`, the same number of steps at each size, so that the
    stages before the last one hold about `ramp_positions` sequences in whole steps.

    Source: the packer of the published code, which also gives every batch size equally many steps.
    Differs: at most `max_stages` sizes instead of all of them, so that a step's positions are a small table.
    """
    if ramp_positions <= 0 or first_sequences >= final_sequences:
        return [(0, final_sequences)]
    steps = max(1, round(2 * ramp_positions / (first_sequences + final_sequences)))
    count = min(max_stages - 1, final_sequences - first_sequences, steps)
    stages: list[tuple[int, int]] = []
    for index in range(count):
        sequences = first_sequences + (final_sequences - first_sequences) * index // count
        stages.append((steps * (index + 1) // count - steps * index // count, sequences))
    return [*stages, (0, final_sequences)]


def steps_at_cadence(tokens_after: Callable[[int], float], steps: int, every_tokens: int) -> list[int]:
    """Return after how many steps a cadence of `every_tokens` falls due, the last step included.

    A step is due when the tokens read pass a multiple of the cadence; two multiples in one step count once.

    Args:
        tokens_after: Planned content tokens after a number of steps; it never falls.
        steps: Steps of the phase.
        every_tokens: The cadence.
    """
    due: list[int] = []
    done = 0
    while done < steps:
        target = (int(tokens_after(done) // every_tokens) + 1) * every_tokens
        done = bisect.bisect_left(range(steps), True, lo=done, key=lambda step: tokens_after(step + 1) >= target) + 1
        due.append(min(done, steps))
    return due
