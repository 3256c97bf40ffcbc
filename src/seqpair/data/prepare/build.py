"""Stores on their way: the parts that are there and those that are missing, who may write, and what shards have made.

Parts are found by what they were made from, so those of an interrupted run, or of a source that has changed
elsewhere, are used again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np

from seqpair.data.cleaning.removal import SourceCleaning, UnitRemovals
from seqpair.data.prepare.merge import merge_parts, two_of_one_id
from seqpair.data.prepare.part_build import PartTask, Unknown
from seqpair.data.prepare.parts import PART, StorePart
from seqpair.data.sources.documents import Source, Unit
from seqpair.data.sources.fingerprint import ADDRESS_LETTERS, part_address, store_address, unit_files
from seqpair.data.store.ids import SeenHashes
from seqpair.data.store.manifest import SeenFile
from seqpair.data.tokenizer.tokenizer import Tokenizer
from seqpair.errors import DataError, StoreError
from seqpair.files import clear_partial, hash64, open_lock, write_json
from seqpair.text import note

BUILDING = ".building"
ABOUT = "about.json"
_PART_LETTERS = 32


@dataclass(frozen=True)
class Shard:
    """One of several jobs that prepare the same recipe: number `index` (from 1) of `count`."""

    index: int
    count: int

    @property
    def folder(self) -> str:
        """Return the name of the folder that its parts go to."""
        return f"{self.index}-of-{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `i/n`.

        Raises:
            DataError: It is something else.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise DataError(
                "this does not name a shard", seen=text, allowed="1/n to n/n, such as 2/8", fix="number the jobs from 1"
            )
        return cls(int(index), int(count))


WHOLE = Shard(1, 1)


@dataclass
class StoreBuild:
    """One source on its way to a store.

    Attributes:
        source: The source.
        files: Its files with their hashes.
        tokenizer: What encodes the text.
        cleaning: How it is cleaned, if it is.
        stores: The folder of stores.
        recipe_digest: The digest of the recipe's data section that asks for it.
        first_unit: How many units the recipe's earlier sources have, so that shards share small sources out.
        unknown: As in `PartTask`.
    """

    source: Source
    files: tuple[SeenFile, ...]
    tokenizer: Tokenizer
    cleaning: SourceCleaning | None
    stores: Path
    recipe_digest: str
    first_unit: int = 0
    unknown: Unknown = "impossible"

    @cached_property
    def address(self) -> str:
        """Return what the store is asked to be."""
        cleaning_digest = self.cleaning.digest if self.cleaning else None
        return store_address(self.source, self.files, self.tokenizer.digest, cleaning_digest)

    @property
    def name(self) -> str:
        """Return the name of the store's folder."""
        return f"{self.source.spec.name}-{self.address[:ADDRESS_LETTERS]}"

    @property
    def folder(self) -> Path:
        """Return the store's folder."""
        return self.stores / self.name

    @property
    def workplace(self) -> Path:
        """Return the folder of its parts."""
        return self.stores / BUILDING / self.name

    @cached_property
    def units(self) -> list[Unit]:
        """Return the source's units, looked up once."""
        return self.source.units()

    @cached_property
    def removals(self) -> list[UnitRemovals] | None:
        """Return what a survey of the source takes out of each unit; None without such a survey."""
        if self.cleaning is None or self.cleaning.find_removals is None:
            return None
        return self.cleaning.find_removals(self.source).of_units(len(self.units))

    @cached_property
    def part_names(self) -> list[str]:
        """Return the name of each unit's part: a digest of all that decides its bytes."""
        cleaning_digest = self.cleaning.digest if self.cleaning else None
        removed = [removals.digest for removals in self.removals] if self.removals else [None] * len(self.units)
        return [
            part_address(self.source, unit, self.files, self.tokenizer.digest, cleaning_digest, digest)[:_PART_LETTERS]
            for unit, digest in zip(self.units, removed, strict=True)
        ]

    def finished_parts(self, workplaces: Sequence[Path] | None = None) -> dict[str, list[Path]]:
        """Return the folders of finished parts by name, of this build's own workplace unless others are given."""
        wanted = set(self.part_names)
        found: dict[str, list[Path]] = {}
        for workplace in workplaces or [self.workplace]:
            for path in sorted(workplace.glob(f"*-of-*/*/{PART}")):
                if path.parent.name in wanted:
                    found.setdefault(path.parent.name, []).append(path.parent)
        return found

    def shard_of(self, unit: int, count: int) -> int:
        """Return which of `count` shards makes a unit, from 1."""
        return (self.first_unit + unit) % count + 1

    def tasks(self, shard: Shard, recipe_folder: Path | None) -> list[PartTask]:
        """Return what a shard still has to make, and make its folder ready."""
        self._begin(shard)
        finished = self.finished_parts()
        tasks: dict[str, PartTask] = {}
        for index, (unit, name) in enumerate(zip(self.units, self.part_names, strict=True)):
            if self.shard_of(index, shard.count) == shard.index and name not in finished:
                tasks[name] = PartTask(
                    spec=self.source.spec,
                    recipe_folder=recipe_folder,
                    unit=unit,
                    folder=self.workplace / shard.folder / name,
                    files=tuple(unit_files(self.source, unit)),
                    removals=self.removals[index] if self.removals else None,
                    unknown=self.unknown,
                )
        return list(tasks.values())

    def require_new_ids(self, part: Path, seen: SeenHashes) -> None:
        """Check as soon as a part is finished that its documents' own ids stand in no earlier one.

        Raises:
            DataError: Two documents of the source have one id.
        """
        ids = list(chain.from_iterable(batch.column("id").to_pylist() for batch in StorePart(part).rows()))
        if not seen.add(np.fromiter((hash64(one) for one in ids), np.uint64, len(ids))):
            return
        # Two ids may have one hash: the ids themselves decide, in all parts that are finished.
        places: dict[str, str] = {}
        for folders in self.finished_parts().values():
            for batch in StorePart(folders[0]).rows():
                for own, file in zip(batch.column("id").to_pylist(), batch.column("file").to_pylist(), strict=True):
                    if own in places:
                        raise two_of_one_id(self.source.spec.name, own, places[own], file)
                    places[own] = file

    def merge(self, parts: dict[str, list[Path]]) -> None:
        """Write the store from its parts, all of which are there, and clear the workplace.

        Raises:
            DataError: The source cannot become a store; its parts are cleared then too.
            StoreError: A part is damaged.
        """
        chosen = [(unit, parts[name][0]) for unit, name in zip(self.units, self.part_names, strict=True)]
        try:
            merge_parts(self.source, chosen, self.files, self.tokenizer, self.folder, self.address, self.cleaning)
        except DataError:
            shutil.rmtree(self.workplace, ignore_errors=True)
            raise
        shutil.rmtree(self.workplace, ignore_errors=True)  # whoever repeats a run that dies here clears the rest

    def _begin(self, shard: Shard) -> None:
        """Make the shard's folder, clear what a killed process left half-made there, and say what this is."""
        own = self.workplace / shard.folder
        own.mkdir(parents=True, exist_ok=True)
        clear_partial(own)
        if not (self.workplace / ABOUT).is_file():
            about = {"source": self.source.spec.name, "address": self.address, "recipe": self.recipe_digest}
            write_json(self.workplace / ABOUT, about)

    def adopt(self, stale: Path) -> None:
        """Take over what is still good of an unfinished build of the same source that has changed, and clear it.

        Args:
            stale: Its workplace; nobody else may be using it.
        """
        taken = 0
        (self.workplace / WHOLE.folder).mkdir(parents=True, exist_ok=True)
        for name, folders in self.finished_parts([stale]).items():
            target = self.workplace / WHOLE.folder / name
            if not target.exists():
                folders[0].rename(target)
                taken += 1
        shutil.rmtree(stale)
        note(
            f"source {self.source.spec.name!r} changed while its preparation was unfinished: {taken} of its finished "
            f"parts are used, the others are cleared"
        )


@contextlib.contextmanager
def writing_alone(store_folder: Path) -> Iterator[None]:
    """Hold the folder alone, and clear away what a killed process left half-made; unfinished builds stay."""
    with locked(store_folder, "stores"):
        for parent in (store_folder, store_folder / "tokenizers"):
            clear_partial(parent)
        yield


@contextlib.contextmanager
def writing_together(store_folder: Path, name: str) -> Iterator[None]:
    """Hold the folder together with other shards, and this shard's name alone."""
    with locked(store_folder, "stores", fcntl.LOCK_SH), locked(store_folder / BUILDING, f"shard {name}", name=name):
        yield


@contextlib.contextmanager
def locked(folder: Path, what: str, kind: int = fcntl.LOCK_EX, *, name: str = "") -> Iterator[None]:
    """Hold a folder's lock file, waiting for it with a message.

    Args:
        folder: The folder; made if it is missing.
        what: What another process may be preparing, for the message.
        kind: `LOCK_EX` for one process, `LOCK_SH` for many.
        name: Tells several locks of one folder apart.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open_lock(folder / (f".lock-{name}" if name else ".lock")) as lock:
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"another process is preparing {what} in {folder}; waiting for it")
            fcntl.flock(lock, kind)
        yield


def adopt_stale_builds(builds: Sequence[StoreBuild]) -> None:
    """Clear unfinished builds that their recipe no longer asks for, because the source changed meanwhile.

    Their parts of unchanged files are taken over. Builds of other recipes are left: their shards may go on.
    """
    for build in builds:
        for workplace in sorted(build.workplace.parent.glob(f"{build.source.spec.name}-*")):
            if workplace == build.workplace or not (workplace / ABOUT).is_file():
                continue
            about = json.loads((workplace / ABOUT).read_text(encoding="utf-8"))
            if about["source"] == build.source.spec.name and about["recipe"] == build.recipe_digest:
                build.adopt(workplace)


def collect_parts(
    builds: Sequence[StoreBuild], store_folder: Path, shard_folders: Sequence[Path]
) -> list[dict[str, list[Path]]]:
    """Return for every build the folders of all its parts by name.

    Args:
        builds: The stores to complete.
        store_folder: The folder of stores that they go to.
        shard_folders: Further folders of stores.

    Raises:
        StoreError: A part is missing, is there twice, or a folder holds no part of these stores.
    """
    folders = [store_folder, *shard_folders]
    resolved = [folder.resolve() for folder in folders]
    twice = sorted({str(folder) for folder in resolved if resolved.count(folder) > 1})
    if twice:
        raise StoreError("a shard's folder is given twice", seen=", ".join(twice), fix="name every folder once")
    for folder in shard_folders:
        _require_own(builds, folder)
    collected = [build.finished_parts([folder / BUILDING / build.name for folder in folders]) for build in builds]
    for build, parts in zip(builds, collected, strict=True):
        _require_once(build, parts, folders)
    _require_all(builds, collected)
    return collected


def _require_own(builds: Sequence[StoreBuild], folder: Path) -> None:
    """Refuse a folder that holds no unfinished build of any of these stores."""
    if not builds or any((folder / BUILDING / build.name).is_dir() for build in builds):
        return
    others = []
    for about in sorted((folder / BUILDING).glob(f"*/{ABOUT}")):
        value = json.loads(about.read_text(encoding="utf-8"))
        others.append(f"{value['source']} (address {value['address'][:12]})")
    raise StoreError(
        f"{folder} holds no shard of this recipe's data",
        seen=f"parts of {', '.join(others)}" if others else "no unfinished preparation",
        allowed=", ".join(f"{build.source.spec.name} (address {build.address[:12]})" for build in builds),
        fix="every shard needs the same source files, options and tokenizer as the merge: prepare this one again "
        "with the same recipe and settings, or leave the folder out",
    )


def _require_once(build: StoreBuild, parts: dict[str, list[Path]], folders: Sequence[Path]) -> None:
    """Refuse a part that two folders of stores have: one shard was run twice, or copied."""
    owners = {
        name: sorted({str(folder) for folder in folders for path in paths if path.is_relative_to(folder)})
        for name, paths in parts.items()
    }
    doubled = {name: found for name, found in owners.items() if len(found) > 1}
    if doubled:
        name = next(iter(doubled))
        shards = sorted({path.parent.name for name in doubled for path in parts[name]})
        raise StoreError(
            f"source {build.source.spec.name!r}: {len(doubled)} of {len(build.units)} parts are there twice",
            seen=f"in {' and in '.join(doubled[name])} (shards {', '.join(shards)})",
            fix="give each shard once: leave one of the folders out",
        )


def _require_all(builds: Sequence[StoreBuild], collected: Sequence[dict[str, list[Path]]]) -> None:
    """Refuse to merge while a part is missing, and name the shards that it belongs to."""
    lacking: list[str] = []
    for build, parts in zip(builds, collected, strict=True):
        missing = [index for index, name in enumerate(build.part_names) if name not in parts]
        if missing:
            counts = {int(path.parent.name.rpartition("-")[2]) for paths in parts.values() for path in paths}
            shards = sorted({(build.shard_of(index, count), count) for count in counts for index in missing})
            named = ", shard " + ", ".join(f"{index}/{count}" for index, count in shards) if len(counts) == 1 else ""
            lacking.append(f"{build.source.spec.name}: {len(missing)} of {len(build.units)} parts{named}")
    if lacking:
        raise StoreError(
            "shards are missing or unfinished",
            seen="; ".join(lacking),
            fix="run `seqpair prepare --shard` for them, or name their folders with --from",
        )
