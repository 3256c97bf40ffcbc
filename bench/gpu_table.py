"""Everything about one GPU in one call of ten minutes: the kernels' parity, then tokens/s and MFU.

    python bench/gpu_table.py --stop-after-seconds 570

The first cells are 17m, 400m and 68m at 1,024 for both members, then the options beside them (`QUESTIONS`), then all
other sizes and rows of 8,000. Each cell is one `seqpair bench` in a process of its own, so that one that fails loses
itself only. It is written down as soon as it is there, and one that is there for this commit, torch and settings is not
measured again: repeat the call until it says that nothing is left. A cell that runs out of memory is tried again with
half the microbatch. Results: `results/gpu/<device>/table.json` and `table.md`. On a CPU (`--sizes test --out FOLDER`)
it shows that it works, and the parity is that of the kernels that run there.

    python bench/gpu_table.py --sizes 400m 1b --set runtime.float8=tensorwise --stop-after-seconds 570

measures chosen sizes with an option and adds them to the same table.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from seqpair.distributed.hardware import look_around
from seqpair.distributed.world import choose_device
from seqpair.recipe.prediction import PUBLISHED_H100
from seqpair.text import note

ROOT = Path(__file__).resolve().parent.parent
SIZES = ("17m", "32m", "68m", "150m", "400m", "1b")
QUESTIONS = (
    *((size, member, ()) for size in ("17m", "400m", "68m") for member in ("decoder", "encoder")),
    ("17m", "decoder", ("runtime.loss=triton",)),
    ("400m", "decoder", ("runtime.float8=rowwise",)),
    ("68m", "decoder", ("runtime.residual=bf16",)),
    ("17m", "decoder", ("runtime.compile=off",)),
    ("17m", "encoder", ("runtime.loss=triton",)),
    *((size, "encoder", ("runtime.residual=bf16",)) for size in ("17m", "68m")),
    ("400m", "decoder", ("runtime.compile=off",)),
    ("400m", "encoder", ("runtime.float8=rowwise",)),
    ("400m", "decoder", ("runtime.loss=triton",)),
)
"""What is measured first, at 1,024: (size, member, options)."""
MICROBATCH_TOKENS = {"150m": 32_768, "400m": 16_384, "1b": 16_384}
"""Of sizes that would not fit 80 GB with 65,536."""
WANTED_H100 = {"17m": 1.5e6, "32m": 1.0e6, "68m": 700e3, "150m": 400e3, "400m": 180e3, "1b": 80e3}
"""Tokens a second at 1,024 that this project set itself (issue 5)."""
MICROBATCHES_A_STEP = 8
FEWEST_MICROBATCH_TOKENS = 2048


def run(words: list[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a command in the repository and keep what it prints."""
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)


def commit() -> str:
    """Return the commit, with a mark if the package differs from it; `unknown` outside of a repository."""
    head = run(["git", "rev-parse", "--short", "HEAD"], 60).stdout.strip()
    changed = run(["git", "status", "--porcelain", "--", "src"], 60).stdout.strip()
    return f"{head or 'unknown'}{'-dirty' if changed else ''}"


def parity(seconds: float, *, cuda: bool) -> dict[str, Any]:
    """Run the tests that need a GPU, or without one those of the CPU's kernels; return how they ended."""
    asked = (
        ["gpu", "tests/unit/objectives", "tests/unit/nn", "tests/unit/train"]
        if cuda
        else ["not gpu", "tests/unit/nn/test_attention.py"]
    )
    try:
        done = run([sys.executable, "-m", "pytest", "-q", "--no-header", "-m", *asked], seconds)
    except subprocess.TimeoutExpired:
        return {"passed": False, "summary": f"not done within {seconds:.0f} s", "failed": []}
    lines = done.stdout.strip().splitlines() or ["nothing was printed"]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"passed": done.returncode == 0, "summary": lines[-1], "failed": failed}


def measure(
    cell: dict[str, Any], overrides: list[str], args: argparse.Namespace, most_seconds: float
) -> dict[str, Any]:
    """Measure one cell; halve the microbatch while memory runs out."""
    base = args.microbatch_tokens or MICROBATCH_TOKENS.get(cell["size"], 65_536)
    ends = time.monotonic() + most_seconds
    while True:
        tokens = max(base // cell["seq_len"], 1) * cell["seq_len"]  # whole rows, so that full ones leave no filler
        words = [sys.executable, "-m", "seqpair", "bench", "--json", "--seconds", str(args.seconds)]
        words += ["--batch-tokens", str(MICROBATCHES_A_STEP * tokens), "--set", f"runtime.microbatch_tokens={tokens}"]
        words += [part for key in ("size", "member", "seq_len") for part in (f"--{key.replace('_', '-')}", cell[key])]
        words += [part for override in overrides for part in ("--set", override)]
        left = ends - time.monotonic()
        try:
            done = run([str(word) for word in words], max(1.0, left))
        except subprocess.TimeoutExpired:
            return {"error": f"not done within {most_seconds:.0f} s", "microbatch_tokens": tokens}
        if done.returncode == 0:
            return json.loads(done.stdout) | {"notes": [x for x in done.stderr.splitlines() if "compiled again" in x]}
        out_of_memory = re.search(r"out of memory|OutOfMemory", done.stderr)
        if not out_of_memory or base // 2 < FEWEST_MICROBATCH_TOKENS or tokens == cell["seq_len"]:
            said = done.stderr.strip().splitlines()[-8:] or [f"exit status {done.returncode}, nothing said"]
            return {"error": "\n".join(said), "microbatch_tokens": tokens}
        base //= 2
        note(f"{cell}: out of memory, again with microbatches of {base:,} tokens")


def as_markdown(table: dict[str, Any]) -> str:
    """Return the table as a page."""
    lines = [
        f"# Training on {table['device']}",
        "",
        f"Written by `bench/gpu_table.py`. Parity of the kernels: {table['parity']['summary']}. Tokens are content",
        "tokens; MFU is against the peak that `seqpair bench` names. `wanted` and `the original's` are for one H100,",
        "at 1,024. The parts are data, forward, backward, optimiser.",
        "",
        "| size | member | seq_len | tokens/s | MFU | wanted | the original's | microbatch | graphs | peak memory | "
        "parts | date, torch, commit |",
        "|" + "---|" * 12,
    ]
    for row in table["cells"]:
        cell, found = row["cell"], row["found"]
        head = f"| {cell['size']} | {cell['member']} | {cell['seq_len']:,} |"
        when = f"{row['date']}, {row['torch']}, {row['commit']}" + "".join(f", {text}" for text in row["overrides"])
        if "error" in found:
            lines.append(f"{head} failed: {found['error'].splitlines()[-1]} | | | | | | | | {when} |")
            continue
        asked = [values.get(cell["size"]) for values in (WANTED_H100, PUBLISHED_H100)]
        known = [f"{rate:,.0f}" if rate and cell["seq_len"] == 1024 else "" for rate in asked]
        split = found["split"]
        parts = [split[name] for name in ("data", "forward", "backward", "optimizer")]
        shares = ", ".join(f"{part / max(sum(split.values()), 1e-12):.0%}" for part in parts)
        lines.append(
            f"{head} {found['tokens_per_second']:,.0f} | {found['mfu']:.1%} | {known[0]} | {known[1]} | "
            f"{found['microbatch_tokens']:,} | {found['graphs']} | {found['peak_memory_bytes'] / 2**30:.1f} GiB | "
            f"{shares} | {when} |"
        )
    return "\n".join(lines) + "\n"


def cells_asked(args: argparse.Namespace) -> list[tuple[dict[str, Any], list[str]]]:
    """Return (cell, options) of all cells in the order in which they are measured."""
    chosen = [
        ({"size": size, "member": member, "seq_len": seq_len}, args.overrides)
        for seq_len in args.seq_lens
        for size in args.sizes or SIZES
        for member in args.members
    ]
    if args.sizes:
        return chosen
    first = [
        ({"size": size, "member": member, "seq_len": 1024}, [*args.overrides, *options])
        for size, member, options in QUESTIONS
    ]
    return first + [entry for entry in chosen if entry not in first]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", help="instead of all, biggest questions first")
    parser.add_argument("--members", nargs="+", default=["encoder", "decoder"])
    parser.add_argument("--seq-lens", nargs="+", type=int, default=[1024, 8000])
    parser.add_argument("--seconds", type=float, default=8.0, help="for which a cell is measured")
    parser.add_argument("--microbatch-tokens", type=int, help="instead of what suits 80 GB")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="as in `seqpair bench`")
    parser.add_argument("--cell-seconds", type=float, default=150.0, help="after which a cell counts as failed")
    parser.add_argument("--parity-seconds", type=float, default=120.0, help="after which the tests count as failed")
    parser.add_argument("--stop-after-seconds", type=float, default=float("inf"), help="begin no cell after this")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "gpu")
    args = parser.parse_args()
    began = time.monotonic()
    device = look_around(choose_device("auto"))
    folder = args.out / re.sub(r"[^a-z0-9]+", "-", device.name.lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    path, now = folder / "table.json", {"commit": commit(), "torch": torch.__version__}
    table = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"device": device.name, "cells": []}
    if table.get("parity", {}).get("commit") != now["commit"] or not table["parity"]["passed"]:
        table["parity"] = parity(args.parity_seconds, cuda=device.device == "cuda") | now
        note(f"parity: {table['parity']['summary']}")
    left = 0
    for cell, overrides in cells_asked(args):
        same = [row for row in table["cells"] if row["cell"] == cell and row["overrides"] == overrides]
        if any(now.items() <= row.items() and "error" not in row["found"] for row in same):
            continue
        if time.monotonic() - began > args.stop_after_seconds:
            left += 1
            continue
        rest = args.stop_after_seconds + 30 - (time.monotonic() - began)
        found = measure(cell, overrides, args, min(args.cell_seconds, rest))
        shown = found.get("error") or f"{found['tokens_per_second']:,.0f} tokens/s, MFU {found['mfu']:.1%}"
        note(" ".join(map(str, (*cell.values(), *overrides))) + f": {shown}")
        table["cells"] = [row for row in table["cells"] if row not in same]
        row = {"cell": cell, "overrides": overrides, "found": found, "date": str(datetime.date.today()), **now}
        table["cells"].append(row)
        path.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        (folder / "table.md").write_text(as_markdown(table), encoding="utf-8")
    failed = sum("error" in row["found"] for row in table["cells"])
    note(f"{len(table['cells'])} cells in {folder}, {failed} failed, {left} left")
    sys.exit(0 if not failed and not left and table["parity"]["passed"] else 1)


if __name__ == "__main__":
    main()
