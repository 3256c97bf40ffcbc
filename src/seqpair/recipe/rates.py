"""How fast devices train: what was measured and by whom, and an estimate where nothing was.

Imports no torch.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from seqpair.recipe.objectives import Direction
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
    rows = [row for row in here if (row.size, row.precision) == (size, precision)]
    if rows:
        best = min(rows, key=lambda row: (abs(row.seq_len - seq_len), row.date))
        moved = "" if best.seq_len == seq_len else f", by FLOPs from sequences of {best.seq_len:,}"
        return ExpectedRate(best.flops_per_second, True, f"measured: {_words(best)}{moved}")
    peak = DEVICES[device].peak_flops
    if peak is None:
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
