"""What this machine has and can do, found out or measured in seconds."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from seqpair.recipe.prediction import known_peak

_MATRIX = 2048
_READ_BYTES = 64 << 20


@dataclass(frozen=True)
class Hardware:
    """A machine, or what this process may use of it.

    Attributes:
        device: `cpu`, `cuda` or `mps`.
        name: The processor's or the GPU's name.
        devices: How many of them torch sees.
        cores: CPU cores that this process may run on.
        threads: CPU threads that torch uses in one operation.
        memory_bytes: The device's memory; the machine's for a CPU. 0 where it cannot be told.
        vector: The CPU's vector instructions, as torch dispatches on them.
    """

    device: str
    name: str
    devices: int
    cores: int
    threads: int
    memory_bytes: int
    vector: str


def look_around(device: torch.device) -> Hardware:
    """Return what a device is, and the CPU around it."""
    cuda = device.type == "cuda"
    return Hardware(
        device=device.type,
        name=torch.cuda.get_device_name(device) if cuda else processor_name(),
        devices=torch.cuda.device_count() if cuda else 1,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        memory_bytes=torch.cuda.get_device_properties(device).total_memory if cuda else _machine_memory(),
        vector=torch.backends.cpu.get_cpu_capability(),
    )


def processor_name() -> str:
    """Return the CPU's model name where the system tells it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _machine_memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def fastest(work: Callable[[], object], device: torch.device, seconds: float = 0.5) -> float:
    """Return the seconds of the fastest of several runs; one warms up, at least three count."""
    work()
    best, began, runs = float("inf"), time.perf_counter(), 0
    while runs < 3 or time.perf_counter() - began < seconds:
        synchronize(device)
        started = time.perf_counter()
        work()
        synchronize(device)
        best = min(best, time.perf_counter() - started)
        runs += 1
    return best


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int = _MATRIX) -> float:
    """Return the FLOPs a second of `torch.mm` on square matrices, a multiply-add as two."""
    left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
    return 2 * size**3 / fastest(lambda: torch.mm(left, right), device)


def read_rate(device: torch.device) -> float:
    """Return the bytes a second at which a buffer of 64 MiB is read and summed."""
    buffer = torch.ones(_READ_BYTES // 4, dtype=torch.float32, device=device)
    return _READ_BYTES / fastest(buffer.sum, device)


def peak_rate(device: torch.device, *, bf16: bool) -> tuple[float, str]:
    """Return the FLOPs a second to hold a run against, and where the number comes from.

    For a GPU in the table it is the maker's figure for dense bf16; otherwise `torch.mm` as it runs here.
    """
    if device.type == "cuda" and bf16:
        name = torch.cuda.get_device_name(device)
        known = known_peak(name)
        if known is not None:
            return known, f"the maker's dense bf16 figure for {name}"
    dtype = torch.bfloat16 if bf16 else torch.float32
    kind = "bf16" if bf16 else "fp32"
    source = f"torch.mm of {_MATRIX} x {_MATRIX} in {kind} on this device, {torch.get_num_threads()} threads"
    return matrix_rate(device, dtype), source
