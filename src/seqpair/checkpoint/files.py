"""A checkpoint's files: their names, and whether they are as the manifest says."""

from __future__ import annotations

from pathlib import Path

from seqpair.checkpoint.manifest import MANIFEST_NAME, CheckpointManifest, FileEntry, damaged
from seqpair.files import sha256_file

MODEL_NAME = "model.safetensors"
OPTIMIZER_NAME = "optimizer.safetensors"
STATE_NAME = "state.json"


def file_names(manifest: CheckpointManifest) -> tuple[str, ...]:
    """Return the files that belong to a checkpoint, the manifest left out; a soup has the model alone."""
    return (MODEL_NAME, OPTIMIZER_NAME, STATE_NAME) if manifest.soup is None else (MODEL_NAME,)


def file_entry(path: Path) -> FileEntry:
    """Return what a manifest says of a file that has just been written."""
    return FileEntry(sha256=sha256_file(path), bytes=path.stat().st_size)


def size_bytes(manifest: CheckpointManifest) -> int:
    """Return how many bytes a checkpoint's files take, the manifest left out."""
    return sum(entry.bytes for entry in manifest.files.values())


def verify_files(
    path: Path, manifest: CheckpointManifest, wanted: tuple[str, ...] | None = None, *, hashes: bool = True
) -> None:
    """Hold a checkpoint's files against its manifest.

    Args:
        path: The checkpoint's folder.
        manifest: Its manifest.
        wanted: The files to look at; by default all that belong to it.
        hashes: Compare SHA-256 too, not only sizes.

    Raises:
        CheckpointError: A file is missing, or differs in size or digest.
    """
    for file in wanted or file_names(manifest):
        entry = manifest.files.get(file)
        if entry is None:
            raise damaged(path, MANIFEST_NAME, seen=f"no entry for {file}", expected="one for every file")
        try:
            seen_bytes = (path / file).stat().st_size
            if seen_bytes != entry.bytes:
                raise damaged(path, file, seen=f"{seen_bytes} bytes", expected=f"{entry.bytes} bytes")
            digest = sha256_file(path / file) if hashes else entry.sha256
        except OSError as error:
            raise damaged(path, file, seen=error, expected=f"{entry.bytes} readable bytes") from error
        if digest != entry.sha256:
            raise damaged(path, file, seen=f"SHA-256 {digest}", expected=f"SHA-256 {entry.sha256}")
