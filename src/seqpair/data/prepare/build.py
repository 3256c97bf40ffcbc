"""The preparation of one source while it is under way: its units, which parts are there, which are missing.

Parts are found by what they were made from, so those of an interrupted run, or of a source that has changed
elsewhere, are used again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from seqpair.data.cleaning.removal import SourceCleaning, UnitRemovals
from seqpair.data.prepare.merge import merge_parts
from seqpair.data.prepare.part_build import PartTask
from seqpair.data.prepare.parts import PART
from seqpair.data.sources.documents import Source, Unit
from seqpair.data.sources.fingerprint import part_address, store_address, unit_files
from seqpair.data.store.manifest import SeenFile
from seqpair.data.tokenizer.tokenizer import Tokenizer
from seqpair.errors import DataError
from seqpair.files import TEMPORARY_PREFIX, write_json
from seqpair.text import note

BUILDING = ".building"
ABOUT = "about.json"
ADDRESS_LETTERS = 12
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
                "a shard is `i/n`", seen=text, allowed="1/n to n/n, such as 2/8", fix="number the jobs from 1"
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
    """

    source: Source
    files: tuple[SeenFile, ...]
    tokenizer: Tokenizer
    cleaning: SourceCleaning | None
    stores: Path
    recipe_digest: str
    first_unit: int = 0

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
                )
        return list(tasks.values())

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
        for stale in own.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(stale, ignore_errors=True)  # a worker of the killed process may be at its last breath
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
