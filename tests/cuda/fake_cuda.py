"""CUDA code paths on a machine without a GPU: fake tensors on cuda:0, and an account of what was done with them.

Import this before torch: torch asks for its CUDA hooks once, when it is imported, and `guard.cpp` is what gives a CPU
build of torch hooks and a device guard. Then `fake_h100()` answers torch.cuda's questions as a machine with one H100
would, and `Account` is a dispatch mode above FakeTensorMode that counts kernels and bytes and records every wait of the
host for the device with the line of seqpair that caused it.

Shown: the kernels chosen, devices that meet, waits, graphs, shapes, traffic. Not shown: numerics, speed, memory, races.
"""

from __future__ import annotations

import collections
import contextlib
import ctypes
import importlib.util
import linecache
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock


def load_guard(folder: Path) -> None:
    """Compile `guard.cpp` into a folder, unless it is there, and load it."""
    assert "torch" not in sys.modules, "the guard comes before torch"
    spec = importlib.util.find_spec("torch")
    assert spec is not None
    torch_folder, library = Path(str(spec.origin)).parent, folder / "guard.so"
    if not library.exists():
        source = Path(__file__).with_name("guard.cpp")
        paths = [f"-I{torch_folder}/include", f"-L{torch_folder}/lib", f"-Wl,-rpath,{torch_folder}/lib"]
        command = ["g++", "-O0", "-fPIC", "-shared", "-std=c++20", str(source), "-o", str(library), *paths]
        subprocess.run([*command, "-lc10", "-ltorch_cpu"], check=True)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


load_guard(Path(os.environ["SEQPAIR_GUARD_FOLDER"]))

import torch  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

aten = torch.ops.aten
H100 = SimpleNamespace(
    name="NVIDIA H100 80GB HBM3",
    major=9,
    minor=0,
    total_memory=80 << 30,
    multi_processor_count=132,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    regs_per_multiprocessor=65536,
    warp_size=32,
    L2_cache_size=50 << 20,
    gcnArchName="",
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    shared_memory_per_multiprocessor=233472,
    uuid="fake",
    clock_rate=1980000,
    memory_clock_rate=2619000,
    memory_bus_width=5120,
    is_integrated=0,
    is_multi_gpu_board=0,
    pci_bus_id=0,
    pci_device_id=0,
    pci_domain_id=0,
)


class FakeStream:
    """A stream, or an event, of a device on which nothing runs."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record_event(self, *_: Any) -> FakeStream:
        return self

    def wait_event(self, *_: Any) -> None: ...

    wait_stream = record = wait = synchronize = wait_event


ANSWERS: dict[str, Any] = {
    "is_available": lambda: True,
    "is_initialized": lambda: False,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": lambda _: None,
    "synchronize": lambda *_: None,
    "get_device_capability": lambda *_: (9, 0),
    "get_device_name": lambda *_: H100.name,
    "get_device_properties": lambda *_: H100,
    "_get_device_properties": lambda _: H100,
    "_exchange_device": lambda _: 0,
    "_maybe_exchange_device": lambda _: 0,
    "_lazy_init": lambda: None,
    "is_bf16_supported": lambda *_, **__: True,
    "manual_seed": lambda _: None,
    "manual_seed_all": lambda _: None,
    "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
    "set_rng_state": lambda *_: None,
    "Stream": FakeStream,
    "Event": FakeStream,
    "current_stream": FakeStream,
    "stream": contextlib.nullcontext,
}


@contextlib.contextmanager
def fake_h100() -> Iterator[None]:
    """Let torch.cuda answer as on a machine with one H100; only questions, nothing can run."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(FakeTensorMode, "avoid_device_init", True))
        for name, answer in ANSWERS.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, answer, create=True))
        yield


def _operations(names: str) -> set[Any]:
    return {getattr(aten, name) for name in names.split() if hasattr(aten, name)}


_FREE = _operations(
    "empty empty_like new_empty empty_strided new_empty_strided detach lift_fresh _reshape_alias _unsafe_view alias"
)
_SCATTERS = _operations("scatter_ scatter_add_ scatter_add")
_FEW_ROWS = _SCATTERS | _operations("gather index_select embedding index index_put_ index_put take")
_WAITS = _operations(
    "_local_scalar_dense nonzero equal masked_select is_nonzero _unique2 unique_consecutive unique_dim"
)
_LOOKUPS = _operations("embedding")
_WRITES = _operations("copy_ fill_ zero_")


def _bytes(values: Any) -> int:
    """Return the bytes of all CUDA tensors in a value; a dimension that is only repeated counts once."""
    total = 0
    for tensor in tree_leaves(values):
        if isinstance(tensor, torch.Tensor) and tensor.device.type == "cuda":
            size = tensor.element_size()
            for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
                size *= int(length) if stride else 1
            total += size
    return total


def _moved(operation: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Return the bytes that a kernel reads and writes, by its arguments."""
    packet = operation.overloadpacket
    if packet in _FEW_ROWS:  # of the big table only the rows that are asked for are touched
        indices = args[1] if packet in _LOOKUPS else args[1:]
        return _bytes(indices) + (_bytes(args[-1]) if packet in _SCATTERS else _bytes(out))
    if packet in _WRITES:
        return _bytes(args[1:]) + _bytes(args[0])
    if operation._overloadname.endswith("out"):
        return _bytes(args) + _bytes(out)
    return _bytes((args, kwargs)) + _bytes(out)


def _line_of_seqpair() -> str:
    frame: Any = sys._getframe()
    while frame is not None:
        name = frame.f_code.co_filename
        if "/seqpair/" in name:
            line = linecache.getline(name, frame.f_lineno).strip()
            return f"{name.split('/seqpair/')[-1]}:{frame.f_lineno} {line}"
        frame = frame.f_back
    return "backward of torch's own operations"


class Account(TorchDispatchMode):
    """Kernels, bytes and waits of what runs inside.

    Args:
        stand_in: What a fake tensor's value is where the host asks for it.
    """

    def __init__(self, stand_in: float = 1.0) -> None:
        super().__init__()
        self.stand_in = stand_in
        self.bytes: collections.Counter[str] = collections.Counter()
        self.waits: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = operation.overloadpacket
        on_cuda = any(
            isinstance(part, torch.Tensor) and part.device.type == "cuda" for part in tree_leaves((args, kwargs))
        )
        if packet in _WAITS and on_cuda:
            self.waits[f"{operation}  <- {_line_of_seqpair()}"] += 1
            if packet is aten._local_scalar_dense:
                return self.stand_in
            if packet in (aten.equal, aten.is_nonzero):
                return True
        if packet is aten._to_copy and on_cuda and torch.device(kwargs.get("device", "cuda")).type == "cpu":
            self.waits[f"{operation} to the CPU  <- {_line_of_seqpair()}"] += 1
            return operation(*args, **kwargs)
        out = operation(*args, **kwargs)
        returns = operation._schema.returns
        is_view = bool(returns) and all(one.alias_info is not None and not one.alias_info.is_write for one in returns)
        only_asks = not operation._schema.is_mutable and not any(isinstance(o, torch.Tensor) for o in tree_leaves(out))
        if packet not in _FREE and not only_asks and not is_view:
            self.bytes[_line_of_seqpair().split(":")[0]] += _moved(operation, args, kwargs, out)
        return out
