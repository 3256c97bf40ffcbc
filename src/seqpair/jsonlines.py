"""JSON Lines files that grow during a run and are cut back when it resumes.

Owns appending, durability, torn last lines and cutting back. Must not know what a row means. Entry
point: `JsonLines`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from seqpair.atomic import disk_full, write_text


class JsonLines:
    """One file of JSON objects, one a line.

    Args:
        path: The file; it is created by the first row.
    """

    def __init__(self, path: Path) -> None:
        """Open nothing yet."""
        self.path = path
        self._handle: Any = None

    def append(self, row: dict[str, Any]) -> None:
        """Write one row and hand it to the operating system, so that a killed process does not lose it.

        Raises:
            DiskFullError: The disk is full.
            ValueError: A number in the row is not finite.
        """
        with disk_full(self.path):
            if self._handle is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._handle = self.path.open("a", encoding="utf-8")
            self._handle.write(json.dumps(row, allow_nan=False) + "\n")
            self._handle.flush()

    def sync(self) -> None:
        """Make all rows durable against a crash of the machine."""
        if self._handle is not None:
            with disk_full(self.path):
                os.fsync(self._handle.fileno())

    def close(self) -> None:
        """Close the file; a later `append` opens it again."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows; a torn last line, left by a killed process, is left out."""
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8") as handle:
            for line in handle:
                if line.endswith("\n"):
                    yield json.loads(line)

    def keep(self, wanted: Callable[[dict[str, Any]], bool]) -> int:
        """Rewrite the file with the wanted rows only, atomically; return how many were dropped."""
        self.close()
        if not self.path.exists():
            return 0
        rows = list(self.rows())
        kept = [row for row in rows if wanted(row)]
        write_text(self.path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in kept))
        return len(rows) - len(kept)
