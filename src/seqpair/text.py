"""Text for people (counts, bytes, durations, messages and progress), and the one check of text that people give."""

from __future__ import annotations

import difflib
import re
import sys
import time
from collections.abc import Iterable
from decimal import Decimal

from seqpair.errors import DataError, SeqpairError, without_secrets

_SCALES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9, "t": 10**12}
_COUNT = re.compile(r"^\s*([0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?)\s*([kmbgt]?)\s*$", re.IGNORECASE)


MOST_COUNT = 10**18
"""No number of tokens, bytes or rows is larger; one that is does not fit into 64 bits with what is made of it."""
_MOST_LETTERS = 60
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def checked_text(value: object, where: str) -> str:
    """Return a text that somebody gave, if it is valid Unicode: every text from outside passes here or `decoded_text`.

    JSON and Python can hold half of a surrogate pair, and arguments and file names can hold bytes that are not UTF-8;
    neither can be tokenized or written.

    Args:
        value: The text.
        where: Where it stands, for messages: file and row, or the argument's name.

    Raises:
        DataError: It is not a text, or not a valid one.
    """
    if not isinstance(value, str):
        raise DataError(f"{where} is no text", seen=f"{type(value).__name__}: {str(value)[:80]}", allowed="a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{where} is not valid Unicode text",
            seen=f"{value[error.start]!r} as character {error.start + 1}",
            allowed="text that can be written as UTF-8",
            fix="remove this half of a character, or save the text as UTF-8",
        ) from error
    return value


def checked_texts(values: object, where: str) -> list[str]:
    """Return a list of texts that somebody gave; one text alone is refused, because each of its letters would be one.

    Raises:
        DataError: It is no list, or one of them is not a valid text.
    """
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise DataError(
            f"{where} are not a list of texts",
            seen=f"{type(values).__name__}: {str(values)[:80]}",
            fix="put one text into a list",
        )
    return [checked_text(value, f"text {number} of {where}") for number, value in enumerate(values, 1)]


def checked_number(value: object, where: str, least: int) -> int:
    """Return a whole number that somebody gave.

    Raises:
        DataError: It is none, or too small.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MOST_COUNT:
        raise DataError(
            f"{where} is not a whole number in the range", seen=f"{value!r}"[:80], allowed=f"{least} or more"
        )
    return value


def decoded_text(data: bytes, where: str) -> str:
    """Return bytes as text.

    Args:
        data: The bytes.
        where: Where they stand, for messages.

    Raises:
        DataError: They are not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is not valid Unicode text",
            seen=f"byte 0x{data[error.start]:02x} in line {data[: error.start].count(10) + 1} of it",
            allowed="UTF-8",
            fix="save it as UTF-8",
        ) from error


def printable(text: str) -> str:
    """Return a text with its control characters, save tabs and line ends, and lone surrogates written as escapes.

    What a model or a file wrote could otherwise move the cursor or change the terminal's settings.
    """
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def parse_count(value: str | int | float) -> int:
    """Return a whole number from `300M`, `8.5B`, `1_000`, `1e9` or a number.

    At most 10^18; k = 10^3, M = 10^6, B (or G) = 10^9, T = 10^12; capitals do not matter.

    Raises:
        SeqpairError: The text is not a number of this form, is negative, or is not whole.
    """
    is_huge = isinstance(value, int) and abs(value) > MOST_COUNT  # Python refuses to write out the largest
    text = "" if is_huge else str(value)
    match = None if isinstance(value, bool) or len(text) > _MOST_LETTERS else _COUNT.match(text)
    try:
        exact = Decimal(match[1].replace("_", "")) * _SCALES[match[2].lower()] if match else None
    except ArithmeticError:
        exact = None
    if exact is None or exact > MOST_COUNT or exact != exact.to_integral_value():
        raise SeqpairError(
            "a count was expected",
            seen="a larger number" if is_huge else repr(value)[:_MOST_LETTERS],
            allowed="a whole number up to 10^18, such as 4096, 1_000, 300M, 8.5B or 1e9",
        )
    return int(exact)


def nearest(word: str, allowed: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the allowed word nearest to this one, or nothing.

    A word's initials count as near too: `lr` for `learning_rate`.
    """
    words = list(allowed)
    initials = "".join(part[:1] for part in word.split("_"))
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5) or [item for item in words if item == initials]
    return f" (did you mean '{close[0]}'?)" if close else ""


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


def note(message: str) -> None:
    """Print one line for the person who watches, on standard error."""
    sys.stderr.write(printable(without_secrets(message.rstrip("\n"))) + "\n")
    sys.stderr.flush()


class Progress:
    """One live line: done of total, rate, time left, and whatever the caller adds.

    On a terminal the line is rewritten; elsewhere (a log file, CI) a new line is written at most
    every `quiet_seconds`.

    Args:
        label: What is being done.
        total: How many units there are; 0 if unknown.
        unit: The unit's name in the rate, such as "tokens".
        done: Units that were already done before this process began (they do not count in the rate).
    """

    rewrites = True
    """Whether a terminal is this process's alone; where several share one, each line is a new one."""

    def __init__(self, label: str, total: float, unit: str, *, done: float = 0.0, quiet_seconds: float = 15.0) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self.first_done = done
        self._started = time.monotonic()
        self._terminal = self.rewrites and sys.stderr.isatty()
        self._interval = 0.2 if self._terminal else quiet_seconds
        self._shown = self._started if not self._terminal else 0.0
        self._width = 0

    def rate(self) -> float:
        """Return units per second since this process began."""
        elapsed = time.monotonic() - self._started
        return (self.done - self.first_done) / elapsed if elapsed > 0 else 0.0

    def update(self, done: float, extra: str = "") -> None:
        """Set how many units are done and show the line if it is due."""
        self.done = done
        now = time.monotonic()
        if now - self._shown >= self._interval:
            self._shown = now
            self._write(self._line(extra), final=False)

    def finish(self, extra: str = "") -> None:
        """Show the last line and end it."""
        self._write(self._line(extra), final=True)

    def _line(self, extra: str) -> str:
        rate = self.rate()
        parts = [f"{self.label}: {format_count(self.done)}"]
        if self.total:
            parts[0] += f"/{format_count(self.total)} {self.unit} ({100 * min(1.0, self.done / self.total):.0f} %)"
        else:
            parts[0] += f" {self.unit}"
        parts.append(f"{format_count(rate)} {self.unit}/s")
        if self.total and rate > 0:
            parts.append(f"{format_seconds(max(0.0, self.total - self.done) / rate)} left")
        if extra:
            parts.append(extra)
        return ", ".join(parts)

    def _write(self, line: str, *, final: bool) -> None:
        if not self._terminal:
            note(line)
            return
        padding = " " * max(0, self._width - len(line))
        self._width = len(line)
        sys.stderr.write("\r" + printable(line) + padding + ("\n" if final else ""))
        sys.stderr.flush()
