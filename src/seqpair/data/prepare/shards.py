"""Gathering the parts that shards have made, from one folder of stores or from several."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from seqpair.data.prepare.build import ABOUT, BUILDING, StoreBuild
from seqpair.errors import StoreError


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
