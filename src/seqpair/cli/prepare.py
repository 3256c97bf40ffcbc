"""The verb `prepare`: from a recipe's sources to stores, once.

Owns the table. Must not know how a store is made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqpair.units import format_bytes, format_count

if TYPE_CHECKING:
    from seqpair.data.prepare import PreparationStep, Prepared


def prepare(
    recipe: Annotated[str, typer.Argument(help="A preset's name or a recipe file.")],
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change a key: `a.b=c`; repeatable.")] = None,
    verify: Annotated[bool, typer.Option(help="Also hash the files of stores that are already there.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would be made, and stop.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
) -> None:
    """Tokenize a recipe's sources into stores; what is there already is kept.

    A tokenizer is trained first if the recipe names none. Progress goes to standard error.

    Example: seqpair prepare demo --set data.stores=/tmp/stores
    """
    from seqpair.data.prepare import plan_preparation
    from seqpair.data.prepare import prepare as make
    from seqpair.recipe.load import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    data, stores = loaded.data, Path(loaded.data.stores)
    if dry_run:
        steps = plan_preparation(data.sources, data.tokenizer, stores, recipe_folder=loaded.folder)
        _show_steps(steps, as_json=as_json)
        return
    prepared = make(data.sources, data.tokenizer, stores, recipe_folder=loaded.folder, verify=verify)
    if as_json:
        print(json.dumps(_as_json(prepared), indent=1))
    else:
        _show(prepared)


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
    from rich.table import Table

    from seqpair.cli.plan import wide_console

    table = Table(
        title=f"tokenizer: {prepared.tokenizer.entries:,} entries, padded to {prepared.tokenizer.vocab_size:,}",
        title_justify="left",
        box=None,
    )
    for heading in ("source", "documents", "held out", "tokens", "held out", "bytes/token", "refused", "folder"):
        table.add_column(heading, justify="left" if heading in ("source", "refused", "folder") else "right")
    for name, store in prepared.train.items():
        train = store.manifest
        held_out = prepared.held_out[name].manifest if name in prepared.held_out else None
        refused = ", ".join(f"{count:,} {reason}" for reason, count in train.rejected.items())
        table.add_row(
            name,
            f"{train.documents:,}",
            f"{held_out.documents:,}" if held_out else "0",
            format_count(train.tokens),
            format_count(held_out.tokens) if held_out else "0",
            f"{train.text_bytes / train.tokens:.3f}",
            refused or "none",
            str(store.folder.parent),
        )
    wide_console().print(table)


def _show_steps(steps: list[PreparationStep], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([vars(step) for step in steps], indent=1))
        return
    for step in steps:
        what = f"source {step.source}: {step.files:,} files, {format_bytes(step.bytes)}" if step.source else "tokenizer"
        state = "ready in" if step.ready else "would be made in"
        print(f"{what}: {state} {step.folder or '(a folder named after the tokenizer, which is to be trained first)'}")
