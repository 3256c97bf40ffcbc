"""A function compiled by torch, with its compilations counted."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from seqpair.errors import SeqpairError
from seqpair.text import note

_MOST_GRAPHS = 64
"""Of one piece of code; torch's own limit is 8, beyond which it goes on without compiling."""


def should_compile(mode: str, device: torch.device) -> bool:
    """Return whether the model is compiled.

    Args:
        mode: `off`; `on`; or `auto`, which is on for CUDA with triton; not on a CPU (docs/speed.md).
        device: Where the model is.

    Raises:
        SeqpairError: It is to be, but the device's code generator is missing.
    """
    missing = _missing_generator(device)
    if mode == "on" and missing is not None:
        raise SeqpairError(
            "the model cannot be compiled here",
            seen=f"runtime.compile: on, {device.type} without {missing}",
            allowed="CUDA with triton, or a CPU with a C++ compiler",
            fix=f"install {missing}, or set runtime.compile to auto",
        )
    return mode == "on" or (mode == "auto" and device.type == "cuda" and missing is None)


def compile_words(device: torch.device) -> str:
    """Return what `runtime.compile: auto` does on a device, and why."""
    missing = _missing_generator(device)
    if missing is not None:
        return f"not compiled; it would need {missing}"
    return "compiled, in microbatches of one shape" if should_compile("auto", device) else "not compiled unless told to"


def _missing_generator(device: torch.device) -> str | None:
    """Return what torch would need to generate code for a device and does not find."""
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") is not None else "triton"
    if device.type == "cpu":
        return None if any(shutil.which(name) for name in ("g++", "clang++", "cl")) else "a C++ compiler"
    return "a code generator of torch for it"


class CountedCompile:
    """A function of tensors, compiled for the shapes it is called with and for no range of them.

    Args:
        function: What is compiled.
        whole: Whether it has to be one graph; else it may be cut where torch cannot trace it.
        backend: The name of torch's backend.

    Attributes:
        graphs: How many graphs were compiled.
    """

    def __init__(self, function: Callable[..., Tensor], *, whole: bool, backend: str = "inductor") -> None:
        import torch._dynamo.backends.registry  # costs a second, so only where something is compiled

        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _MOST_GRAPHS)
        self.graphs = 0
        self._seen: set[Hashable] = set()
        self._compile = torch._dynamo.backends.registry.lookup_backend(backend)
        self._run = torch.compile(function, backend=self._counted, fullgraph=whole, dynamic=False)

    def _counted(self, graph: Any, inputs: Any, **options: Any) -> Any:
        self.graphs += 1
        return self._compile(graph, inputs, **options)

    def __call__(self, shape: Hashable, about: str, *given: Any) -> Tensor:
        """Call the function.

        Args:
            shape: What a compilation is expected for, once.
            about: What else could differ, for the note about a compilation that was not expected.
            *given: The function's arguments.
        """
        before = self.graphs
        out = self._run(*given)
        if self.graphs > before and shape in self._seen:
            note(f"compiled again, {self.graphs - before} more graphs, {self.graphs} in all: {about}")
        self._seen.add(shape)
        return out
