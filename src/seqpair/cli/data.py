"""The verbs `data show`, `data cat` and `data merge`: what a study's data is, one document of it, and its shards."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqpair.cli.options import DryRunOption, JsonOption, SetOption, StudyArgument
from seqpair.cli.table import counted, print_table
from seqpair.errors import StoreError
from seqpair.text import format_bytes, format_count

if TYPE_CHECKING:
    from seqpair.data.order.mixture import SourceReading
    from seqpair.data.prepare.overview import DataOverview, LengthBin, PhaseOverview, SourceOverview
    from seqpair.data.prepared import Prepared
    from seqpair.data.store.store import Store

_BAR_LETTERS = 40

data_app = typer.Typer(
    help="Show a study's data and its documents, and merge shards that several jobs prepared.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@data_app.command()
def show(study: StudyArgument, overrides: SetOption = None, as_json: JsonOption = False) -> None:
    """Print the sources of a study in numbers, and what each phase reads of them.

    The numbers come from the prepared stores. Where the sources are not prepared, the numbers are estimated from the
    files on disk and marked. A source that is read more than four times gets a warning.

    Example: seqpair data show demo
    """
    from seqpair.data.prepare.overview import overview_of
    from seqpair.suite.places import find_study

    place = find_study(study, overrides or ())
    plans = list(place.plans().values())
    overview = overview_of(place.name, place.data, plans, place.counts(), place.source_folder)
    if as_json:
        print(json.dumps(asdict(overview), indent=1))
    else:
        _show_overview(overview)


@data_app.command()
def cat(
    study: StudyArgument,
    document: Annotated[str, typer.Argument(metavar="ID", help="The document's id.")],
    source: Annotated[str, typer.Option(help="Search in this source only.")] = "",
    tokens: Annotated[bool, typer.Option("--tokens", help="Print the token ids instead of the text.")] = False,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print one document as the models read it: the text of its tokens, from the store.

    Held-out documents are found too. Only the text goes to standard output.

    Example: seqpair data cat demo json/decoder.py --source code
    """
    from seqpair.data.store.text_search import document_text
    from seqpair.suite.places import find_study

    prepared = find_study(study, overrides or ()).open_data()
    name, store, row = _the_one(document, source, prepared)
    ids = store.document_tokens(row).tolist()
    text = document_text(prepared.tokenizer, store, row)
    if as_json:
        place = {"source": name, "split": store.manifest.split, "document": document, "row": row}
        print(json.dumps({**place, "tokens": len(ids), "ids": ids, "text": text}))
    elif tokens:
        print(" ".join(map(str, ids)))
    else:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")


@data_app.command()
def merge(
    study: StudyArgument,
    shard_folders: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="FOLDER", help="A folder of stores that a shard wrote elsewhere; repeatable."),
    ] = None,
    overrides: SetOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Merge the parts that `seqpair prepare --shard` wrote into complete stores; nothing is tokenized again.

    The stores go to the recipe's `data.stores`. Shards that ran in that folder are found there. Name the folders of
    other shards with --from; they stay as they are. The stores are the same to the byte as those of one job.

    Example: seqpair data merge demo --from job1/stores --from job2/stores
    """
    from seqpair.cli.prepare import show_prepared, show_steps
    from seqpair.data.prepare.preparation import merge_shards, plan_preparation
    from seqpair.suite.places import find_study

    place = find_study(study, overrides or ())
    data, folder = place.data, place.source_folder
    stores = Path(data.stores)
    if dry_run:
        steps = plan_preparation(data.sources, data.tokenizer, stores, recipe_folder=folder)
        show_steps(steps, as_json=as_json)
        return
    prepared = merge_shards(data.sources, data.tokenizer, stores, shard_folders or (), recipe_folder=folder)
    show_prepared(prepared, as_json=as_json)


def _the_one(document: str, source: str, prepared: Prepared) -> tuple[str, Store, int]:
    """Return the source, store and row of the one document of this id.

    Raises:
        RecipeError: There is no such source.
        StoreError: No store has the document, or several have.
    """
    from seqpair.data.order.lookup import find_document, searched_sources

    searched = searched_sources(source, prepared)
    found = [
        (name, stores[name], row)
        for stores in (prepared.train, prepared.held_out)
        for name, row in find_document(document, searched, stores).items()
    ]
    if len(found) == 1:
        return found[0]
    if found:
        places = "; ".join(
            f"{name} ({store.manifest.split}, {store.document_tokens(row).size:,} tokens)" for name, store, row in found
        )
        raise StoreError(
            "several sources have a document of this id",
            seen=f"{document!r} in {places}",
            fix=f"add --source {found[0][0]}",
        )
    examples = (f"in {name}: {prepared.train[name].document_id(0)!r}, ..." for name in searched)
    raise StoreError(
        "no store has a document of this id",
        seen=f"{document!r}, looked for in {', '.join(searched)}, training and held-out",
        allowed="; ".join(examples),
        fix="`seqpair order RECIPE --step 0` shows ids; `seqpair order RECIPE --text WORDS` finds documents",
    )


def _show_overview(overview: DataOverview) -> None:
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
    from seqpair.data.order.mixture import MOST_EPOCHS

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
