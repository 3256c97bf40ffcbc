"""Messages and progress for people, on standard error; results never go here.

Owns the logger and the progress line with rate and time left. Must not know what is being counted.
Entry points: `note`, `Progress`.
"""

from __future__ import annotations

import sys
import time

from seqpair.units import format_count, format_seconds


def note(message: str) -> None:
    """Print one line for the person who watches, on standard error."""
    sys.stderr.write(message.rstrip("\n") + "\n")
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

    def __init__(self, label: str, total: float, unit: str, *, done: float = 0.0, quiet_seconds: float = 15.0) -> None:
        """Start the clock."""
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self.first_done = done
        self._started = time.monotonic()
        self._terminal = sys.stderr.isatty()
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
            parts[0] += f"/{format_count(self.total)} {self.unit} ({100 * self.done / self.total:.0f} %)"
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
        sys.stderr.write("\r" + line + padding + ("\n" if final else ""))
        sys.stderr.flush()
