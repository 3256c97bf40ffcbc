"""One token of one row through a causal model in one call, compiled on this machine where it has a C++ compiler.

A step of a small model is some 130 tensor calls of a few microseconds, which one call replaces; the vocabulary
projection is another, faster than a library's product with one row. The arithmetic is that of `CachedDecoder` in fp32,
in another order of sums, which depends on the number of threads. The library is compiled once for a compiler, a
processor and a version of the source, in about a second, and kept in the user's cache folder.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqpair.errors import DiskFullError
from seqpair.files import cache_folder, replacing_file
from seqpair.nn.decode.cache import KeyValueCache
from seqpair.recipe.sizes import Shape
from seqpair.text import note

SOURCE = Path(__file__).with_name("one_token.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-shared", "-fPIC")
_MULTIPLE = 16
_END_WEIGHTS = ("table", "embedding_norm", "final_norm", "dense", "head_norm", "bias")
_LAYER_WEIGHTS = ("attention_norm", "wqkv", "attention_out", "mlp_norm", "mlp_in", "mlp_out")
_BUILD_SECONDS = 120


class Library(NamedTuple):
    """The compiled functions, or why there are none.

    Attributes:
        read_token, write_logits, likeliest_after: The functions; `None` where they cannot be had.
        why: Where it lies, or what was in the way.
    """

    read_token: Any
    write_logits: Any
    likeliest_after: Any
    why: str


class _Layer(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_void_p) for name in (*_LAYER_WEIGHTS, "turns"))


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("layers", "width", "inner", "heads", "entries")),
        ("eps", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in (*_END_WEIGHTS, "layer")),
    )


class _Past(ctypes.Structure):
    _fields_ = (("keys_values", ctypes.c_void_p), ("columns", ctypes.c_int64))


@functools.cache
def find_library() -> Library:
    """Return the compiled function, built if it is not there yet; without a compiler, why not."""
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    compiler = next((found for name in names if name and (found := shutil.which(name))), None)
    if compiler is None:
        return Library(None, None, None, "no C++ compiler (c++, g++ or clang++, or what CXX names)")
    try:
        path = _build(compiler)
        loaded = ctypes.CDLL(str(path))
        read_token, write_logits, likeliest_after = loaded.read_token, loaded.write_logits, loaded.likeliest_after
    except subprocess.CalledProcessError as error:
        lines = str(error.stderr).strip().splitlines() or [f"exit code {error.returncode}"]
        return Library(None, None, None, f"{compiler} cannot compile it: {lines[0]}")
    except (OSError, RuntimeError, DiskFullError, subprocess.TimeoutExpired) as error:  # RuntimeError: no home folder
        return Library(None, None, None, f"it cannot be built or loaded: {error}")
    address, number = ctypes.c_void_p, ctypes.c_int64
    read_token.restype = write_logits.restype = None
    likeliest_after.restype = number
    read_token.argtypes = (address, address, number, number, number, address, address, ctypes.c_int)
    write_logits.argtypes = (address, address, address, ctypes.c_int)
    likeliest_after.argtypes = (*read_token.argtypes[:-1], address, ctypes.c_int)
    return Library(read_token, write_logits, likeliest_after, str(path))


def _build(compiler: str) -> Path:
    """Return the library's path. Its name holds all that it depends on: what `native` stands for here, too."""

    def run(*arguments: str) -> str:
        command = [compiler, *FLAGS, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_BUILD_SECONDS)
        return done.stderr

    # With -### a compiler says what it would call, with `native` resolved to this processor's features.
    meaning = run("-###", "-E", "-x", "c++", os.devnull)
    key = hashlib.sha256(SOURCE.read_bytes() + meaning.encode()).hexdigest()[:16]
    path = cache_folder() / f"one_token-{key}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing_file(path) as unfinished:
            run("-x", "c++", str(SOURCE), "-o", str(unfinished))
        note(f"compiled the one-token step, once for this machine: {path}")
    return path


class OneTokenStep:
    """A model's one-token step.

    Args:
        library: From `find_library`, with the functions.
        shape: The model's shape; `fits` must hold.
        eps: Of the norms.
        ends: `table` (V, D), `embedding_norm`, `final_norm`, `dense` (in, out), `head_norm`, `bias` (V,).
        layers: Of each layer `attention_norm` or None, `wqkv`, `attention_out`, `mlp_norm`, `mlp_in`, `mlp_out`,
            matrices as (in, out). All fp32, contiguous, on the CPU, and not replaced afterwards.
    """

    def __init__(
        self,
        library: Library,
        shape: Shape,
        eps: float,
        ends: Sequence[Tensor],
        layers: Sequence[Sequence[Tensor | None]],
    ) -> None:
        assert library.read_token is not None, library.why
        weights = [*ends, *(weight for layer in layers for weight in layer if weight is not None)]
        assert all(weight.is_contiguous() and weight.dtype == torch.float32 for weight in weights), "fp32, contiguous"
        self._weights = weights  # keeps them where they are
        self._library, self._shape, self._entries = library, shape, len(ends[0])
        self._layers = (_Layer * shape.layers)()
        for mirror, layer in zip(self._layers, layers, strict=True):
            for name, weight in zip(_LAYER_WEIGHTS, layer, strict=True):
                setattr(mirror, name, None if weight is None else weight.data_ptr())
        self._model = _Model(
            *(shape.layers, shape.width, shape.inner, shape.heads, self._entries, eps),
            *(weight.data_ptr() for weight in ends),
            ctypes.addressof(self._layers),
        )

    @staticmethod
    def fits(shape: Shape, device: torch.device) -> bool:
        """Whether the step can compute a model of this shape there: all the suite's on a CPU."""
        return device.type == "cpu" and all(n % _MULTIPLE == 0 for n in (shape.width, shape.inner, shape.head_dim))

    def set_turns(self, turns: Sequence[Tensor]) -> None:
        """Take each layer's rotations, (positions, 1, K): cosines before sines."""
        self._turns = list(turns)
        for mirror, table in zip(self._layers, turns, strict=True):
            mirror.turns = table.data_ptr()

    def read(self, cache: KeyValueCache, token: int) -> Tensor:
        """Read the token whose column the cache has just begun, of its only row; return (1, D) head states."""
        threads, head_states = torch.get_num_threads(), torch.empty(1, self._shape.width)
        pasts, scratch = self._pasts(cache), self._scratch(cache, threads)
        self._library.read_token(
            *(ctypes.addressof(self._model), ctypes.addressof(pasts), token, cache.starts[0], cache.end),
            *(scratch.data_ptr(), head_states.data_ptr(), threads),
        )
        return head_states

    def _pasts(self, cache: KeyValueCache) -> Any:
        return (_Past * self._shape.layers)(*(_Past(buffer.data_ptr(), buffer.shape[2]) for buffer in cache.buffers))

    def _scratch(self, cache: KeyValueCache, threads: int) -> Tensor:
        shape = self._shape
        return torch.empty((5 + 4 * threads) * shape.width + 3 * shape.inner + shape.heads * cache.capacity)

    def likeliest(self, cache: KeyValueCache, token: int) -> Iterator[int]:
        """Read a token of the cache's only row and yield the likeliest next one, then read that, and so on.

        The cache must not be changed from elsewhere meanwhile. A token needs one call: weights of many times the
        processor's nearest caches pass between two, so that every line of Python is slow.
        """
        threads, head_states = torch.get_num_threads(), torch.empty(self._shape.width)
        pasts, scratch, logits = self._pasts(cache), self._scratch(cache, threads), torch.empty(self._entries)
        model, past, start = ctypes.addressof(self._model), ctypes.addressof(pasts), cache.starts[0]
        written = (scratch.data_ptr(), head_states.data_ptr(), logits.data_ptr())
        while True:
            cache.begin_step()
            token = self._library.likeliest_after(model, past, token, start, cache.end, *written, threads)
            yield token

    def logits(self, head_states: Tensor) -> Tensor:
        """Return (1, V) logits for (1, D) contiguous fp32 head states."""
        assert head_states.shape == (1, self._shape.width)
        assert head_states.is_contiguous(), "the library reads one row"
        found = torch.empty(1, self._entries)
        addresses = (ctypes.addressof(self._model), head_states.data_ptr(), found.data_ptr())
        self._library.write_logits(*addresses, torch.get_num_threads())
        return found
