"""Who may write into a folder of stores, and clearing what nobody will use again."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from seqpair.data.prepare.build import ABOUT, BUILDING, StoreBuild
from seqpair.files import TEMPORARY_PREFIX
from seqpair.text import note


@contextlib.contextmanager
def writing_alone(store_folder: Path) -> Iterator[None]:
    """Hold the folder alone, and clear away what a killed process left half-made; unfinished builds stay."""
    with locked(store_folder, "stores"):
        for parent in (store_folder, store_folder / "tokenizers"):
            for stale in parent.glob(f"{TEMPORARY_PREFIX}*"):
                shutil.rmtree(stale)
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
    with (folder / (f".lock-{name}" if name else ".lock")).open("w") as lock:
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
