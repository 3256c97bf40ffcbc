"""Signs of life: each rank says in the ranks' store where it is, so that a survivor can name the rank that is lost.

A thread of each rank renews its sign; a rank whose sign no longer changes is dead, stopped or cut off, and one that is
alive and has not come is named with the part of the step it is in. No clocks of two machines are compared.
"""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from typing import Any

import torch.distributed as dist

from seqpair.text import note

INTERVAL_SECONDS = 1.0
_SILENT_INTERVALS = 2.5
_STORE_SECONDS = 3.0
"""What reading the store may take beyond the wait between two readings, before its holder counts as lost."""
_MOST_NAMED = 8


class Heartbeat:
    """One rank's sign of life, and what the signs of all ranks say.

    Args:
        store: A connection of its own to the ranks' store: one that waits for an answer blocks all who share it.
        rank: This process's number.
        world_size: How many processes there are.
        interval_seconds: How often the sign is renewed.

    Attributes:
        alarm_seconds: Print the report once an exchange takes longer than this: for nccl, which ends the process from
            a thread of its own, without an exception that could carry the report.
    """

    def __init__(
        self, store: dist.Store, rank: int, world_size: int, interval_seconds: float = INTERVAL_SECONDS
    ) -> None:
        self._store, self.rank, self.world_size = store, rank, world_size
        self._interval, self.alarm_seconds = interval_seconds, math.inf
        self._beats, self._step, self._part, self._since = 0, 0, "starting", time.monotonic()
        self._waits, self._has_warned = False, False
        self._stopped = threading.Event()
        self._beat()
        self._thread = threading.Thread(target=self._renew, name="seqpair-heartbeat", daemon=True)
        self._thread.start()

    @property
    def place(self) -> tuple[int, str, bool]:
        """Return the step, the part of it, and whether the rank waits for others there."""
        return self._step, self._part, self._waits

    def enter(self, step: int, part: str, waits: bool = False) -> None:
        """Take note of where this rank is; the thread tells the others, so this costs nothing."""
        # The thread reads these one by one; a sign that mixes two neighbouring places is as good as either.
        self._step, self._part, self._waits, self._since = step, part, waits, time.monotonic()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()

    def report(self) -> str:
        """Return in words which ranks are silent, and else which have not come to the exchange.

        Takes two and a half intervals: a rank is silent if its sign stays the same for so long.
        """
        signs: list[dict[int, dict[str, Any] | None]] = []
        wait = _SILENT_INTERVALS * self._interval

        def read() -> None:
            try:
                signs.append(self._read())
                time.sleep(wait)
                signs.append(self._read())
            except RuntimeError:  # the store's holder is gone
                return

        # On a thread, since no timeout of the store's client ends a wait for a holder that is stopped.
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(wait + _STORE_SECONDS)
        if len(signs) < 2:
            return "nothing is known of the other ranks: the store of rank 0's machine, where they tell it, is lost too"
        return _in_words(signs[0], signs[1], self.rank, wait)

    def _read(self) -> dict[int, dict[str, Any] | None]:
        found: dict[int, dict[str, Any] | None] = {}
        for rank in range(self.world_size):
            # `get` would wait for a key that no one has set.
            is_there = self._store.check([_key(rank)])
            found[rank] = json.loads(self._store.get(_key(rank))) if is_there else None
        return found

    def _renew(self) -> None:
        while not self._stopped.wait(self._interval):
            try:
                self._beat()
            except RuntimeError:
                return  # no store, no signs; the exchanges fail by themselves
            waited = time.monotonic() - self._since if self._waits else 0.0
            if waited > self.alarm_seconds and not self._has_warned:
                self._has_warned = True
                note(f"rank {self.rank} has waited {waited:.0f} s for {self._part}: {self.report()}")

    def _beat(self) -> None:
        self._beats += 1
        sign = {
            "beats": self._beats,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "step": self._step,
            "part": self._part,
            "waits": self._waits,
            "seconds": round(time.monotonic() - self._since, 1),
        }
        self._store.set(_key(self.rank), json.dumps(sign))


def _key(rank: int) -> str:
    return f"heartbeat{rank}"


def _in_words(
    before: dict[int, dict[str, Any] | None], after: dict[int, dict[str, Any] | None], own: int, wait: float
) -> str:
    silent, late, absent = [], [], []
    for rank, sign in after.items():
        earlier = before[rank]
        if sign is None:
            absent.append(f"rank {rank} never came")
        elif rank != own and earlier is not None and earlier["beats"] == sign["beats"]:
            silent.append(f"{_name(rank, sign)} is dead, stopped or cut off, last heard of in {_where(sign)}")
        elif rank != own and not sign["waits"]:
            late.append(f"{_name(rank, sign)} is alive but did not come: {sign['seconds']:.0f} s in {_where(sign)}")
    # Who is silent explains all the rest: the others wait for it.
    named = absent + silent or late
    if not named:
        return (
            f"all ranks were heard of within {wait:.1f} s, and all wait: the network between them, or a rank that left"
        )
    more = f"; and {len(named) - _MOST_NAMED} more ranks" if len(named) > _MOST_NAMED else ""
    return "; ".join(named[:_MOST_NAMED]) + more


def _name(rank: int, sign: dict[str, Any]) -> str:
    return f"rank {rank} (host {sign['host']}, process {sign['pid']})"


def _where(sign: dict[str, Any]) -> str:
    return f"step {sign['step']}, {sign['part']}"
