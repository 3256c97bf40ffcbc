"""Published values of other models, with where they were printed: reference lines, never results of this study."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from seqpair.text import parse_count

_PLACE = Path(__file__).with_name("published.json")


@dataclass(frozen=True)
class PublishedRow:
    """One family of models on one measure.

    Attributes:
        family: The models, `Ettin decoder`.
        kind: `encoder`, `decoder`, `cross` for a change of objective, or `other`.
        measure: What was measured, in words.
        tasks: The names of our tasks that measure the same; empty for an average.
        suite: For an average, the suite whose average it is; empty otherwise.
        unit: The values' unit.
        source: Where they were printed.
        values: The value by size label.
        about: The sizes whose value was read off a figure.
    """

    family: str
    kind: str
    measure: str
    tasks: tuple[str, ...]
    suite: str
    unit: str
    source: str
    values: Mapping[str, float]
    about: tuple[str, ...] = ()

    @property
    def points(self) -> list[tuple[float, float]]:
        """Return (parameters, value as a share of one) by ascending size; parameters as the size label says."""
        scale = 100.0 if self.unit == "%" else 1.0
        return sorted((float(parse_count(size)), value / scale) for size, value in self.values.items())


def published_rows() -> list[PublishedRow]:
    """Return all published values."""
    read = json.loads(_PLACE.read_text(encoding="utf-8"))
    return [
        PublishedRow(
            family=row["family"],
            kind=row["kind"],
            measure=row["measure"],
            tasks=tuple(row["tasks"]),
            suite=row.get("suite", ""),
            unit=row["unit"],
            source=read["sources"][row["source"]],
            values=row["values"],
            about=tuple(row.get("about", ())),
        )
        for row in read["rows"]
    ]
