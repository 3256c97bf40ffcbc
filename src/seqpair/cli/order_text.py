"""The question `order --text`: which documents hold a string, and when were they read?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from seqpair.cli.order_tables import counted, show_readings
from seqpair.text import Progress, format_bytes

if TYPE_CHECKING:
    from seqpair.data.order.lookup import DocumentTrace
    from seqpair.data.prepared import Prepared
    from seqpair.data.store.store import Store
    from seqpair.data.store.text_search import TextHit, TextSearch
    from seqpair.recipe.plan import PhasePlan, Plan

_SHOWN_READINGS = 5


@dataclass(frozen=True)
class Wanted:
    """What to look for: a text, in one source or in all (empty), until `limit` documents are found."""

    text: str
    source: str
    limit: int | None
    ignore_case: bool


@dataclass(frozen=True)
class FoundDocument:
    """A document that holds the text.

    Attributes:
        source, split, document: Which one.
        hit: The first place of the text in it.
        spans: The tokens of each place, from 0 in the document.
        trace: The readings of the pieces that hold the text; None if it is held out, because no step reads it.
    """

    source: str
    split: str
    document: str
    hit: TextHit
    spans: list[range]
    trace: DocumentTrace | None


def show_text(wanted: Wanted, plan: Plan, phases: list[PhasePlan], prepared: Prepared, *, as_json: bool) -> None:
    """Search the stores and print each document that holds the text, with its readings.

    Raises:
        RecipeError: The recipe has no such source.
        DataError: The text is empty.
    """
    from seqpair.data.order.lookup import Tracer, searched_sources
    from seqpair.data.store.text_search import TextSearch

    search = TextSearch(prepared.tokenizer, wanted.text, ignore_case=wanted.ignore_case)
    sources = searched_sources(wanted.source, prepared)
    stores = [(name, split[name]) for split in (prepared.train, prepared.held_out) for name in sources if name in split]
    tracer = Tracer(plan, phases, prepared)
    found = []
    total_bytes = sum(store.manifest.text_bytes for _, store in stores)
    for name, store, hit in _hits(search, stores, total_bytes, wanted.limit):
        split = store.manifest.split
        spans = search.spans_in(store, hit.row)
        trace = tracer.trace(name, hit.row, spans) if split == "train" else None
        found.append(FoundDocument(name, split, store.document_id(hit.row), hit, spans, trace))
    complete = wanted.limit is None or len(found) < wanted.limit
    if as_json:
        searched = {"scanned_bytes": search.scanned_bytes, "total_bytes": total_bytes, "complete": complete}
        documents = [_as_json(item) for item in found]
        asked = {"text": wanted.text, "ignore_case": wanted.ignore_case, "sources": sources}
        print(json.dumps({**asked, **searched, "documents": documents}, indent=1))
        return
    _show(found, phases)
    documents = counted(len(found), "document") if found else "no document"
    place = f"{format_bytes(search.scanned_bytes)} of {format_bytes(total_bytes)} in {', '.join(sources)} searched"
    print(f"{documents} {'holds' if len(found) <= 1 else 'hold'} {wanted.text!r}; {place}")
    if not complete:
        print(f"stopped at --limit {wanted.limit}: there may be more; --limit N goes further, --all to the end")


def _hits(
    search: TextSearch, stores: list[tuple[str, Store]], total_bytes: int, limit: int | None
) -> Iterator[tuple[str, Store, TextHit]]:
    """Yield the documents found, store after store, and show how far the search has come."""
    progress = Progress("searching", total_bytes / 1e6, "MB")
    found = 0
    for name, store in stores:
        for hit in search.find(store):
            progress.update(search.scanned_bytes / 1e6, f"{found} found")
            if hit is None:
                continue
            found += 1
            yield name, store, hit
            if found == limit:
                progress.finish(f"{found} found, stopped there")
                return
    progress.finish(f"{found} found")


def _as_json(item: FoundDocument) -> dict[str, object]:
    hit, trace = item.hit, item.trace
    return {
        "source": item.source,
        "split": item.split,
        "document": item.document,
        "before": hit.before,
        "match": hit.match,
        "after": hit.after,
        "places": [[span.start, span.stop] for span in item.spans],
        "tokens": trace.tokens if trace else None,
        "pieces": trace.pieces if trace else {},
        "readings": [asdict(reading) for reading in trace.readings] if trace else [],
        "seen_by": [asdict(seen) for seen in trace.seen_by] if trace else [],
    }


def _show(found: list[FoundDocument], phases: list[PhasePlan]) -> None:
    for item in found:
        print(f"{item.document} in {item.source}: holds it {counted(len(item.spans), 'time')}")
        print("  ... " + " ".join(f"{item.hit.before}[[{item.hit.match}]]{item.hit.after}".split()) + " ...")
        if item.trace is None:
            print("  held out for evaluation: no step reads it, so no checkpoint has seen it")
        else:
            _show_pieces(item.trace)
            show_readings(item.trace, phases, _SHOWN_READINGS)
        print()


def _show_pieces(trace: DocumentTrace) -> None:
    """Say which pieces of the document hold the text; the readings that follow are theirs."""
    for phase, count in trace.pieces.items():
        held = sorted({reading.piece + 1 for reading in trace.readings if reading.phase == phase})
        if held and count > 1:
            which = f"piece {held[0]}" if len(held) == 1 else "pieces " + ", ".join(map(str, held))
            print(f"  in {which} of {count} in phase {phase}")
