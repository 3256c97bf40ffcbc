"""The files of a model's weights: which they are, and what they must pass before anything opens them.

A folder may come from anybody. Nothing in it is executed: pickles are not opened by us, a shard lies in its folder, and
a header that would fill the memory is not parsed. Written files have the same bytes for the same weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from seqpair.errors import HubFolderError, UnsafeModelError
from seqpair.hub.weights import WEIGHTS_NAME

INDEX_NAME = f"{WEIGHTS_NAME}.index.json"
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl")
_INDEXES = (INDEX_NAME, "pytorch_model.bin.index.json")
_MOST_HEADER_BYTES = 1 << 24
"""A header has about 120 bytes per tensor: 16 MiB are those of more than 100,000 tensors."""
_COMPOSER = re.compile(r"ep\d+-ba(\d+)-rank\d+\.pt$")
_LENGTH_BYTES = 8


def pickled(path: Path) -> UnsafeModelError:
    """Return the error for a checkpoint that is a pickle, with what to use in its place."""
    named = _COMPOSER.search(path.name)
    batch = named[1] if named else "BATCH"
    return UnsafeModelError(
        "a pickled checkpoint is never opened, because opening it can run code",
        seen=path,
        allowed="weights as safetensors, in a folder with config.json and tokenizer.json",
        fix=f"the hub has the weights of the published Composer checkpoints as revisions: step{batch} for a file of "
        f"pretraining, ext{batch} of the extension, decay{batch} of the decay, such as "
        f"jhu-clsp/ettin-encoder-17m@step{batch}; convert any other file where you trust it",
    )


def require_safe_files(folder: Path) -> None:
    """Check every index and every safetensors header of a folder, without opening a tensor.

    Raises:
        UnsafeModelError: A shard lies outside the folder, or a header is too large to be one.
        HubFolderError: An index cannot be read.
    """
    for name in _INDEXES:
        if (folder / name).is_file():
            _shards_of(folder / name)
    for path in folder.glob("*.safetensors"):
        _require_header(path)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder: one, or the shards that the index names.

    Raises:
        UnsafeModelError: As `require_safe_files`, or the weights are pickled.
        HubFolderError: There are none, or one is missing.
    """
    require_safe_files(folder)
    single, index = folder / WEIGHTS_NAME, folder / INDEX_NAME
    if single.is_file():
        return [single]
    if not index.is_file():
        if (pickle := first_pickle(folder)) is not None:
            raise pickled(pickle)
        raise HubFolderError(
            "the folder contains no weights that can be read",
            seen=f"neither {WEIGHTS_NAME} nor {INDEX_NAME} in {folder}",
            allowed="weights as safetensors",
            fix="download the safetensors files, or write them with save_pretrained",
        )
    names = _shards_of(index)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise HubFolderError(
            "the folder lacks some of its weights", seen=f"no {', '.join(missing)}", fix="download all files again"
        )
    return [folder / name for name in names]


def first_pickle(folder: Path) -> Path | None:
    """Return a folder's first pickled file of weights, if it has one."""
    files = (path for path in sorted(folder.iterdir()) if path.suffix in PICKLES) if folder.is_dir() else ()
    return next(iter(files), None)


def read_tensors(files: Iterable[Path]) -> dict[str, Tensor]:
    """Return the tensors of files by name.

    Raises:
        HubFolderError: A file is damaged.
    """
    tensors: dict[str, Tensor] = {}
    for path in files:
        try:
            tensors |= load_file(path)
        except SafetensorError as error:
            raise HubFolderError(f"{path} is damaged", seen=error, fix="download or write it again") from error
    return tensors


def weights_bytes(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> bytes:
    """Return a safetensors file with metadata; the library writes several keys in another order each time.

    Args:
        tensors: Contiguous tensors on the CPU, by name.
        about: The metadata besides `format`.
    """
    raw = memoryview(save(dict(tensors)))
    end = _LENGTH_BYTES + int.from_bytes(raw[:_LENGTH_BYTES], "little")
    header = {"__metadata__": {"format": "pt", **dict(sorted(about.items()))}, **json.loads(bytes(raw[8:end]))}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _LENGTH_BYTES)  # the data begin at a multiple of 8
    return b"".join((len(text).to_bytes(_LENGTH_BYTES, "little"), text, raw[end:]))


def _shards_of(index: Path) -> list[str]:
    """Return the names of the shards of an index, each a file in its own folder."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name]
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise HubFolderError(f"{index} cannot be read", seen=repr(error), fix="download it again") from error
    if outside:
        raise UnsafeModelError(
            "the index of a model names a file outside its folder",
            seen=f"{', '.join(outside)} in {index}",
            allowed="names of files beside the index",
            fix="download the model again from a place that you trust",
        )
    return names


def _require_header(path: Path) -> None:
    with path.open("rb") as handle:
        length = int.from_bytes(handle.read(_LENGTH_BYTES), "little")
    # A length beyond the file's end is damage, which the library reports without reading so far.
    if _MOST_HEADER_BYTES < length <= path.stat().st_size:
        raise UnsafeModelError(
            "the header of a weights file is too large to be one, and is not read",
            seen=f"{length:,} bytes in {path}",
            allowed=f"at most {_MOST_HEADER_BYTES:,} bytes",
            fix="download the model again from a place that you trust",
        )
