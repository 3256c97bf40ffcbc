"""Stopping on request: SIGTERM and Ctrl-C let the running step end, save, and stop."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

from seqpair.text import note


class StopRequest:
    """A context in which the first SIGTERM or SIGINT sets `signal_number`; a second SIGINT interrupts."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._earlier: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        """Install the handlers (only the main thread may)."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._earlier[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Put the earlier handlers back."""
        for number, handler in self._earlier.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number
        note(f"{signal.Signals(number).name} received: saving after this step, then stopping")
