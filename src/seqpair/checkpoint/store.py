"""Writing and reading one checkpoint: whole and verified, or not at all.

Nothing is pickled; no generator's state is kept, as all randomness is keyed by the step.
"""

from __future__ import annotations

import datetime
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from seqpair.checkpoint.catalog import require_room_for_two
from seqpair.checkpoint.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    MODEL_NAME,
    OPTIMIZER_NAME,
    STATE_NAME,
    CheckpointFields,
    CheckpointManifest,
    checkpoint_folder,
    checkpoint_folders,
    damaged,
    file_entry,
    file_names,
    parse_checkpoint_manifest,
    read_checkpoint_manifest,
    verify_files,
)
from seqpair.errors import CheckpointError
from seqpair.files import clear_partial, replacing_folder, write_json
from seqpair.paths import CHECKPOINTS_FOLDER
from seqpair.text import note

_OVERHEAD_BYTES = 1 << 18
"""Room for the headers, the state and the manifest beside the tensors."""


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A checkpoint's contents, tensors on the CPU.

    Attributes:
        manifest: What it says of itself.
        model: The parameters by name.
        optimizer: The optimiser's tensors by name; empty if only the model was asked for.
        state: The JSON state; empty if only the model was asked for.
    """

    manifest: CheckpointManifest
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(
    run_folder: Path,
    fields: CheckpointFields,
    *,
    model: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
    state: Mapping[str, Any],
) -> Path:
    """Write a checkpoint that counts only once it was re-opened and found to hold what was handed in.

    The caller holds the run's lock, and only one rank saves. What an earlier process left half-written
    is removed; a damaged checkpoint of this name, and any that lies further on than this one (only a
    damaged one that was skipped can), is set aside under another name, never deleted.

    Args:
        run_folder: The run; the checkpoint goes to `checkpoints/<tag><phase_step>/`.
        fields: What the manifest says.
        model: Parameters by name, each tied tensor once; any device.
        optimizer: The optimiser's tensors by name.
        state: JSON: counters, the optimiser's JSON state, ...

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: Something that is no tensor, a state that JSON cannot hold, a good checkpoint of
            this name, or a file that does not read back as what was written.
        DiskFullError: The disk cannot hold it, or filled up; earlier checkpoints are untouched.
    """
    parts = {MODEL_NAME: dict(model), OPTIMIZER_NAME: dict(optimizer)}
    for file, tensors in parts.items():
        _require_tensors(file, tensors)
    _require_json(state)
    final = checkpoint_folder(run_folder, fields.checkpoint_name)
    # Before the disk is asked, so that what is removed counts as free.
    remove_partial(run_folder)
    _set_aside_stale(run_folder, fields)
    require_room_for_two(run_folder, written_bytes(*parts.values()))
    write_whole(final, fields, fields.checkpoint_name, parts, state)
    return final


def write_whole(
    final: Path,
    fields: CheckpointFields,
    name: str,
    parts: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any] | None,
) -> CheckpointManifest:
    """Write a folder of tensors with its manifest; it gets its name only after it read back as handed in.

    Args:
        final: The folder to make; it must not exist yet.
        fields: What the manifest says.
        name: The name in the manifest.
        parts: The tensors of each file, by file name.
        state: The JSON state, or `None` for a folder without one.

    Raises:
        CheckpointError: A file does not read back as what was written.
        DiskFullError: The disk filled up; nothing of the folder remains.
    """
    with replacing_folder(final) as folder:
        for file, tensors in parts.items():
            _write_tensors(folder / file, tensors)
        if state is not None:
            write_json(folder / STATE_NAME, state)
        manifest = CheckpointManifest(
            **dict(fields),
            format_version=FORMAT_VERSION,
            name=name,
            # These digests are of what lies on the disk; `_reopen` compares that with the tensors in memory.
            files={path.name: file_entry(path) for path in sorted(folder.iterdir())},
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        write_json(folder / MANIFEST_NAME, manifest.as_json())
        _require_reads_back(final, folder, manifest, parts, state)
    return manifest


def _require_reads_back(
    final: Path,
    folder: Path,
    manifest: CheckpointManifest,
    parts: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any] | None,
) -> None:
    """Open the checkpoint that was just written to `folder` and compare it with what was handed in."""
    try:
        _reopen(folder, manifest, parts, state)
    except CheckpointError as error:
        raise CheckpointError(
            f"the checkpoint {final} did not read back as it was written, so it was not kept",
            seen=f"{error.what}: {error.seen}",
            allowed=error.allowed,
            fix="check the disk and the memory of this machine; earlier checkpoints are untouched",
        ) from error


def load_checkpoint(path: Path, *, verify: bool = True, model_only: bool = False) -> LoadedCheckpoint:
    """Read a checkpoint.

    Args:
        path: Its folder.
        verify: Compare every file that is read with its SHA-256 first; sizes are compared always.
        model_only: Read the model's parameters and nothing else.

    Raises:
        CheckpointError: There is none, or it is damaged; the message names the file and what to do. Or all
            of a soup was asked for, which holds a model and nothing else.
    """
    manifest = read_checkpoint_manifest(path)
    if manifest.soup is not None and not model_only:
        raise CheckpointError(
            f"{path} is an average of {len(manifest.soup.parts)} checkpoints, which no run can be resumed from",
            seen="a soup: the model alone, without optimiser and counters",
            allowed="a checkpoint made by training",
            fix=f"resume from one of its parts ({', '.join(part.name for part in manifest.soup.parts)}), "
            "or export and evaluate the soup",
        )
    verify_files(path, manifest, (MODEL_NAME,) if model_only else file_names(manifest), hashes=verify)
    model = _read_tensors(path, MODEL_NAME)
    if model_only:
        return LoadedCheckpoint(manifest, model, {}, {})
    try:
        state = json.loads((path / STATE_NAME).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise damaged(path, STATE_NAME, seen=error, expected="JSON") from error
    return LoadedCheckpoint(manifest, model, _read_tensors(path, OPTIMIZER_NAME), state)


def written_bytes(*parts: Mapping[str, Tensor]) -> int:
    """Return about how many bytes a checkpoint of these tensors takes on disk, never too few."""
    tensors = [(name, tensor) for part in parts for name, tensor in part.items()]
    return _OVERHEAD_BYTES + sum(256 + len(name) + tensor.numel() * tensor.element_size() for name, tensor in tensors)


def remove_partial(run_folder: Path) -> None:
    """Remove what killed processes left half-written; the caller holds the run's lock."""
    for name in clear_partial(run_folder / CHECKPOINTS_FOLDER):
        note(f"removed a checkpoint that was never finished: {name}")


def _set_aside_stale(run_folder: Path, fields: CheckpointFields) -> None:
    """Rename what would stand in the way of the checkpoint being the newest."""
    for path in checkpoint_folders(run_folder):
        # A folder of another name stands in the way only if it would be the newest.
        same_name = path.name == fields.checkpoint_name
        try:
            manifest = read_checkpoint_manifest(path)
            if same_name:
                verify_files(path, manifest)
        except CheckpointError as error:
            if same_name:
                set_aside(path, str(error))
            continue
        if same_name:
            raise CheckpointError(
                "there is already a good checkpoint of this name",
                seen=path,
                fix="resume from it, or move it away if this step has to be repeated",
            )
        if manifest.total_steps > fields.total_steps:
            set_aside(path, f"it is {manifest.total_steps} steps on, but the run goes on from {fields.total_steps}")


def set_aside(path: Path, reason: str) -> None:
    """Give a checkpoint a name that no run resumes from; its files stay as they are."""
    names = (path.with_name(f"{path.name}.aside-{count}") for count in itertools.count(1))
    aside = next(name for name in names if not name.exists())
    path.rename(aside)
    note(f"set {path.name} aside as {aside.name}: {reason}")


def _require_tensors(file: str, tensors: Mapping[str, Tensor]) -> None:
    for name, value in tensors.items():
        kind = type(value).__name__
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{name} in {file} is no tensor",
                seen=f"{kind}: {value!r}",
                allowed="tensors; numbers go into the state",
            )


def _require_json(state: Mapping[str, Any]) -> None:
    try:
        text = json.dumps(state, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            "the state cannot be written as JSON", seen=error, allowed="text, finite numbers, lists and maps"
        ) from error
    if json.loads(text) != state:
        raise CheckpointError(
            "the state does not survive JSON", seen="tuples, or keys that are no text", allowed="lists, text keys"
        )


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one file of tensors."""
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, path)
    # safetensors refuses tensors that share memory: they would be loaded untied, without a message.
    except RuntimeError as error:
        raise CheckpointError(
            f"tensors of {path.name} share memory", seen=error, fix="hand in a tied tensor once, under one name"
        ) from error


def _read_tensors(path: Path, file: str) -> dict[str, Tensor]:
    try:
        return load_file(path / file)
    except SafetensorError as error:
        raise damaged(path, file, seen=error, expected="a safetensors file") from error


def _reopen(
    folder: Path,
    manifest: CheckpointManifest,
    parts: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any] | None,
) -> None:
    """Read back all that was written and compare it, bit by bit, with what was handed in."""
    if parse_checkpoint_manifest(folder) != manifest:
        raise damaged(folder, MANIFEST_NAME, seen="another content", expected="what was written")
    verify_files(folder, manifest)
    if state is not None and json.loads((folder / STATE_NAME).read_text(encoding="utf-8")) != state:
        raise damaged(folder, STATE_NAME, seen="another content", expected="what was handed in")
    for file, tensors in parts.items():
        written = _read_tensors(folder, file)
        if set(written) != set(tensors):
            raise damaged(folder, file, seen=sorted(written)[:5], expected=sorted(tensors)[:5])
        for name, tensor in tensors.items():
            _require_same_bits(folder, file, name, written[name], tensor)


def _require_same_bits(folder: Path, file: str, name: str, seen: Tensor, expected: Tensor) -> None:
    """Compare shape, dtype and bytes (so that NaN equals itself and 0 is not -0)."""
    seen_form, expected_form = (f"{name} {tuple(t.shape)} {t.dtype}" for t in (seen, expected))
    if seen_form != expected_form:
        raise damaged(folder, file, seen=seen_form, expected=expected_form)
    if not torch.equal(_bytes_of(seen), _bytes_of(expected)):
        raise damaged(folder, file, seen=f"other values in {name}", expected="the values handed in")


def _bytes_of(tensor: Tensor) -> Tensor:
    # An empty tensor has no bytes that could be viewed as another type.
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(torch.uint8) if math.prod(tensor.shape) else flat
