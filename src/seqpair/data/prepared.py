"""What preparation made of a recipe's data section, opened for reading.

Training, evaluation and the commands open data through this file and need nothing of how it was prepared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqpair.data.store.manifest import PreparedIndex, Split, index_path, read_index
from seqpair.data.store.store import Store
from seqpair.data.tokenizer.tokenizer import Tokenizer, load_tokenizer
from seqpair.errors import StoreError
from seqpair.recipe.data_spec import SourceSpec, TokenizerSpec, require_paths
from seqpair.recipe.plan import Plan
from seqpair.recipe.schema import Recipe


@dataclass
class Prepared:
    """A recipe's data, ready to train on.

    Attributes:
        tokenizer: The study's tokenizer.
        train: The training store of every source.
        held_out: The held-out store of every source that has one document or more held out.
    """

    tokenizer: Tokenizer
    train: dict[str, Store]
    held_out: dict[str, Store]


def open_prepared(
    sources: Sequence[SourceSpec], tokenizer: TokenizerSpec, store_folder: Path, *, verify: bool = False
) -> Prepared:
    """Open what `prepare` made for this data section; the sources themselves are not looked at.

    Raises:
        DataError: It was never prepared here, and sources have no paths to prepare it from.
        StoreError: It was never prepared here, or a store is missing, changed or made with another
            tokenizer.
    """
    index = read_index(sources, tokenizer, store_folder)
    if index is None:
        require_paths(sources)
        raise StoreError(
            "the data of this recipe is not prepared",
            seen=f"no {index_path(sources, tokenizer, store_folder)}",
            fix="run `seqpair prepare` with the recipe and the same settings",
        )
    folder = store_folder / index.tokenizer
    if not folder.is_dir():
        raise StoreError("the tokenizer of the stores is gone", seen=str(folder), fix="run `seqpair prepare` again")
    loaded = load_tokenizer(folder, tokenizer.pad_vocab_to)
    if loaded.digest != index.tokenizer_digest:
        raise StoreError(
            f"the tokenizer in {folder} was changed",
            seen=f"tokenizer {loaded.digest[:12]}",
            allowed=f"tokenizer {index.tokenizer_digest[:12]}",
            fix="delete the folder and run `seqpair prepare` again",
        )
    return open_stores(index, loaded, store_folder, verify=verify)


def open_recipe_data(recipe: Recipe) -> Prepared:
    """Open the data of a recipe; see `open_prepared`."""
    return open_prepared(recipe.data.sources, recipe.data.tokenizer, Path(recipe.data.stores))


def open_stores(index: PreparedIndex, tokenizer: Tokenizer, store_folder: Path, *, verify: bool) -> Prepared:
    """Open the stores of an index and check them against its tokenizer.

    Raises:
        StoreError: A store is missing, changed or made with another tokenizer.
    """
    splits: dict[Split, dict[str, Store]] = {"train": {}, "held_out": {}}
    for name, folder in index.stores.items():
        for split, stores in splits.items():
            store = Store.open(store_folder / folder / split, verify=verify)
            store.require_tokenizer(tokenizer.digest)
            if split == "train" or store.manifest.documents > 0:
                stores[name] = store
    return Prepared(tokenizer, splits["train"], splits["held_out"])


def require_stores(plan: Plan, stores: Mapping[str, Store]) -> None:
    """Check that the training stores at hand are those that a plan was made for.

    Raises:
        StoreError: One is not there, or is another one.
    """
    for ref in plan.stores:
        found = stores[ref.source].manifest.digest[:16] if ref.source in stores else "no store"
        if found != ref.digest[:16]:
            raise StoreError(
                f"the store of source {ref.source!r} is not the one this plan was made for",
                seen=found,
                allowed=ref.digest[:16],
                fix="prepare again and start a new run, or bring the old store back",
            )
