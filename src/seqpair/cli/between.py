"""What was read between two checkpoints, as text or JSON, printed while it is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from seqpair.text import format_count

if TYPE_CHECKING:
    from seqpair.cli.run_folders import RunFolder
    from seqpair.data.order.spans import Span, SpanReader


def show_between(run: RunFolder, first: str, second: str, *, limit: int | None, as_json: bool) -> None:
    """Print the documents read after one checkpoint up to another, then the counts of each source.

    Args:
        run: The run, or the member of a recipe.
        first: The earlier checkpoint's name, `step100`.
        second: The later one's.
        limit: How many documents to name; all if `None`.
        as_json: Print one JSON object instead of text.

    Raises:
        RecipeError: The plan has no such checkpoints.
        StoreError: The stores are not there, or not those of the plan.
    """
    from seqpair.data.order.spans import SpanReader, spans_between
    from seqpair.data.prepared import open_prepared
    from seqpair.data.store.planning import require_stores

    plan = run.plan()
    spans = spans_between(plan, first, second)
    prepared = open_prepared(plan.sources, plan.tokenizer, Path(plan.store_folder))
    require_stores(plan, prepared.train)
    reader = SpanReader(plan.seed, spans, prepared.train)
    title = {"study": plan.study, "member": plan.member, "after": first, "up_to": second}
    if as_json:
        _print_json(title, spans, reader, limit)
    else:
        print(f"{plan.study}/{plan.member}: documents read after {first} up to {second}")
        _print_text(spans, reader, limit)


def _named_documents(reader: SpanReader, limit: int | None) -> Iterator[dict[str, object]]:
    """Read all spans; yield the first `limit` documents, in the order of their first reading."""
    from seqpair.data.store.document_ids import DocumentIds

    ids: dict[int, DocumentIds] = {}
    named = 0
    for found in reader.read():
        shown = found.rows.size if limit is None else min(found.rows.size, limit - named)
        named += shown
        names: dict[tuple[int, int], str] = {}
        for number in sorted(set(found.source[:shown].tolist())):
            rows = found.rows[:shown][found.source[:shown] == number]
            if number not in ids:
                ids[number] = DocumentIds(reader.stores[reader.sources[number]])
            taken = ids[number].take(rows).to_pylist()
            names |= {(number, row): name for row, name in zip(rows.tolist(), taken, strict=True)}
        columns = (found.source, found.rows, found.steps, found.positions)
        for number, row, step, position in zip(*(column[:shown].tolist() for column in columns), strict=True):
            yield {
                "phase": found.phase.name,
                "step": step,
                "position": position,
                "source": reader.sources[number],
                "document": names[number, row],
            }


def _print_json(title: dict[str, str], spans: list[Span], reader: SpanReader, limit: int | None) -> None:
    """Print one object, its documents one a line as they are found, so that none is held."""
    print(json.dumps(title)[:-1] + ', "spans": ' + json.dumps([_span_as_json(span) for span in spans]) + ",")
    print(' "documents": [', end="")
    separator = "\n  "
    for document in _named_documents(reader, limit):
        print(separator + json.dumps(document), end="")
        separator = ",\n  "
    print('],\n "sources": ' + json.dumps([asdict(count) for count in reader.counts]) + "}")


def _span_as_json(span: Span) -> dict[str, object]:
    return {
        "phase": span.phase.name,
        "first_step": span.first_step,
        "stop_step": span.stop_step,
        "first_position": span.positions.start,
        "stop_position": span.positions.stop,
    }


def _print_text(spans: list[Span], reader: SpanReader, limit: int | None) -> None:
    named = 0
    for document in _named_documents(reader, limit):
        if not named:
            print("  first read: phase, step, position, source, document")
        named += 1
        print("  {phase}  {step:>9,}  {position:>12,}  {source}  {document}".format(**document))
    total = sum(count.documents for count in reader.counts)
    if total > named:
        print(f"  and {total - named:,} more; --limit N names more, --all names all")
    for span in spans:
        at = span.positions
        print(
            f"phase {span.phase.name}: steps {span.first_step:,}..{span.stop_step - 1:,}, "
            f"positions {at.start:,}..{at.stop - 1:,}"
        )
    for count in reader.counts:
        print(
            f"{count.source}: {count.documents:,} documents in {count.sequences:,} sequences, "
            f"{count.tokens:,} content tokens ({format_count(count.tokens)})"
        )
    print(f"in all: {total:,} documents, {sum(count.tokens for count in reader.counts):,} content tokens")
