"""Peak memory of a training step, ours against transformers', each in a fresh process.

What is counted is the highest resident memory during two steps, above that before the first (model and optimiser
made, no gradients or moments yet). One row of 8,000 tokens at 17m.

    python bench/train_memory.py --out bench/results/train_memory.md
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import contenders
import torch


def status_bytes(name: str) -> int:
    """Return a figure of this process's memory, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def child(who: str, size: str, member: str, length: int) -> None:
    """Print the bytes of two steps above the level before them."""
    torch.set_num_threads(2)
    step = (contenders.make_ours if who == "ours" else contenders.make_theirs)(size, member)
    batch = contenders.random_rows(size, 1, length)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = status_bytes("VmRSS")
    step(batch)
    step(batch)
    print(status_bytes("VmHWM") - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="17m")
    parser.add_argument("--length", type=int, default=8000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child[0], args.size, args.child[1], args.length)
    lines = [
        "# Peak memory of a training step",
        "",
        f"{contenders.describe_machine('wall')}; {args.size}, one row of {args.length:,}, above the level before the "
        "first step, a fresh process each.",
        "",
        "| member | ours, MB | theirs, MB | ours by theirs |",
        "|---|---|---|---|",
    ]
    for member in contenders.DIRECTIONS:
        command = [sys.executable, __file__, "--size", args.size, "--length", str(args.length), "--child"]
        ours, theirs = (
            int(subprocess.run([*command, who, member], capture_output=True, text=True, check=True).stdout)
            for who in ("ours", "theirs")
        )
        lines.append(f"| {member} | {ours / 1e6:,.0f} | {theirs / 1e6:,.0f} | {ours / theirs:.0%} |")
        print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join([*lines, "", "Written by `bench/train_memory.py`."]) + "\n")
    return None


if __name__ == "__main__":
    main()
