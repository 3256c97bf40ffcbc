"""The verb `prepare`: from a study's sources to stores, once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqpair.cli.options import DryRunOption, JsonOption, SetOption, StudyArgument, require_text
from seqpair.cli.table import print_table
from seqpair.text import format_bytes, format_count

if TYPE_CHECKING:
    from seqpair.data.prepare.preparation import PreparationStep, ShardOutcome
    from seqpair.data.prepared import Prepared


def prepare(
    study: StudyArgument,
    overrides: SetOption = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Number of processes; by default one per four cores.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Make only the parts of job I of N; `seqpair data merge` completes them."),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Also check the SHA-256 of stores that exist.")] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Tokenize a study's sources into stores, and train its tokenizer first if the recipe names none.

    Stores that exist are kept. Repeat the command after any interruption: finished parts are used, and the stores are
    the same to the byte. Progress goes to standard error.

    Example: seqpair prepare demo --set data.stores=elsewhere
    """
    from seqpair.data.prepare.build import Shard
    from seqpair.data.prepare.preparation import plan_preparation, prepare_shard
    from seqpair.data.prepare.preparation import prepare as make
    from seqpair.data.prepare.workers import default_workers
    from seqpair.suite.places import find_study

    require_text(shard, "--shard")
    place = find_study(study, overrides or ())
    data, folder = place.data, place.source_folder
    stores = Path(data.stores)
    count = workers or default_workers()
    if dry_run:
        steps = plan_preparation(data.sources, data.tokenizer, stores, recipe_folder=folder)
        show_steps(steps, as_json=as_json)
    elif shard is not None:
        job = Shard.parse(shard)
        outcomes = prepare_shard(data.sources, data.tokenizer, stores, job, recipe_folder=folder, workers=count)
        _show_shard(outcomes, shard, as_json=as_json)
    else:
        prepared = make(data.sources, data.tokenizer, stores, recipe_folder=folder, verify=verify, workers=count)
        show_prepared(prepared, as_json=as_json)


def show_prepared(prepared: Prepared, *, as_json: bool) -> None:
    """Print the stores of a recipe, as a table or as JSON."""
    if as_json:
        print(json.dumps(_as_json(prepared), indent=1))
    else:
        _show(prepared)


def _show_shard(outcomes: list[ShardOutcome], shard: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([vars(outcome) for outcome in outcomes], indent=1))
        return
    for outcome in outcomes:
        if outcome.folder:
            state = f"shard {shard} has made {outcome.parts} of {outcome.all_parts} parts in {outcome.folder}"
        else:
            state = "its store is there already"
        print(f"source {outcome.source}: {state}")
    print("when every shard is done: seqpair data merge")


def _as_json(prepared: Prepared) -> dict[str, object]:
    tokenizer = prepared.tokenizer
    return {
        "tokenizer": {
            "digest": tokenizer.digest,
            "entries": tokenizer.entries,
            "vocab_size": tokenizer.vocab_size,
        },
        "sources": {
            name: {
                split: {"folder": str(store.folder), **store.manifest.model_dump(mode="json", exclude={"files"})}
                for split, store in (("train", train), ("held_out", prepared.held_out.get(name)))
                if store is not None
            }
            for name, train in prepared.train.items()
        },
    }


def _show(prepared: Prepared) -> None:
    rows = []
    for name, store in prepared.train.items():
        train = store.manifest
        held_out = prepared.held_out[name].manifest if name in prepared.held_out else None
        refused, removed = (
            "\n".join(f"{count:,} {reason}" for reason, count in counts.items()) or "none"
            for counts in (train.rejected, train.removed)
        )
        rows.append(
            (
                name,
                train.documents,
                held_out.documents if held_out else 0,
                format_count(train.tokens),
                format_count(held_out.tokens) if held_out else "0",
                f"{train.text_bytes / train.tokens:.3f}",
                refused,
                removed,
                store.folder.parent,
            )
        )
    title = f"tokenizer: {prepared.tokenizer.entries:,} entries, padded to {prepared.tokenizer.vocab_size:,}"
    headings = ("source", "documents", "held out", "tokens", "held out", "bytes/token", "refused", "removed", "folder")
    print_table(headings, rows, right=(3, 4, 5), fold=(6, 7, 8), title=title, indent=0)


def show_steps(steps: list[PreparationStep], *, as_json: bool) -> None:
    """Print what would be made."""
    if as_json:
        print(json.dumps([vars(step) for step in steps], indent=1))
        return
    for step in steps:
        what = f"source {step.source}: {step.files:,} files, {format_bytes(step.bytes)}" if step.source else "tokenizer"
        state = "ready in" if step.ready else "would be made in"
        print(f"{what}: {state} {step.folder or '(a folder named after the tokenizer, which is to be trained first)'}")
