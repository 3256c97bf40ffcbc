"""How long a plan would take on some devices, and whether it fits them.

Rates that were measured are kept in `rates.json`; where none was measured, the rate is an estimate and says so.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from seqpair.errors import RecipeError
from seqpair.recipe.cost import SPECIALS_PER_SEQUENCE, memory_bytes, plan_cost, settings_that_fit
from seqpair.recipe.objectives import Direction
from seqpair.recipe.plan import Plan
from seqpair.recipe.sizes import SIZES

RATES_FILE = Path(__file__).with_name("rates.json")


class Device(NamedTuple):
    """A kind of device: the maker's dense bf16 FLOPs a second (None for a CPU), its memory, names it goes by."""

    peak_flops: float | None
    memory_bytes: float | None
    names: tuple[str, ...]


DEVICES: dict[str, Device] = {
    "h200": Device(989e12, 141e9, ("H200",)),
    "h100": Device(989e12, 80e9, ("H100",)),
    "a100": Device(312e12, 80e9, ("A100",)),
    "l40s": Device(362e12, 48e9, ("L40S",)),
    "l4": Device(121e12, 24e9, ("L4",)),
    "4090": Device(165e12, 24e9, ("4090",)),
    "3090": Device(71e12, 24e9, ("3090",)),
    "cpu": Device(None, None, ()),
}
"""Peaks are the makers' figures without sparsity; H100 is the SXM board (the PCIe board has 756e12)."""

_SLOWER_BOARDS = {"H100 PCIe": 756e12, "H100 NVL": 835e12}

ASSUMED_MFU: dict[str, float] = {
    "test": 0.01, "1m": 0.02, "4m": 0.04, "17m": 0.10, "32m": 0.13, "68m": 0.19, "150m": 0.27, "400m": 0.35, "1b": 0.40
}  # fmt: skip
"""Share of the peak that a GPU is assumed to reach: the original's, from 17m on, by its hours on 4 H100
(6 FLOPs a parameter and token); below, a guess that falls with the width."""

PUBLISHED_H100: dict[str, float] = {
    "17m": 985e3, "32m": 655e3, "68m": 463e3, "150m": 296e3, "400m": 146e3, "1b": 64e3
}  # fmt: skip
"""The original's tokens a second on one H100, worked out from its hours on 4 for 2T tokens (arXiv 2507.11412)."""


class MeasuredRate(BaseModel):
    """One measured training rate.

    Attributes:
        device: The kind, as in `DEVICES`.
        hardware: The device's own name and threads.
        size, direction, seq_len, precision: What was trained.
        tokens_per_second: Content tokens a second on one device.
        flops_per_second: Counted FLOPs a second, from which other shapes are worked out.
        date, commit, torch: When, and with what.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    hardware: str
    size: str
    direction: Direction
    seq_len: int
    precision: str
    tokens_per_second: float
    flops_per_second: float
    date: str
    commit: str
    torch: str


class ExpectedRate(NamedTuple):
    """FLOPs a second that one device is expected to do, and where that comes from.

    `by_parameters`: they hold for 6 FLOPs a parameter and token, as the original's share of the peak was worked
    out, not for the exact count of `cost`, which is lower for an encoder.
    """

    flops_per_second: float
    measured: bool
    source: str
    by_parameters: bool = False


@cache
def measured_rates() -> tuple[MeasuredRate, ...]:
    """Return the rates that are kept in the package."""
    return tuple(MeasuredRate.model_validate(row) for row in json.loads(RATES_FILE.read_text(encoding="utf-8")))


def known_peak(name: str) -> float | None:
    """Return the maker's dense bf16 FLOPs a second for a GPU's name, or None for one that is not in the table."""
    # First, since a slower board's name contains the name of the faster one.
    for board, peak in _SLOWER_BOARDS.items():
        if board in name:
            return peak
    words = name.replace("-", " ").split()
    found = [device.peak_flops for device in DEVICES.values() if any(known in words for known in device.names)]
    return found[0] if found else None


def expected_rate(device: str, size: str, direction: Direction, seq_len: int, precision: str) -> ExpectedRate:
    """Return what one device of a kind is expected to do.

    A measured rate of this size, direction and precision counts, at the nearest sequence length; its FLOPs a second are
    taken over, so that other lengths cost what their FLOPs say. Else, for a GPU, its peak times an assumed share;
    for a CPU, what the nearest size that was measured does.
    """
    here = [row for row in measured_rates() if (row.device, row.direction) == (device, direction)]
    # A measured rate of this very size is better than any rule.
    rows = [row for row in here if (row.size, row.precision) == (size, precision)]
    if rows:
        best = min(rows, key=lambda row: (abs(row.seq_len - seq_len), row.date))
        moved = "" if best.seq_len == seq_len else f", by FLOPs from sequences of {best.seq_len:,}"
        return ExpectedRate(best.flops_per_second, True, f"measured: {_words(best)}{moved}")
    peak = DEVICES[device].peak_flops
    if peak is None:
        # A CPU has no maker's peak, and sizes next to each other reach similar FLOPs a second, so the nearest
        # size counts.
        order = list(SIZES)
        place = order.index(size) if size in order else order.index("17m")
        nearest = min(
            here,
            key=lambda row: (
                abs(order.index(row.size) - place),
                row.precision != precision,
                abs(row.seq_len - seq_len),
            ),
        )
        return ExpectedRate(
            nearest.flops_per_second, False, f"not measured: the FLOPs a second of {nearest.size}, {_words(nearest)}"
        )
    # A shape written out has no row in the table; 17m is a cautious guess.
    share = ASSUMED_MFU.get(size, ASSUMED_MFU["17m"])
    published = PUBLISHED_H100.get(size)
    beside = f"; the original reached {published:,.0f} tokens/s on one H100 at 1,024" if published else ""
    return ExpectedRate(
        peak * share,
        False,
        f"not measured: an assumed {share:.0%} of the maker's {peak / 1e12:.0f} TFLOP/s (bf16, 6 FLOPs a parameter and "
        f"token){beside}",
        by_parameters=True,
    )


def _words(row: MeasuredRate) -> str:
    return f"{row.tokens_per_second:,.0f} tokens/s on {row.hardware}, {row.precision}, {row.date}, commit {row.commit}"


TIME_FORMULA = "FLOPs of the phase / (count x FLOPs a second of one device); communication is not counted"


class PhaseTime(BaseModel):
    """One phase's time.

    Attributes:
        name: The phase.
        hours: On all devices together.
        tokens_per_second: Content tokens a second, on all devices together.
        measured: Whether the rate was measured on such a device, with this size and direction.
        source: Where the rate comes from.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    hours: float
    tokens_per_second: float
    measured: bool
    source: str


class PlanPrediction(BaseModel):
    """A plan on some devices.

    Attributes:
        device, count: Which, and how many.
        hours: All phases.
        device_hours: The same, by devices.
        phases: Each phase's time.
        memory_bytes: Rough peak memory of one device.
        device_memory_bytes: What one has; null for a CPU.
        fitting: What of `runtime` has to change for the plan to fit; empty if it fits; null if nothing helps.
        measured: Whether all rates were measured.
        formula: How hours are made.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    count: int
    hours: float
    device_hours: float
    phases: tuple[PhaseTime, ...]
    memory_bytes: float
    device_memory_bytes: float | None
    fitting: dict[str, str] | None
    measured: bool
    formula: str

    @property
    def fits(self) -> bool:
        """Return whether one device has the memory, as far as that is known."""
        return self.device_memory_bytes is None or self.memory_bytes <= self.device_memory_bytes


def predict_plan(plan: Plan, device: str, count: int = 1) -> PlanPrediction:
    """Return a plan's time and memory on devices of one kind.

    Args:
        plan: The plan.
        device: A name in `DEVICES`.
        count: How many.

    Raises:
        RecipeError: There is no such device, fewer than one, or several CPUs.
    """
    if device not in DEVICES:
        raise RecipeError("this device is not in the table", seen=repr(device), allowed=", ".join(DEVICES))
    if count < 1 or (device == "cpu" and count > 1):
        raise RecipeError("this count makes no prediction", seen=f"{count} x {device}", allowed="1 or more; 1 for cpu")
    phases = []
    whole = plan_cost(plan)
    for phase, cost in zip(plan.phases, whole.phases, strict=True):
        direction = phase.objective_of(max(0, phase.steps - 1)).direction
        rate = expected_rate(device, plan.size, direction, phase.seq_len, plan.runtime.precision)
        flops = cost.flops
        # The assumed share of the peak was worked out from 6 FLOPs per parameter, so it holds for that count only.
        if rate.by_parameters:
            flops = 6.0 * whole.parameters * phase.positions * (phase.mean_tokens + SPECIALS_PER_SEQUENCE)
        seconds = flops / (rate.flops_per_second * count)
        phases.append(
            PhaseTime(
                name=phase.name,
                hours=seconds / 3600,
                tokens_per_second=phase.positions * phase.mean_tokens / seconds if seconds else 0.0,
                measured=rate.measured,
                source=rate.source,
            )
        )
    hours = sum(phase.hours for phase in phases)
    room = DEVICES[device].memory_bytes
    return PlanPrediction(
        device=device,
        count=count,
        hours=hours,
        device_hours=hours * count,
        phases=tuple(phases),
        memory_bytes=memory_bytes(plan, count, gpu=room is not None),
        device_memory_bytes=room,
        fitting={} if room is None else settings_that_fit(plan, room, count),
        measured=all(phase.measured for phase in phases),
        formula=TIME_FORMULA,
    )
