"""What is taken out of a source before it is stored: the seam between cleaning and preparation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seqpair.data.sources.documents import Source
from seqpair.errors import DataError
from seqpair.files import sha256_json


@dataclass(frozen=True)
class UnitRemovals:
    """The removals of one unit.

    Attributes:
        documents: How many documents the survey saw in the unit.
        ordinals: Which of them are removed, int64 (n,), ascending, from 0 in the unit.
        reasons: Why, one for each ordinal.
    """

    documents: int
    ordinals: NDArray[np.int64]
    reasons: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Return a digest of what is removed, so that a part made with other removals is not taken."""
        return sha256_json([self.documents, self.ordinals.tolist(), list(self.reasons)])


@dataclass(frozen=True)
class Removals:
    """Documents that a survey of the whole source found to be removed.

    Attributes:
        unit_documents: Documents in each unit of the source as they are read, int64 (units,).
        ordinals: The removed documents' places in the source's order, int64 (n,), ascending.
        reason_names: The reasons.
        reason_codes: For each ordinal the index of its reason, (n,).
    """

    unit_documents: NDArray[np.int64]
    ordinals: NDArray[np.int64]
    reason_names: tuple[str, ...]
    reason_codes: NDArray[np.integer]

    def of_units(self, units: int) -> list[UnitRemovals]:
        """Return the removals of every unit.

        Raises:
            DataError: The survey saw another number of units than the source has.
        """
        if len(self.unit_documents) != units:
            raise DataError(
                "a source changed between its survey and its preparation",
                seen=f"{units} units",
                allowed=f"{len(self.unit_documents)} units",
                fix="leave the files alone while they are read, and repeat the command",
            )
        starts = np.concatenate([[0], np.cumsum(self.unit_documents)])
        borders = np.searchsorted(self.ordinals, starts)
        return [
            UnitRemovals(
                int(self.unit_documents[index]),
                self.ordinals[borders[index] : borders[index + 1]] - starts[index],
                tuple(self.reason_names[code] for code in self.reason_codes[borders[index] : borders[index + 1]]),
            )
            for index in range(units)
        ]


@dataclass(frozen=True)
class SourceCleaning:
    """How one source is cleaned.

    Attributes:
        digest: SHA-256 of everything that decides what is removed; it enters the store's address.
        find_removals: Surveys the source and returns what is removed; called only when its store is missing,
            and again by every repetition and shard, so it should keep its outcome by `digest`.
        write_report: Writes what was removed and why into the folder of the stores, before that appears.
    """

    digest: str
    find_removals: Callable[[Source], Removals] | None = None
    write_report: Callable[[Path], None] | None = None
