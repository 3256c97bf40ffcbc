"""From sources to stores: makes what is missing, skips what is there."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from seqpair.data.cleaning.cleaner import cleaning_plans, recipe_cleaning
from seqpair.data.prepare.build import (
    BUILDING,
    WHOLE,
    Shard,
    StoreBuild,
    adopt_stale_builds,
    collect_parts,
    writing_alone,
    writing_together,
)
from seqpair.data.prepare.early import look_early, require_nothing_lost
from seqpair.data.prepare.study_tokenizer import look_at_files, say_what_changed, study_tokenizer, trained_folder
from seqpair.data.prepare.workers import Workers
from seqpair.data.prepared import Prepared, open_stores
from seqpair.data.sources.documents import Source
from seqpair.data.sources.fingerprint import ADDRESS_LETTERS, store_address
from seqpair.data.sources.opening import open_source
from seqpair.data.store.ids import SeenHashes
from seqpair.data.store.manifest import PreparedIndex, SeenFile, index_path, read_index, spec_digest
from seqpair.data.tokenizer.tokenizer import Tokenizer, load_tokenizer
from seqpair.errors import DataError, StoreError
from seqpair.files import write_json
from seqpair.recipe.data_spec import SourceSpec, TokenizerSpec, require_paths
from seqpair.text import note


@dataclass(frozen=True)
class PreparationStep:
    """What `prepare` would do for one source, or for the tokenizer (source is empty then)."""

    source: str
    files: int
    bytes: int
    folder: str
    ready: bool


@dataclass(frozen=True)
class ShardOutcome:
    """What one shard has made of one source.

    Attributes:
        source: The source's name.
        parts: The shard's parts that are finished now.
        all_parts: The parts of the whole source.
        folder: Where they are; empty if the source's store was there already.
    """

    source: str
    parts: int
    all_parts: int
    folder: str


@dataclass(frozen=True)
class _Plan:
    """What `prepare`, its shards and their merge agree on."""

    tokenizer: Tokenizer
    tokenizer_folder: Path
    files: dict[str, tuple[SeenFile, ...]]
    builds: list[StoreBuild]

    @property
    def missing(self) -> list[StoreBuild]:
        return [build for build in self.builds if not build.folder.is_dir()]


def prepare(
    sources: Sequence[SourceSpec],
    tokenizer: TokenizerSpec,
    store_folder: Path,
    *,
    recipe_folder: Path | None = None,
    verify: bool = False,
    workers: int = 1,
) -> Prepared:
    """Tokenize a recipe's sources into stores, and write down where they are.

    The stores' bytes depend on neither the workers nor on how often the work was interrupted and repeated.

    Args:
        sources: The recipe's sources.
        tokenizer: The tokenizer to load or to train.
        store_folder: The folder of stores; made if it is missing.
        recipe_folder: What relative paths of sources are relative to; by default the current folder.
        verify: Hash the files of stores that are already there.
        workers: Processes that tokenize and share the cores; with 1, this one uses them all. A script that gives
            more needs the usual `if __name__ == "__main__":`, because each process imports it again.

    Raises:
        DataError: A source has no paths, is missing, empty or unreadable, or the tokenizer cannot be used.
        StoreError: A store that is there was changed.
        DiskFullError: The disk is full; no part of a store remains, finished parts do.
    """
    require_paths(sources)
    with writing_alone(store_folder):
        before = read_index(sources, tokenizer, store_folder)
        plan = _agree(sources, tokenizer, store_folder, recipe_folder, before, workers)
        adopt_stale_builds(plan.builds)
        _make(plan, WHOLE, workers, recipe_folder, merge=True)
        return _completed(plan, sources, tokenizer, store_folder, before, verify=verify)


def prepare_shard(
    sources: Sequence[SourceSpec],
    tokenizer: TokenizerSpec,
    store_folder: Path,
    shard: Shard,
    *,
    recipe_folder: Path | None = None,
    workers: int = 1,
) -> list[ShardOutcome]:
    """Make one shard's parts of every source; `merge_shards` completes the stores.

    Shards may run at the same time, on one folder of stores or each on its own.

    Args:
        sources: The recipe's sources, the same for all shards.
        tokenizer: The tokenizer to load or to train.
        store_folder: The folder of stores.
        shard: Which of how many.
        recipe_folder: As for `prepare`.
        workers: As for `prepare`.

    Raises:
        DataError, DiskFullError: As `prepare`.
    """
    require_paths(sources)
    with writing_together(store_folder, shard.folder):
        before = read_index(sources, tokenizer, store_folder)
        plan = _agree(sources, tokenizer, store_folder, recipe_folder, before, workers)
        _make(plan, shard, workers, recipe_folder, merge=False)
        outcomes = []
        for build in plan.builds:
            if build.folder.is_dir():
                outcomes.append(ShardOutcome(build.source.spec.name, 0, len(build.units), ""))
                continue
            finished = build.finished_parts()
            own = [name for i, name in enumerate(build.part_names) if build.shard_of(i, shard.count) == shard.index]
            made = sum(name in finished for name in own)
            outcomes.append(ShardOutcome(build.source.spec.name, made, len(build.units), str(build.workplace)))
        return outcomes


def merge_shards(
    sources: Sequence[SourceSpec],
    tokenizer: TokenizerSpec,
    store_folder: Path,
    shard_folders: Sequence[Path] = (),
    *,
    recipe_folder: Path | None = None,
) -> Prepared:
    """Complete the stores from the parts that shards have made; nothing is tokenized.

    Args:
        sources: The recipe's sources.
        tokenizer: The tokenizer to load or to train.
        store_folder: The folder of stores to complete; shards that ran on it count.
        shard_folders: Further folders of stores, of shards that ran elsewhere; left as they are.
        recipe_folder: As for `prepare`.

    Raises:
        StoreError: A shard is missing, is there twice, or belongs to other data; all are named.
        DataError, DiskFullError: As `prepare`.
    """
    require_paths(sources)
    if absent := [folder for folder in shard_folders if not folder.is_dir()]:
        raise StoreError("there is no such folder of stores", seen=absent[0], fix="correct the folder's name")
    with writing_alone(store_folder):
        before = read_index(sources, tokenizer, store_folder)
        plan = _agree(sources, tokenizer, store_folder, recipe_folder, before, workers=1)
        missing = plan.missing
        for build, parts in zip(missing, collect_parts(missing, store_folder, shard_folders), strict=True):
            note(f"merging {len(build.units)} parts of source {build.source.spec.name!r}")
            build.merge(parts)
        return _completed(plan, sources, tokenizer, store_folder, before, verify=False)


def _agree(
    sources: Sequence[SourceSpec],
    spec: TokenizerSpec,
    store_folder: Path,
    recipe_folder: Path | None,
    before: PreparedIndex | None,
    workers: int,
) -> _Plan:
    """Look at the sources, get the tokenizer, and say which stores that makes."""
    opened = _open_sources(sources, recipe_folder, store_folder)
    recipe_digest = spec_digest(sources, spec)
    if before is None:
        look_early(opened, recipe_folder)
    files = look_at_files(opened, spec, before, store_folder / BUILDING / f"files-{recipe_digest[:16]}.json")
    say_what_changed(opened, files, before)
    tokenizer, folder = study_tokenizer(opened, files, spec, store_folder)
    if spec.path is not None and before is None:
        require_nothing_lost(opened, tokenizer, allowed=spec.allow_lost_text)
    cleanings = recipe_cleaning(opened, files, store_folder, tokenizer, folder, recipe_folder, workers)
    builds = [
        StoreBuild(
            source,
            files[source.spec.name],
            tokenizer,
            cleanings.get(source.spec.name),
            store_folder,
            recipe_digest,
            unknown="impossible" if spec.path is None else "counted" if spec.allow_lost_text else "refused",
        )
        for source in opened
    ]
    if not all(build.folder.is_dir() for build in builds):
        for earlier, build in pairwise(builds):
            build.first_unit = earlier.first_unit + len(earlier.units)
    return _Plan(tokenizer, folder, files, builds)


def _make(plan: _Plan, shard: Shard, workers: int, recipe_folder: Path | None, *, merge: bool) -> None:
    """Make a shard's missing parts, and with `merge` each store as soon as its last part is there."""
    if workers < 1:
        raise DataError("preparation needs a worker", seen=f"workers {workers}", allowed="1 or more")
    tasks = {build.name: build.tasks(shard, recipe_folder) for build in plan.missing}
    left = {build.name: {task.folder for task in tasks[build.name]} for build in plan.missing}
    builds = {build.source.spec.name: build for build in plan.missing}
    done_bytes = 0
    for build in builds.values():
        own = [i for i in range(len(build.units)) if build.shard_of(i, shard.count) == shard.index]
        waiting = sum(task.unit.size_bytes for task in tasks[build.name])
        done_bytes += sum(build.units[i].size_bytes for i in own) - waiting
        if len(own) > len(tasks[build.name]):
            kept = len(own) - len(tasks[build.name])
            note(f"source {build.source.spec.name!r}: {kept} of {len(own)} parts are there from an earlier run")
        if merge and not tasks[build.name]:
            build.merge(build.finished_parts())
    pool = Workers(workers, plan.tokenizer)
    # Rows without an id of their own get one from file and row, which is theirs alone.
    seen = {name: SeenHashes() for name, build in builds.items() if build.source.spec.id_field is not None}
    for name, hashes in seen.items():
        for folders in builds[name].finished_parts().values():
            builds[name].require_new_ids(folders[0], hashes)
    for task in pool.make([task for build in builds.values() for task in tasks[build.name]], done_bytes):
        build = builds[task.spec.name]
        if task.spec.name in seen:
            build.require_new_ids(task.folder, seen[task.spec.name])
        left[build.name].discard(task.folder)
        if merge and not left[build.name]:
            build.merge(build.finished_parts())


def _completed(
    plan: _Plan,
    sources: Sequence[SourceSpec],
    tokenizer: TokenizerSpec,
    store_folder: Path,
    before: PreparedIndex | None,
    *,
    verify: bool,
) -> Prepared:
    """Write down where everything is, and open it."""
    index = PreparedIndex(
        tokenizer=plan.tokenizer_folder.relative_to(store_folder).as_posix(),
        tokenizer_digest=plan.tokenizer.digest,
        vocab_size=plan.tokenizer.vocab_size,
        stores={build.source.spec.name: build.name for build in plan.builds},
        files=plan.files,
    )
    prepared = open_stores(index, plan.tokenizer, store_folder, verify=verify)
    if index != before:
        write_json(index_path(sources, tokenizer, store_folder), index.model_dump(mode="json"))
    for build in plan.builds:  # also parts that were being cleared when an earlier run was killed
        shutil.rmtree(build.workplace, ignore_errors=True)
    building = store_folder / BUILDING
    (building / f"files-{spec_digest(sources, tokenizer)[:16]}.json").unlink(missing_ok=True)
    for lock in building.glob(".lock-*"):
        lock.unlink()
    with contextlib.suppress(OSError):  # somebody else's unfinished work stays
        building.rmdir()
    return prepared


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
    opened = _open_sources(sources, recipe_folder, store_folder)
    if before is None:
        look_early(opened, recipe_folder, may_download=False)
    files = look_at_files(opened, tokenizer, before)
    if tokenizer.path is not None:
        digest: str | None = load_tokenizer(Path(tokenizer.path), tokenizer.pad_vocab_to).digest
        folder = store_folder / "tokenizers" / f"loaded-{str(digest)[:ADDRESS_LETTERS]}"
    else:
        folder = trained_folder(opened, files, tokenizer, store_folder)
        digest = load_tokenizer(folder, tokenizer.pad_vocab_to).digest if folder.is_dir() else None
    steps = [PreparationStep("", len(files.get("", ())), 0, str(folder), folder.is_dir())]
    plans = cleaning_plans(opened, files)
    for source in opened:
        seen = files[source.spec.name]
        target = ""
        if digest is not None:
            cleaning = plans.get(source.spec.name)
            address = store_address(source, seen, digest, cleaning.address if cleaning else None)
            target = str(store_folder / f"{source.spec.name}-{address[:ADDRESS_LETTERS]}")
        ready = target != "" and Path(target).is_dir()
        steps.append(PreparationStep(source.spec.name, len(seen), sum(file.bytes for file in seen), target, ready))
    return steps


def _open_sources(sources: Sequence[SourceSpec], recipe_folder: Path | None, store_folder: Path) -> list[Source]:
    names = [spec.name for spec in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or twice:
        raise DataError(
            "a recipe's sources need names of their own" if twice else "the recipe has no sources",
            seen=", ".join(twice) or "data.sources is empty",
            fix="name every source in `data.sources` once",
        )
    opened = [open_source(spec, recipe_folder) for spec in sources]
    _require_own_files(opened, store_folder.resolve())
    return opened


def _require_own_files(sources: Sequence[Source], store_folder: Path) -> None:
    """Refuse sources that read what stores contain, or the same text from the same file."""
    readers: dict[tuple[str, str], str] = {}
    for source in sources:
        name = source.spec.name
        content = source.spec.model_dump_json(exclude={"name", "paths", "id_field", "held_out_frac"})
        for file in source.files:
            if isinstance(file.path, Path) and file.path.is_relative_to(store_folder):
                raise DataError(
                    f"source {name!r} reads a file in the folder of stores",
                    seen=str(file.path),
                    allowed=f"files outside {store_folder}",
                    fix="move the stores (`data.stores`) or the text",
                )
            earlier = readers.setdefault((str(file.path), content), name)
            if earlier != name:
                raise DataError(
                    f"sources {earlier!r} and {name!r} read the same text",
                    seen=str(file.path),
                    fix="leave it to one of them: what one holds out, the other could train on",
                )
