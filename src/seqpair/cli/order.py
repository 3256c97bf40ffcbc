"""The verb `order`: which documents a step contains, when documents are read and who saw them, or all of it as a file.

Steps, positions, pieces and epochs count from 0, as in Python, JSON and Parquet. Imports no torch.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seqpair.cli.options import JsonOption, SetOption, StudyArgument, not_empty, require_text
from seqpair.cli.table import counted, print_table
from seqpair.errors import DataError, RecipeError, StoreError
from seqpair.text import Progress, checked_text, format_bytes, printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from seqpair.data.order.lookup import DocumentTrace, StepContent
    from seqpair.data.prepared import Prepared
    from seqpair.data.store.store import Store
    from seqpair.data.store.text_search import TextHit, TextSearch
    from seqpair.recipe.plan import PhasePlan, Plan
    from seqpair.suite.places import StudyPlace

_SHOWN_READINGS = 20
_SHOWN_READINGS_OF_A_TEXT = 5
TextOption = Annotated[
    str | None, typer.Option(help="Find the documents that contain this text, and show when each is read.")
]
PlanOfOption = Annotated[
    str, typer.Option("--member", help="Use this member's plan; by default the first member's.", callback=not_empty)
]
IgnoreCaseOption = Annotated[
    bool, typer.Option("--ignore-case", "-i", help="With --text: treat upper and lower case alike.")
]
PublishedOption = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="With --text or --document: search the published order.")
]


def order(
    study: StudyArgument,
    step: Annotated[int | None, typer.Option(help="Show this step's documents; steps of a phase count from 0.")] = None,
    document: Annotated[str | None, typer.Option(help="Show when the document of this id is read.")] = None,
    text: TextOption = None,
    export: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the whole order to FILE.parquet.")] = None,
    phase: Annotated[str, typer.Option(help="Use only this phase.")] = "",
    source: Annotated[str, typer.Option(help="Search for documents in this source only.")] = "",
    member: PlanOfOption = "",
    ignore_case: IgnoreCaseOption = False,
    limit: Annotated[int, typer.Option(min=1, help="With --text: stop after this many documents.")] = 20,
    search_all: Annotated[bool, typer.Option("--all", help="With --text: find all documents.")] = False,
    published: PublishedOption = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which documents a step contains, when a document or a text is read and by whom, or write the whole order.

    The order is computed from the plan and the prepared stores, not read from a log, so nothing has to be trained. All
    members that train from scratch share it.

    Example: seqpair order demo --step 12

    Example: seqpair order demo --document json/decoder.py --json

    With --text the stores are searched, held-out documents included: has a model seen this sentence, and when?

    Example: seqpair order demo --text "raise NotImplementedError" --limit 5

    With --export a Parquet file gets one row per training position: phase, step, position, source, document, piece,
    epoch, and the first planned checkpoint that has seen it.

    Example: seqpair order demo --export order.parquet
    """
    from seqpair.data.order.lookup import step_content, trace_document
    from seqpair.suite.places import find_study

    with_text = {"--ignore-case": ignore_case, "--all": search_all, "--source": source and document is None}
    _check_options(step, document, text, export, with_text)
    place = find_study(study, overrides or ())
    if published is not None:
        _show_published(published, place, text, document, source, None if search_all else limit, as_json=as_json)
        return
    prepared = place.open_data()
    plan = place.plan(member or place.members[0])
    phases = _chosen_phases(plan, phase)
    if export is not None:
        _export(plan, phases, prepared, export, as_json=as_json)
    elif text is not None:
        wanted = Wanted(text, source, None if search_all else limit, ignore_case=ignore_case)
        _show_text(wanted, plan, phases, prepared, as_json=as_json)
    elif step is not None:
        content = step_content(plan, _one_phase(phases), step, prepared)
        print(json.dumps(asdict(content), indent=1)) if as_json else _show_step(content)
    else:
        traces = trace_document(plan, phases, str(document), source, prepared)
        found = {"documents": [asdict(trace) for trace in traces]}
        print(json.dumps(found, indent=1)) if as_json else _show_traces(traces, phases)


def _check_options(
    step: int | None, document: str | None, text: str | None, export: Path | None, with_text: dict[str, object]
) -> None:
    """Check that one thing is asked for, and that no option that only `--text` uses is given without it."""
    asked = {"--step": step, "--document": document, "--text": text, "--export": export}
    given = [option for option, value in asked.items() if value is not None]
    if len(given) != 1:
        raise RecipeError(
            "order was asked for more or fewer things than one",
            seen=" and ".join(given) or f"none of {', '.join(asked)}",
            allowed="one of them",
            fix='seqpair order RECIPE --step 12, or --document ID, or --text "some words", or --export FILE.parquet',
        )
    require_text(document, "--document")
    idle = [option for option, value in with_text.items() if value]
    if text is not None:
        checked_text(text, "--text")
    elif idle:
        raise RecipeError(f"{idle[0]} has no effect here", seen=" ".join(idle), fix="leave it out")


def _show_published(
    folder: Path,
    place: StudyPlace,
    text: str | None,
    document: str | None,
    source: str,
    limit: int | None,
    *,
    as_json: bool,
) -> None:
    """Search the downloaded order of the original's runs, for a text or for a document of the study.

    Raises:
        RecipeError: Neither was asked for.
        DataError: The folder is no such order, or no source has the document.
    """
    from seqpair.data.order.lookup import searched_sources
    from seqpair.data.order.published import search_published
    from seqpair.data.prepare.study_tokenizer import loaded_tokenizer
    from seqpair.data.tokenizer.tokenizer import Tokenizer

    if (text is None) == (document is None):
        raise RecipeError(
            "--published was given without a text or a document to search for", fix="add --text or --document"
        )
    spec, ids = place.data.tokenizer, None
    if document is None and spec.path is not None:
        tokenizer: Tokenizer = loaded_tokenizer(spec.path, spec.pad_vocab_to)  # the stores need not be prepared
    else:
        prepared = place.open_data()
        tokenizer = prepared.tokenizer
        stores = [prepared.train[name] for name in searched_sources(source, prepared) if name in prepared.train]
        ids = None if document is None else _tokens_of(stores, document)
    progress = Progress("searching", 0, "files")
    found = search_published(folder, tokenizer, text or "", ids, lambda done, files: progress.update(done))
    rows = list(itertools.islice(found, limit))
    progress.finish(f"{len(rows)} found")
    if as_json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return
    print_table(
        ("phase", "step", "file", "row", "tokens", "text"),
        [(row.phase, row.step, row.file, row.row, row.tokens, printable(" ".join(row.shown.split()))) for row in rows],
    )
    print(
        f"{counted(len(rows), 'row')}; by its card the published order does not correspond exactly to the batches used"
    )


def _tokens_of(stores: Sequence[Store], document: str) -> NDArray[np.integer[Any]]:
    for store in stores:
        with contextlib.suppress(StoreError):
            return store.document_tokens(store.row_of(document))
    raise DataError("no training store has this document", seen=document, fix="check the id, or name the source")


def _export(plan: Plan, phases: list[PhasePlan], prepared: Prepared, out: Path, *, as_json: bool) -> None:
    from seqpair.data.order.export import export_order
    from seqpair.data.order.spans import Span

    spans = [Span(phase, 0, phase.steps) for phase in phases]
    written = export_order(plan, spans, prepared.train, out)
    if as_json:
        print(json.dumps({"path": str(written.path), "rows": written.rows, "bytes": written.bytes}))
    else:
        names = ", ".join(phase.name for phase in phases)
        print(f"{written.path}: {written.rows:,} rows ({names}), {format_bytes(written.bytes)}")


def _chosen_phases(plan: Plan, name: str) -> list[PhasePlan]:
    chosen = [phase for phase in plan.phases if name in ("", phase.name)]
    if not chosen:
        raise RecipeError(
            "the plan has no such phase", seen=name, allowed=", ".join(phase.name for phase in plan.phases)
        )
    return chosen


def _one_phase(phases: list[PhasePlan]) -> PhasePlan:
    if len(phases) > 1:
        raise RecipeError(
            "the step was given without its phase, and each phase counts its steps from 0",
            seen="no --phase",
            allowed=", ".join(phase.name for phase in phases),
            fix="add --phase NAME",
        )
    return phases[0]


def _show_step(content: StepContent) -> None:
    """Print what a step holds."""
    first, last = content.sequences[0].position, content.sequences[-1].position
    print(
        f"{content.study}, phase {content.phase}, step {content.step} of 0..{content.steps - 1}: positions "
        f"{first:,}..{last:,}, {content.content_tokens:,} content tokens, digest {content.batch_digest[:16]}"
    )
    print("mixture of a round: " + ", ".join(f"{name} {100 * part:.2f} %" for name, part in content.mixture.items()))
    print_table(
        ("position", "source", "document", "piece", "tokens", "epoch"),
        [
            (
                item.position,
                item.source,
                item.document,
                f"{item.piece} of 0..{item.pieces - 1}",
                item.tokens,
                item.epoch,
            )
            for item in content.sequences
        ],
    )


def _show_traces(traces: list[DocumentTrace], phases: list[PhasePlan]) -> None:
    """Print when each document is read, and by which checkpoints it was seen."""
    for trace in traces:
        pieces = ", ".join(f"{count} in phase {name}" for name, count in trace.pieces.items()) or "in no phase"
        print(printable(trace.document) + f" in {trace.source}: {trace.tokens:,} tokens, sequences: {pieces}")
        _show_readings(trace, phases, _SHOWN_READINGS)


def _show_readings(trace: DocumentTrace, phases: list[PhasePlan], most: int) -> None:
    """Print a document's readings, at most `most` of them one by one, and the checkpoints that saw it."""
    if not trace.readings and not trace.seen_by:
        print("  no step of this plan reads it, so no checkpoint has seen it")
        return
    if trace.readings:
        first, last = trace.readings[0], trace.readings[-1]
        times = "once, in" if len(trace.readings) == 1 else f"{len(trace.readings)} times, first in"
        later = "" if len(trace.readings) == 1 else f", last in phase {last.phase} step {last.step}"
        print(f"  read {times} phase {first.phase} step {first.step}{later}")
    shown = trace.readings[:most]
    if shown:
        print_table(
            ("phase", "step", "position", "piece", "epoch"),
            [(item.phase, item.step, item.position, item.piece, item.epoch) for item in shown],
        )
    if shown and len(trace.readings) > len(shown):
        print(f"  and {len(trace.readings) - len(shown)} more; --json lists all")
    planned = sum(len(phase.checkpoint_steps) for phase in phases)
    names = ", ".join(f"{item.checkpoint} ({item.sequences_read})" for item in trace.seen_by) or "none"
    print(f"  seen by {len(trace.seen_by)} of {planned} checkpoints (sequences read before each): {names}")


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


def _show_text(wanted: Wanted, plan: Plan, phases: list[PhasePlan], prepared: Prepared, *, as_json: bool) -> None:
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
        documents = [_found_as_json(item) for item in found]
        asked = {"text": wanted.text, "ignore_case": wanted.ignore_case, "sources": sources}
        print(json.dumps({**asked, **searched, "documents": documents}, indent=1))
        return
    _show_found(found, phases)
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


def _found_as_json(item: FoundDocument) -> dict[str, object]:
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


def _show_found(found: list[FoundDocument], phases: list[PhasePlan]) -> None:
    for item in found:
        print(printable(item.document) + f" in {item.source}: holds it {counted(len(item.spans), 'time')}")
        print("  ... " + printable(" ".join(f"{item.hit.before}[[{item.hit.match}]]{item.hit.after}".split())) + " ...")
        if item.trace is None:
            print("  held out for evaluation: no step reads it, so no checkpoint has seen it")
        else:
            _show_pieces(item.trace)
            _show_readings(item.trace, phases, _SHOWN_READINGS_OF_A_TEXT)
        print()


def _show_pieces(trace: DocumentTrace) -> None:
    """Say which pieces of the document hold the text; the readings that follow are theirs."""
    for phase, count in trace.pieces.items():
        held = sorted({reading.piece for reading in trace.readings if reading.phase == phase})
        if held and count > 1:
            which = f"piece {held[0]}" if len(held) == 1 else "pieces " + ", ".join(map(str, held))
            print(f"  in {which} of 0..{count - 1} in phase {phase}")
