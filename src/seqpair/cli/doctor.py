"""The verb `doctor`: what this machine trains with, and what would make it faster."""

from __future__ import annotations

import json

from seqpair.cli.options import DeviceOption, JsonOption
from seqpair.text import format_bytes


def doctor(device: DeviceOption = "auto", as_json: JsonOption = False) -> None:
    """Report what training uses on this machine: device, kernels and reasons, bf16, float8, and what to install.

    It measures matrix products in fp32 and bf16 and the reading of memory for a few seconds. Findings are not errors:
    the exit code is 0.

    Example: seqpair doctor --json
    """
    from seqpair.train.doctor import examine

    found = examine(device)
    if as_json:
        print(json.dumps(found.as_json()))
        return
    hardware = found.hardware
    memory = f", {format_bytes(hardware.memory_bytes)}" if hardware.memory_bytes else ""
    busy = "" if found.load is None else f", load {found.load:.1f}"
    print(f"device      {hardware.device}: {hardware.devices} x {hardware.name}{memory}")
    print(f"cpu         {hardware.cores} cores, torch uses {hardware.threads} threads ({hardware.vector}){busy}")
    print(f"system      {found.system}, Python {found.python}")
    print("libraries   " + ", ".join(f"{name} {version or '(none)'}" for name, version in found.libraries.items()))
    for kernel in found.kernels:
        state = f"chosen for {' and '.join(kernel.chosen_for)}" if kernel.chosen_for else "not chosen"
        print(f"kernel      {kernel.name}: {state if kernel.usable else 'cannot run here'}; {kernel.why}")
    print(f"model       {found.compiled}")
    print(f"float8      {found.float8}")
    print(f"generation  {found.one_token}")
    rates = [found.fp32_flops_per_second / 1e9, found.bf16_flops_per_second / 1e9, found.read_bytes_per_second / 1e9]
    print("torch.mm    fp32 {:,.0f} GFLOP/s, bf16 {:,.0f} GFLOP/s; memory read at {:,.1f} GB/s".format(*rates))
    for line in found.advice:
        print(f"advice      {line}")
