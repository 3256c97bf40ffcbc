"""Training pairs for retrieval: a query, a text that answers it, perhaps texts that do not."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqpair.errors import EvaluationError
from seqpair.evaluate.retrieval.sets import RetrievalSet, checked_set
from seqpair.files import hash64, sha256_json

KNOWN_COLUMNS = (
    ("query", "positive"),
    ("question", "answer"),
    ("anchor", "positive"),
    ("docstring", "code"),
    ("sentence1", "sentence2"),
)
NEGATIVES = ("negatives", "negative")
MOST_HELD_OUT = 300
LEAST_PAIRS = 20


@dataclass(frozen=True)
class TrainingPair:
    """A query, its positive, and hard negatives if the file has some."""

    query: str
    positive: str
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pairs:
    """What a file gave.

    Attributes:
        pairs: The pairs, each once.
        left_out: Rows with an empty text or that were there before.
        digest: Of the pairs.
    """

    pairs: list[TrainingPair]
    left_out: int

    @property
    def digest(self) -> str:
        """The digest of the pairs in their order."""
        return sha256_json([[pair.query, pair.positive, list(pair.negatives)] for pair in self.pairs])


def read_pairs(path: Path, columns: str = "", most: int | None = None) -> Pairs:
    """Read pairs from JSON Lines, or from CSV or TSV with a header.

    Args:
        path: The file.
        columns: Names with commas of query, positive and perhaps negatives; empty tries the usual names.
        most: Most pairs to keep, drawn by the hash of their texts; `None` keeps all.

    Raises:
        EvaluationError: The file cannot be read, lacks a column, or has too few pairs.
    """
    names = [name.strip() for name in columns.split(",")] if columns else []
    if names and len(names) not in (2, 3):
        raise EvaluationError("two or three columns make a training pair", seen=columns, allowed="query,positive")
    found: dict[TrainingPair, None] = {}
    rows = 0
    for where, row in _rows(path):
        rows += 1
        names = names or _find_columns(where, row)
        missing = [name for name in names if name not in row]
        if missing:
            raise EvaluationError(
                f"{where} lacks a column", seen=f"no {', no '.join(missing)}", allowed=", ".join(map(str, row))
            )
        query, positive = (str(row[name] or "").strip() for name in names[:2])
        negatives = _negatives(row[names[2]]) if len(names) == 3 else ()
        if query and positive:
            found[TrainingPair(query, positive, negatives)] = None
    pairs = list(found)
    left_out = rows - len(pairs)
    if len(pairs) < LEAST_PAIRS:
        raise EvaluationError(
            f"{path.name} has too few training pairs", seen=len(pairs), allowed=f"{LEAST_PAIRS} or more"
        )
    if most is not None and most < len(pairs):
        pairs = sorted(pairs, key=lambda pair: hash64(pair.query + "\n" + pair.positive))[: max(most, LEAST_PAIRS)]
    return Pairs(pairs, left_out)


def hold_out(pairs: Sequence[TrainingPair]) -> tuple[list[TrainingPair], RetrievalSet]:
    """Split pairs into those to train on, and a retrieval set of a twentieth of them to choose a rate on.

    What is held out is fixed by the texts' hashes; no held-out positive or query is trained on.

    Returns:
        The training pairs, and the set: the held-out queries, and the held-out positives as its documents.
    """
    order = sorted(range(len(pairs)), key=lambda index: (hash64("held out\n" + pairs[index].query), index))
    held = order[: min(MOST_HELD_OUT, max(2, len(pairs) // 20))]
    ids: dict[str, str] = {}
    queries: dict[str, str] = {}
    relevant: dict[str, dict[str, int]] = {}
    for index in held:
        document = ids.setdefault(pairs[index].positive, f"d{len(ids)}")
        query = f"q{hash64(pairs[index].query)}"
        queries[query] = pairs[index].query
        relevant.setdefault(query, {})[document] = 1
    asked = set(queries.values())
    kept = [pair for pair in pairs if pair.positive not in ids and pair.query not in asked]
    if len(kept) < 2:
        raise EvaluationError("too few pairs are left to train on", seen=len(kept), allowed="2 or more")
    return kept, checked_set("held-out pairs", {name: text for text, name in ids.items()}, queries, relevant)


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if path.suffix in (".csv", ".tsv"):
        with path.open(encoding="utf-8", newline="") as handle:
            reader = csv.DictReader(handle, delimiter="\t" if path.suffix == ".tsv" else ",")
            for number, row in enumerate(reader, 2):
                yield f"{path.name}, row {number}", dict(row)
        return
    with path.open(encoding="utf-8") as handle:
        for number, line in enumerate(handle, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise EvaluationError(f"{path.name}, line {number} is not JSON", seen=error) from error
            if not isinstance(row, dict):
                raise EvaluationError(f"{path.name}, line {number} is no object", seen=line[:60])
            yield f"{path.name}, line {number}", row


def _find_columns(where: str, row: dict[str, Any]) -> list[str]:
    for query, positive in KNOWN_COLUMNS:
        if query in row and positive in row:
            return [query, positive, *[name for name in NEGATIVES if name in row][:1]]
    raise EvaluationError(
        f"{where} has no columns of a training pair",
        seen=", ".join(map(str, row)),
        allowed="; ".join(" and ".join(names) for names in KNOWN_COLUMNS),
        fix="name them, as in --set columns=title,text",
    )


def _negatives(value: Any) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [value]
    return tuple(str(text).strip() for text in texts if text and str(text).strip())
