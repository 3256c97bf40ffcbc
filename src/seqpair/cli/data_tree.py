"""The tree of `data show`: sources with their numbers and lengths, then each phase's table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqpair.cli.order_tables import counted, print_table
from seqpair.data.order.repetition import MOST_EPOCHS
from seqpair.text import format_bytes, format_count

if TYPE_CHECKING:
    from seqpair.data.order.repetition import SourceReading
    from seqpair.data.prepare.overview import DataOverview, LengthBin, PhaseOverview, SourceOverview

_BAR_LETTERS = 40


def show_overview(overview: DataOverview) -> None:
    """Print everything; warnings come last, where they are seen."""
    sources = overview.sources
    mark = "" if not overview.estimated else " (not prepared: what follows is a guess from the files on disk)"
    print(f"{overview.study}: {counted(len(sources), 'source')}{_totals(sources)}{mark}")
    for source in sources:
        print()
        _show_source(source)
    for phase in overview.phases:
        print()
        _show_phase(phase, estimated=overview.estimated)
    lines = [*(f"note: {note}" for note in overview.notes), *(f"warning: {text}" for text in overview.warnings)]
    if overview.estimated:
        lines.append("note: `seqpair prepare` with this recipe counts what is guessed here")
    for line in ["", *lines] if lines else ():
        print(line)


def _totals(sources: tuple[SourceOverview, ...]) -> str:
    if not sources or not all(source.prepared for source in sources):
        return ""
    documents = sum(source.documents or 0 for source in sources)
    tokens, text_bytes = (sum(getattr(source, name) or 0 for source in sources) for name in ("tokens", "text_bytes"))
    return f", {counted(documents, 'document')}, {format_count(tokens)} tokens, {format_bytes(text_bytes)} of text"


def _show_source(source: SourceOverview) -> None:
    kind = f"{source.kind} {source.part}" if source.part else source.kind
    if not source.prepared:
        print(f"{source.name} ({kind}), not prepared")
        if source.files is not None:
            tokens = f", about {format_count(source.tokens)} tokens at {source.bytes_per_token:g} bytes each"
            files = f"{counted(source.files, 'file')}, {format_bytes(source.disk_bytes or 0)}"
            print(f"  {files}{tokens if source.tokens else ''}")
        if source.problem:
            print(f"  {source.problem}")
        return
    print(f"{source.name} ({kind}) in {source.folder}")
    documents, tokens = source.documents or 0, source.tokens or 0
    ratio = f", {source.bytes_per_token:.2f} bytes a token" if source.bytes_per_token is not None else ""
    size = f"{format_count(tokens)} tokens, {format_bytes(source.text_bytes or 0)}{ratio}"
    print(f"  {counted(documents, 'document')}, {size}")
    held_out = (
        f"{counted(source.held_out_documents or 0, 'document')}, {format_count(source.held_out_tokens or 0)} tokens"
    )
    print(f"  held out: {held_out} ({100 * source.held_out_frac:g} % asked for)")
    refused = (
        f"{count:,} x {reason} (first: {source.rejected_examples.get(reason, '?')})"
        for reason, count in source.rejected.items()
    )
    print(f"  refused: {'; '.join(refused) or 'nothing'}")
    if documents:
        print(f"  lengths in tokens: mean {tokens / documents:,.0f}, longest {source.longest_tokens:,}")
        _show_lengths(source.lengths, documents, tokens)


def _show_lengths(lengths: tuple[LengthBin, ...], documents: int, tokens: int) -> None:
    """Draw a bar for each bin, the largest as wide as there is room."""
    most = max(item.documents for item in lengths)
    rows = [
        (
            f"{item.low:,}-{item.high:,}" if item.high > item.low else f"{item.low:,}",
            item.documents,
            f"{100 * item.documents / documents:.1f} %",
            f"{100 * item.tokens / tokens if tokens else 0.0:.1f} %",
            "#" * max(1 if item.documents else 0, round(_BAR_LETTERS * item.documents / most)),
        )
        for item in lengths
    ]
    print_table(("length", "documents", "of them", "of tokens", ""), rows, right=(0, 2, 3))


def _show_phase(phase: PhaseOverview, *, estimated: bool) -> None:
    about = "about " if estimated else ""
    print(
        f"phase {phase.name} ({', '.join(phase.members)}): {about}{format_count(phase.tokens)} tokens in "
        f"{about}{phase.sequences:,} sequences of at most {phase.seq_len:,}, {about}{phase.steps:,} steps"
    )
    print_table(
        ("source", "asked for", "comes out", "tokens", "sequences", "epochs", ""),
        [_cells(item, estimated=estimated) for item in phase.sources],
        right=range(1, 6),
    )


def _cells(item: SourceReading, *, estimated: bool) -> tuple[str, ...]:
    asked = f"{100 * item.asked_share:.2f} %" if item.asked_share is not None else f"{item.asked_epochs:g} epochs"
    about = "~" if estimated else ""
    return (
        item.source,
        asked,
        "?" if item.share is None or estimated else f"{100 * item.share:.2f} %",
        "?" if item.tokens is None else about + format_count(item.tokens),
        "?" if item.sequences is None else f"{item.sequences:,}",
        "?" if item.epochs is None else f"{about}{item.epochs:.2f}",
        f"<- more than {MOST_EPOCHS:g}" if item.epochs is not None and item.epochs > MOST_EPOCHS else "",
    )
