"""Room on the disk, asked for before it is needed."""

from __future__ import annotations

import shutil
from pathlib import Path

from seqpair.checkpoint.manifest import checkpoint_folders
from seqpair.errors import DiskFullError
from seqpair.text import format_bytes


def require_space(folder: Path, needed_bytes: int, purpose: str = "what has to be written") -> None:
    """Refuse if the disk of a folder, which need not exist yet, has less room than this.

    Raises:
        DiskFullError: With what is needed and what is free.
    """
    existing = next(path for path in [folder, *folder.resolve().parents] if path.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < needed_bytes:
        raise DiskFullError(
            f"the disk of {folder} cannot hold {purpose}",
            seen=f"{format_bytes(free_bytes)} free ({free_bytes} bytes)",
            allowed=f"at least {format_bytes(needed_bytes)} ({needed_bytes} bytes)",
            fix="free some space or set `runs` to another disk, then repeat the same command; nothing was lost",
        )


def require_room_for_two(run_folder: Path, checkpoint_bytes: int) -> None:
    """Refuse if the disk cannot hold two checkpoints of this run, those it already has counted in.

    Two, because the earlier one must stay until the next is whole: with none there yet, room for two
    must be free; with one or more there, room for one.

    Args:
        run_folder: The run; its checkpoints lie in `checkpoints/`.
        checkpoint_bytes: The size of one.

    Raises:
        DiskFullError: With what is needed and what is free.
    """
    held = bool(checkpoint_folders(run_folder))
    purpose = "one more checkpoint beside the earlier one" if held else "two checkpoints"
    require_space(run_folder, checkpoint_bytes * (1 if held else 2), purpose)
