"""The verbs `data show` and `data cat`: what a recipe's data is, and one document of it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from seqpair.cli.data_merge import merge
from seqpair.cli.plan import RecipeArgument, SetOption
from seqpair.errors import StoreError

if TYPE_CHECKING:
    from seqpair.data.prepared import Prepared
    from seqpair.data.store.store import Store

data_app = typer.Typer(
    help="Look at a recipe's data: sources, mixture, documents; put the shards of many jobs together.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@data_app.command()
def show(
    recipe: RecipeArgument,
    overrides: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Print the tree of a recipe's data: each source in numbers, and what each phase reads of it.

    Works at once on prepared stores, however large. Where they are not prepared, what the files on disk let one
    guess is shown and marked. A source that is read more than four times gets a warning.

    Example: seqpair data show demo
    """
    from seqpair.cli.data_tree import show_overview
    from seqpair.data.prepare.overview import overview_of
    from seqpair.recipe.load import load_recipe

    overview = overview_of(load_recipe(recipe, overrides or ()))
    if as_json:
        print(json.dumps(asdict(overview), indent=1))
    else:
        show_overview(overview)


@data_app.command()
def cat(
    recipe: RecipeArgument,
    document: Annotated[str, typer.Argument(metavar="ID", help="The document's id.")],
    source: Annotated[str, typer.Option(help="Look in this source only.")] = "",
    tokens: Annotated[bool, typer.Option("--tokens", help="Print the token ids instead of the text.")] = False,
    overrides: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print text, ids and where it lies as JSON.")] = False,
) -> None:
    """Print one document as the models read it: the text of its tokens, from the store.

    Held-out documents are found too. The text goes to standard output without anything around it.

    Example: seqpair data cat demo json/decoder.py --source code
    """
    from seqpair.data.prepared import open_recipe_data
    from seqpair.data.store.text_search import document_text
    from seqpair.recipe.load import load_recipe

    prepared = open_recipe_data(load_recipe(recipe, overrides or ()))
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


data_app.command()(merge)


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
