"""From sources to stores: makes what is missing, skips what is there.

Owns the folder of stores: `tokenizers/`, `<source>-<address>/{train,held_out}/`, `prepared/` with one
index for each recipe's data section, and the lock that lets one process at a time write. Must not know
orders or batches. Entry points: `prepare`, `open_prepared`, `open_recipe_data`, `plan_preparation`.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqpair.atomic import TEMPORARY_PREFIX, replacing_folder, write_json
from seqpair.data.documents import Source
from seqpair.data.fingerprint import file_of, look_at, store_address, trained_address
from seqpair.data.manifest import (
    PreparedIndex,
    SeenFile,
    Split,
    index_path,
    read_index,
)
from seqpair.data.sources import open_source
from seqpair.data.store import Store
from seqpair.data.store_build import build_stores
from seqpair.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from seqpair.data.tokenizer_text import training_texts
from seqpair.errors import DataError, StoreError
from seqpair.log import note
from seqpair.recipe.data_spec import SourceSpec, TokenizerSpec, require_paths
from seqpair.recipe.schema import Recipe
from seqpair.units import format_bytes

_ADDRESS_LETTERS = 12


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


@dataclass(frozen=True)
class PreparationStep:
    """What `prepare` would do for one source, or for the tokenizer (source is empty then)."""

    source: str
    files: int
    bytes: int
    folder: str
    ready: bool


def prepare(
    sources: Sequence[SourceSpec],
    tokenizer: TokenizerSpec,
    store_folder: Path,
    *,
    recipe_folder: Path | None = None,
    verify: bool = False,
) -> Prepared:
    """Tokenize a recipe's sources into stores, and write down where they are.

    Args:
        sources: The recipe's sources.
        tokenizer: The tokenizer to load or to train.
        store_folder: The folder of stores; made if it is missing.
        recipe_folder: What relative paths of sources are relative to; by default the current folder.
        verify: Hash the files of stores that are already there.

    Raises:
        DataError: A source has no paths, is missing, empty or unreadable, or the tokenizer cannot be used.
        StoreError: A store that is there was changed.
        DiskFullError: The disk is full; no part of a store remains.
    """
    require_paths(sources)
    with _writing_alone(store_folder):
        before = read_index(sources, tokenizer, store_folder)
        opened = _open_sources(sources, recipe_folder)
        files = _fingerprints(opened, tokenizer, before)
        _say_what_changed(opened, files, before)
        made, tokenizer_folder = _tokenizer(opened, files, tokenizer, store_folder)
        folders: dict[str, str] = {}
        for source in opened:
            address = store_address(source, files[source.spec.name], made.digest)
            folder = store_folder / f"{source.spec.name}-{address[:_ADDRESS_LETTERS]}"
            if not folder.is_dir():
                build_stores(source, files[source.spec.name], made, folder, address)
            folders[source.spec.name] = folder.name
        index = PreparedIndex(
            tokenizer=tokenizer_folder.relative_to(store_folder).as_posix(),
            tokenizer_digest=made.digest,
            vocab_size=made.vocab_size,
            stores=folders,
            files=files,
        )
        prepared = _opened(index, made, store_folder, verify=verify)
        if index != before:
            write_json(index_path(sources, tokenizer, store_folder), index.model_dump(mode="json"))
        return prepared


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
    return _opened(index, loaded, store_folder, verify=verify)


def open_recipe_data(recipe: Recipe) -> Prepared:
    """Open the data of a recipe; see `open_prepared`."""
    return open_prepared(recipe.data.sources, recipe.data.tokenizer, Path(recipe.data.stores))


def plan_preparation(
    sources: Sequence[SourceSpec], tokenizer: TokenizerSpec, store_folder: Path, *, recipe_folder: Path | None = None
) -> list[PreparationStep]:
    """Return what `prepare` would do, the tokenizer first, without writing anything.

    Stores made with a tokenizer that is still to be trained have no folder yet: theirs is empty.

    Raises:
        DataError: As `prepare`, for what can be seen without reading documents.
    """
    require_paths(sources)
    before = read_index(sources, tokenizer, store_folder)
    opened = _open_sources(sources, recipe_folder)
    files = _fingerprints(opened, tokenizer, before)
    if tokenizer.path is not None:
        digest: str | None = load_tokenizer(Path(tokenizer.path), tokenizer.pad_vocab_to).digest
        folder = store_folder / "tokenizers" / f"loaded-{str(digest)[:_ADDRESS_LETTERS]}"
    else:
        folder = _trained_folder(opened, files, tokenizer, store_folder)
        digest = load_tokenizer(folder, tokenizer.pad_vocab_to).digest if folder.is_dir() else None
    steps = [PreparationStep("", len(files.get("", ())), 0, str(folder), folder.is_dir())]
    for source in opened:
        seen = files[source.spec.name]
        target = ""
        if digest is not None:
            address = store_address(source, seen, digest)
            target = str(store_folder / f"{source.spec.name}-{address[:_ADDRESS_LETTERS]}")
        ready = target != "" and Path(target).is_dir()
        steps.append(PreparationStep(source.spec.name, len(seen), sum(file.bytes for file in seen), target, ready))
    return steps


@contextlib.contextmanager
def _writing_alone(store_folder: Path) -> Iterator[None]:
    """Hold the folder's lock, and clear away what a killed process left half-made."""
    store_folder.mkdir(parents=True, exist_ok=True)
    with (store_folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"another process is preparing stores in {store_folder}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for parent in (store_folder, store_folder / "tokenizers"):
            for stale in parent.glob(f"{TEMPORARY_PREFIX}*"):
                shutil.rmtree(stale)
        yield


def _open_sources(sources: Sequence[SourceSpec], recipe_folder: Path | None) -> list[Source]:
    names = [spec.name for spec in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        raise DataError(
            "a recipe's sources need names of their own" if twice else "the recipe has no sources",
            seen=", ".join(twice) or "data.sources is empty",
            fix="name every source in `data.sources` once",
        )
    return [open_source(spec, recipe_folder) for spec in sources]


def _fingerprints(
    opened: Sequence[Source], tokenizer: TokenizerSpec, before: PreparedIndex | None
) -> dict[str, tuple[SeenFile, ...]]:
    earlier = before.files if before else {}
    files = {source.spec.name: look_at(source.files, earlier.get(source.spec.name, ())) for source in opened}
    if tokenizer.path is not None:
        given = Path(tokenizer.path)
        file = given / "tokenizer.json" if given.is_dir() else given
        if file.is_file():
            files[""] = look_at([file_of(file)], earlier.get("", ()))
    return files


def _say_what_changed(
    opened: Sequence[Source], files: dict[str, tuple[SeenFile, ...]], before: PreparedIndex | None
) -> None:
    """Tell which sources are not what they were when this recipe was last prepared."""
    for source in opened if before else ():
        assert before is not None
        name = source.spec.name
        now = {(file.label, file.sha256) for file in files[name]}
        then = {(file.label, file.sha256) for file in before.files.get(name, ())}
        if now != then:
            changed = sorted({label for label, _ in now ^ then})
            note(
                f"source {name!r} has changed since it was prepared ({len(changed)} files, first {changed[0]}); "
                f"its store gets a new address, {before.stores.get(name)} stays"
            )


def _tokenizer(
    opened: Sequence[Source],
    files: dict[str, tuple[SeenFile, ...]],
    spec: TokenizerSpec,
    store_folder: Path,
) -> tuple[Tokenizer, Path]:
    """Load or train the tokenizer and keep it among the stores."""
    if spec.path is not None:
        loaded = load_tokenizer(Path(spec.path), spec.pad_vocab_to)
        folder = store_folder / "tokenizers" / f"loaded-{loaded.digest[:_ADDRESS_LETTERS]}"
        if not folder.is_dir():
            with replacing_folder(folder) as partial:
                loaded.save(partial)
        return loaded, folder
    folder = _trained_folder(opened, files, spec, store_folder)
    if not folder.is_dir():
        note(
            f"training a tokenizer of {spec.train_vocab_size} entries "
            f"on up to {format_bytes(spec.train_bytes)} of {', '.join(source.spec.name for source in opened)}"
        )
        trained = train_tokenizer(training_texts(opened, spec.train_bytes), spec)
        with replacing_folder(folder) as partial:
            trained.save(partial)
    return load_tokenizer(folder, spec.pad_vocab_to), folder


def _trained_folder(
    opened: Sequence[Source], files: dict[str, tuple[SeenFile, ...]], spec: TokenizerSpec, store_folder: Path
) -> Path:
    address = trained_address(opened, files, spec)
    return store_folder / "tokenizers" / f"trained-{address[:_ADDRESS_LETTERS]}"


def _opened(index: PreparedIndex, tokenizer: Tokenizer, store_folder: Path, *, verify: bool) -> Prepared:
    """Open the stores of an index and check them against its tokenizer."""
    splits: dict[Split, dict[str, Store]] = {"train": {}, "held_out": {}}
    for name, folder in index.stores.items():
        for split, stores in splits.items():
            store = Store.open(store_folder / folder / split, verify=verify)
            store.require_tokenizer(tokenizer.digest)
            if split == "train" or store.manifest.documents > 0:
                stores[name] = store
    return Prepared(tokenizer, splits["train"], splits["held_out"])
