"""What others published of their models, as rows beside a study's own and as lines beside a result of that very model.

It draws nothing, so that `seqpair eval` needs no package of the page.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
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


def published_beside(model: str, tasks: Collection[str], suites: Collection[str]) -> list[str]:
    """Return a line for each value that was published of a model on tasks or suites that it was run on.

    Args:
        model: The name that it was opened by, on the hub or of a folder; other models have no lines.
        tasks: The names of the tasks that it has results of.
        suites: Their suites.
    """
    name = model.partition("@")[0].rstrip("/").rpartition("/")[2].lower()
    lines = []
    for pattern, (family, sizes) in json.loads(_PLACE.read_text(encoding="utf-8"))["models"].items():
        for size in sizes.split():
            if pattern.replace("{size}", size).rpartition("/")[2].lower() != name:
                continue
            for row in published_rows():
                asked = row.suite in suites or any(task in tasks for task in row.tasks)
                if row.family == family and size in row.values and asked:
                    about = "about " if size in row.about else ""
                    lines.append(f"{row.measure}: {about}{row.values[size]:g} {row.unit} ({row.source})")
    return lines
