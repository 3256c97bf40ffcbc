"""Human numbers: `300M`, `8.5B`, `1.5 GiB`, `3 min`.

Owns parsing and printing of counts, bytes and durations. Must not know what is measured. Entry
points: `parse_count`, `format_count`, `format_bytes`, `format_seconds`.
"""

from __future__ import annotations

import re
from decimal import Decimal

from seqpair.errors import SeqpairError

_SCALES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
_COUNT = re.compile(r"^\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\s*([kmbgt]?)\s*$", re.IGNORECASE)


def parse_count(value: str | int | float) -> int:
    """Return a whole number from `300M`, `8.5B`, `1_000`, `1e9` or a number.

    k = 10^3, M = 10^6, B (or G) = 10^9, T = 10^12; capitals do not matter.

    Raises:
        SeqpairError: The text is not a number of this form, is negative, or is not whole.
    """
    match = None if isinstance(value, bool) else _COUNT.match(str(value))
    exact = Decimal(match[1].replace("_", "")) * _SCALES[match[2].lower()] if match else None
    if exact is None or exact != exact.to_integral_value():
        raise SeqpairError(
            "a count was expected",
            seen=repr(value),
            allowed="a whole number such as 4096, 1_000, 300M, 8.5B or 1e9",
        )
    return int(exact)


def format_count(value: float) -> str:
    """Return a short text for a count: 812, 16.9M, 1.70T."""
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale * 0.9995:
            scaled = value / scale
            return f"{scaled:.2f}{letter}" if abs(scaled) < 10 else f"{scaled:.1f}{letter}"
    return f"{value:.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.1f}"


def format_bytes(value: float) -> str:
    """Return a short text for a number of bytes, in powers of 1024: 812 B, 1.5 GiB."""
    for scale, name in ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if abs(value) >= scale:
            return f"{value / scale:.1f} {name}"
    return f"{value:.0f} B"


def format_seconds(value: float) -> str:
    """Return a short text for a duration: 48 s, 3 min 20 s, 2 h 05 min."""
    seconds = round(value)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
