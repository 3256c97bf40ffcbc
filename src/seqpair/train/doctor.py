"""What this machine would train with, why not with something else, and what would make it faster."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from dataclasses import asdict, dataclass
from typing import Any

import torch

from seqpair.distributed.acceleration import compile_words, float8_words
from seqpair.distributed.hardware import Hardware, look_around, matrix_rate, read_rate
from seqpair.distributed.world import choose_device
from seqpair.errors import install_extra
from seqpair.nn import attention
from seqpair.nn.decode.one_token import find_library

_LIBRARIES = (
    "seqpair",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "pyarrow",
    "flash-attn",
    "torchao",
)
_MATRIX = 1024
_PAYS = 1.3
"""How much faster bf16 products must be here before bf16 training is worth a try: casts cost too."""


@dataclass(frozen=True)
class KernelFinding:
    """An attention kernel: whether `auto` takes it in fp32 or bf16 here, and what is said about it."""

    name: str
    usable: bool
    chosen_for: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Diagnosis:
    """All findings.

    Attributes:
        python, system: Versions.
        libraries: Their versions; `None` for those that are not installed.
        hardware: The device that `auto` takes, and the CPU.
        load: The load average over one minute; `None` where it cannot be told.
        kernels: The attention kernels.
        compiled: What `runtime.compile: auto` does here, and why.
        float8: Whether training in float8 is possible here, and what is missing.
        one_token: Whether generation on the CPU has its compiled step here, or why not.
        fp32_flops_per_second, bf16_flops_per_second: `torch.mm` of 1,024 x 1,024 on the device.
        read_bytes_per_second: Reading 64 MiB on the device.
        advice: What to do to go faster; empty if nothing is known.
    """

    python: str
    system: str
    libraries: dict[str, str | None]
    hardware: Hardware
    load: float | None
    kernels: tuple[KernelFinding, ...]
    compiled: str
    float8: str
    one_token: str
    fp32_flops_per_second: float
    bf16_flops_per_second: float
    read_bytes_per_second: float
    advice: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the values as JSON."""
        return asdict(self)


def examine(device_name: str = "auto") -> Diagnosis:
    """Look at this machine; a few seconds.

    Args:
        device_name: As `runtime.device`.

    Raises:
        SeqpairError: The device is not there.
    """
    device = choose_device(device_name)
    hardware = look_around(device)
    libraries = {name: _version(name) for name in _LIBRARIES}
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    fp32 = matrix_rate(device, torch.float32, _MATRIX)
    bf16 = matrix_rate(device, torch.bfloat16, _MATRIX)
    return Diagnosis(
        python=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        libraries=libraries,
        hardware=hardware,
        load=load,
        kernels=find_kernels(device),
        compiled=compile_words(device),
        float8=float8_words(device),
        one_token=_one_token_words(),
        fp32_flops_per_second=fp32,
        bf16_flops_per_second=bf16,
        read_bytes_per_second=read_rate(device),
        advice=tuple(advice(hardware, libraries, load, bf16 / fp32, hidden_gpu=_has_hidden_gpu(device))),
    )


def _one_token_words() -> str:
    library = find_library()
    return f"{'tensor calls' if library.read_token is None else 'compiled step'} for one row on a CPU; {library.why}"


def find_kernels(device: torch.device) -> tuple[KernelFinding, ...]:
    """Return every attention kernel, with the one that `auto` takes for each precision."""
    chosen: dict[str, list[str]] = {name: [] for name in attention.KERNELS}
    usable = dict.fromkeys(attention.KERNELS, False)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        query = torch.empty(1, 1, 64, dtype=dtype, device=device)
        chosen[attention.suited_kernel(query)].append(precision)
        for name in usable:
            usable[name] = usable[name] or attention.kernel_is_usable(name, query)
    return tuple(
        KernelFinding(name, usable[name], tuple(precisions), _why(name, device, usable[name]))
        for name, precisions in chosen.items()
    )


def _why(name: str, device: torch.device, usable: bool) -> str:
    if not usable:
        if device.type != "cuda":
            return "needs a CUDA device"
        needs = {
            "varlen": "a build of torch for CUDA (not ROCm) and a GPU of compute capability 8.0 (Ampere) or newer",
            "flash": "the package flash-attn; never required",
            "flex": "triton, which torch's CUDA builds for Linux bring",
        }
        return f"needs {needs[name]}"
    texts = {
        "reference": "the definition, with all scores at once: right on any device, slow on long sequences",
        "blocked": "local layers cost what their window costs; made for the CPU",
        "varlen": "flash attention over packed sequences, in torch itself; half precision only",
        "flash": "flash attention of the package flash-attn; half precision only",
        "flex": "masks by documents and window, compiled; any precision",
    }
    return texts[name]


def advice(
    hardware: Hardware, libraries: dict[str, str | None], load: float | None, bf16_gain: float, *, hidden_gpu: bool
) -> list[str]:
    """Return what would make training here faster.

    Args:
        hardware: The device.
        libraries: Versions by name.
        load: The machine's load average.
        bf16_gain: Rate of a bf16 matrix product by that of an fp32 one.
        hidden_gpu: Whether the machine has an NVIDIA GPU that torch does not see.
    """
    found = []
    if hidden_gpu:
        found.append(
            f"this machine has an NVIDIA GPU that torch {libraries['torch']} does not see: install the build of torch "
            "for its CUDA version"
        )
    if hardware.device == "cuda":
        found.append(f"train with runtime.precision: bf16; its products run {bf16_gain:.1f} times as fast as fp32's")
    elif bf16_gain >= _PAYS:
        found.append(
            f"bf16 products run {bf16_gain:.1f} times as fast as fp32's on this CPU: compare `seqpair bench` with "
            "`seqpair bench --precision bf16`"
        )
    else:
        found.append(f"keep runtime.precision: fp32; bf16 products run at {bf16_gain:.2f} of its rate on this device")
    if hardware.threads < hardware.cores:
        found.append(
            f"torch uses {hardware.threads} of {hardware.cores} cores: set runtime.threads or OMP_NUM_THREADS, and see "
            "with `seqpair bench` whether it helps"
        )
    if hardware.threads > hardware.cores:
        found.append(f"torch uses {hardware.threads} threads on {hardware.cores} cores: set OMP_NUM_THREADS lower")
    if load is not None and load > hardware.cores:
        found.append(f"the machine is busy (load {load:.1f} on {hardware.cores} cores): rates measured now are too low")
    if libraries["transformers"] is None:
        found.append(f"exports and evaluations need transformers: {install_extra('hub')}")
    return found


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _has_hidden_gpu(device: torch.device) -> bool:
    """Return whether the driver's tool is installed although torch finds no CUDA device."""
    return device.type != "cuda" and not torch.cuda.is_available() and shutil.which("nvidia-smi") is not None
