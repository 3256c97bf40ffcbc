"""Training rates of this machine for the table in the package, which `seqpair plan --device` reads.

Each rate is one `seqpair bench` on made-up text of the size's usual vocabulary. A row replaces an earlier one of
the same device, size, direction, sequence length and precision.

    python bench/rates.py --sizes 1m 17m --seconds 30
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
from typing import Any

import torch

from seqpair.recipe.prediction import DEVICES, RATES_FILE, MeasuredRate

KEY = ("device", "size", "direction", "seq_len", "precision")


def measure(size: str, member: str, seq_len: int, seconds: float, precision: str) -> dict[str, Any]:
    """Run `seqpair bench` in a process of its own and return its numbers."""
    words = [
        "bench",
        "--size",
        size,
        "--member",
        member,
        "--seq-len",
        str(seq_len),
        "--seconds",
        str(seconds),
        "--json",
    ]
    words += ["--precision", precision]
    done = subprocess.run([sys.executable, "-m", "seqpair", *words], check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def device_kind(hardware: dict[str, Any]) -> str:
    """Return the table's name for a device."""
    if hardware["device"] == "cpu":
        return "cpu"
    return next(kind for kind, device in DEVICES.items() if any(name in hardware["name"] for name in device.names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["1m", "17m"])
    parser.add_argument("--seq-lens", nargs="+", type=int, default=[1024])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--precision", default="auto")
    args = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    rows = {tuple(row[key] for key in KEY): row for row in json.loads(RATES_FILE.read_text(encoding="utf-8"))}
    for size in args.sizes:
        for member in ("encoder", "decoder"):
            for seq_len in args.seq_lens:
                found = measure(size, member, seq_len, args.seconds, args.precision)
                hardware = found["hardware"]
                name = hardware["name"]
                if hardware["device"] == "cpu":
                    name += f" ({hardware['vector']}, {hardware['threads']} threads, load {os.getloadavg()[0]:.1f})"
                row = MeasuredRate(
                    device=device_kind(hardware),
                    hardware=name,
                    size=size,
                    direction=found["direction"],
                    seq_len=seq_len,
                    precision=found["precision"],
                    tokens_per_second=round(found["tokens_per_second"] / found["ranks"], 1),
                    flops_per_second=round(found["flops_per_second"]),
                    date=str(datetime.date.today()),
                    commit=commit.stdout.strip(),
                    torch=torch.__version__,
                ).model_dump()
                rows[tuple(row[key] for key in KEY)] = row
                print(f"{size} {member} {seq_len}: {row['tokens_per_second']:,.0f} tokens/s, MFU {found['mfu']:.0%}")
                RATES_FILE.write_text(json.dumps(list(rows.values()), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
