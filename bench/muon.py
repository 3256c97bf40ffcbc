"""Muon against StableAdamW: the loss at equal tokens, at several rates, and what a step costs.

Both members of size 1m on novels, 300k content tokens each, otherwise the preset `demo`. Runs that are there already
are not trained again, so the command can be repeated. A row of `seeds` more is trained at each optimiser's best rate.

    python bench/muon.py --folder FOLDER
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from local_data import TEXT

from seqpair.data.prepare.preparation import prepare
from seqpair.data.prepared import Prepared
from seqpair.data.store.counts import plan_member
from seqpair.distributed.world import start_world
from seqpair.paths import run_folder
from seqpair.recipe.load import load_recipe
from seqpair.recipe.schema import Recipe
from seqpair.train.assembly import Run, assemble_run
from seqpair.train.feed import work_of_step
from seqpair.train.loop import step_gradients, train_member

OPTIMIZERS = ("stableadamw", "muon")
MEMBERS = ("encoder", "decoder")
RECIPE = """\
extends: demo
name: novels
data:
  stores: {folder}/stores
  sources: null
  tokenizer: {{train_bytes: 10M}}
phases:
  pretrain: {{mixture: null}}
runs: {folder}/runs
runtime: {{device: cpu, threads: 1}}
held_out: {{every_tokens: 1M, sequences: 48}}
"""


def recipe_of(args: argparse.Namespace, name: str, *changes: str) -> Recipe:
    path = args.folder / "novels.yaml"
    args.folder.mkdir(parents=True, exist_ok=True)
    paths = ", ".join(str(path) for path in sorted(args.novels.glob("*.txt"))[: args.books])
    source = f"data:\n  sources:\n    - {{name: novels, kind: text, paths: [{paths}], held_out_frac: 0.15}}\n"
    base = args.folder / "base.yaml"
    base.write_text(RECIPE.format(folder=args.folder))
    path.write_text(f"extends: {base}\n{source}")
    return load_recipe(str(path), [f"budget={args.tokens}", f"name={name}", *changes])


def trained(args: argparse.Namespace, prepared: Prepared, optimizer: str, lr: float, member: str, seed: int) -> float:
    """Train one run unless it is there; return its held-out loss at the end, in nats per predicted token."""
    name = f"{optimizer}-{1e5 * lr:.0f}e-5-seed{seed}"
    recipe = recipe_of(args, name, f"optimizer.name={optimizer}", f"optimizer.lr={lr}", f"seed={seed}")
    plan = plan_member(recipe, member)
    with start_world("cpu") as world:
        assert train_member(plan, prepared, world).finished, "stopped on request"
    rows = [json.loads(line) for line in (run_folder(plan) / "metrics.jsonl").read_text().splitlines()]
    return next(row["loss"] for row in reversed(rows) if row["kind"] == "held_out")


def step_seconds(run: Run, step: int) -> tuple[float, float]:
    """Return CPU seconds of a step's gradients and of the optimiser."""
    phase = run.plan.phases[0]
    work = work_of_step(run, phase, step % phase.steps)
    began = time.process_time()
    step_gradients(run, phase, work)
    middle = time.process_time()
    run.optimizer.set_lr_frac(0.01)
    run.optimizer.step().read()
    run.optimizer.zero_grad(set_to_none=True)
    return middle - began, time.process_time() - middle


def cost(args: argparse.Namespace, prepared: Prepared, member: str, batch_tokens: int) -> dict[str, Any]:
    """Time both optimisers' steps in turn, in this process."""
    runs = {}
    with start_world("cpu") as world:
        for optimizer in OPTIMIZERS:
            changes = (f"optimizer.name={optimizer}", f"phases.pretrain.batch.tokens={batch_tokens}")
            runs[optimizer] = assemble_run(
                plan_member(recipe_of(args, f"cost-{optimizer}", *changes), member), prepared, world
            )
        seconds: dict[str, list[tuple[float, float]]] = {optimizer: [] for optimizer in OPTIMIZERS}
        for step in range(args.rounds + 2):
            for optimizer in OPTIMIZERS if step % 2 else OPTIMIZERS[::-1]:
                found = step_seconds(runs[optimizer], step)
                if step >= 2:
                    seconds[optimizer].append(found)
    plain, muon = (seconds[optimizer] for optimizer in OPTIMIZERS)
    ratios = sorted(sum(b) / sum(a) for a, b in zip(plain, muon, strict=True))
    return {
        "member": member,
        "batch_tokens": batch_tokens,
        "step_ratio": [statistics.median(ratios), ratios[0], ratios[-1]],
        "gradients_ms": 1e3 * statistics.median(a for a, _ in plain + muon),
        **{f"{name}_ms": 1e3 * statistics.median(b for _, b in seconds[name]) for name in OPTIMIZERS},
    }


def best_rate(losses: Sequence[dict[str, Any]], optimizer: str, member: str) -> float:
    own = [row for row in losses if row["optimizer"] == optimizer and row["member"] == member]
    return min(own, key=lambda row: row["loss"])["lr"]


def train_all(args: argparse.Namespace, prepared: Prepared, cells: Sequence[tuple], found: dict[str, Any]) -> None:
    """Train every cell, and write what is known after each."""
    for cell in cells:
        row = dict(zip(("optimizer", "lr", "member", "seed"), cell, strict=True))
        found["losses"].append({**row, "loss": trained(args, prepared, *cell)})
        write(args.out, found)


def write(path: Path, found: dict[str, Any]) -> None:
    """Write what is known as JSON, and as a page beside it."""
    path.write_text(json.dumps(found, indent=1) + "\n")
    path.with_suffix(".md").write_text(as_page(found))


def as_page(found: dict[str, Any]) -> str:
    """Return the results in Markdown."""
    load = ", ".join(f"{value:.0f}" for value in found["load"])
    lines = [
        "# Muon against StableAdamW",
        "",
        f"{found['date']}, commit {found['commit']}, torch {found['torch']}, two cores of a Xeon with AMX shared with",
        f"other work (load averages {load}). `bench/muon.py`: size 1m on 20 novels, {found['tokens']:,} content tokens",
        "a run, 1,536 a step, otherwise the preset `demo`. Whole novels are held out; the loss is theirs at the end,",
        "in nats per predicted token.",
        "",
        "## Loss at equal tokens",
        "",
    ]
    rates = sorted({row["lr"] for row in found["losses"] if row["seed"] == 21})
    lines += [
        "| member | optimiser | " + " | ".join(f"rate {rate:g}" for rate in rates) + " | best, other seeds |",
        "|---|---|" + "---|" * (len(rates) + 1),
    ]
    for member in MEMBERS:
        for optimizer in OPTIMIZERS:
            own = [row for row in found["losses"] if (row["member"], row["optimizer"]) == (member, optimizer)]
            first = {row["lr"]: row["loss"] for row in own if row["seed"] == 21}
            more = [f"{row['loss']:.3f}" for row in own if row["seed"] != 21]
            cells = [f"{first[rate]:.3f}" if rate in first else "not run" for rate in rates]
            lines.append(f"| {member} | {optimizer} | " + " | ".join(cells) + f" | {', '.join(more) or 'not run'} |")
    lines += [
        "",
        "## What a step costs",
        "",
        "CPU seconds of one thread, the two optimisers in turn in one process; ratio of whole steps, muon by",
        "stableadamw: median (range).",
        "",
        "| member | content tokens a step | gradients, ms | stableadamw, ms | muon, ms | whole step |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["costs"]:
        median, low, high = row["step_ratio"]
        lines.append(
            f"| {row['member']} | {row['batch_tokens']:,} | {row['gradients_ms']:.0f} | {row['stableadamw_ms']:.1f} | "
            f"{row['muon_ms']:.1f} | {median:.2f} ({low:.2f} to {high:.2f}) |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="for stores and runs")
    parser.add_argument("--novels", type=Path, default=TEXT / "novels")
    parser.add_argument("--books", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--rates", nargs=3, type=float, default=[1e-3, 2e-3, 4e-3], help="StableAdamW's")
    parser.add_argument("--muon-rates", nargs=3, type=float, default=[2e-3, 4e-3, 8e-3], help="Muon's")
    parser.add_argument("--seeds", nargs="*", type=int, default=[], help="more seeds, at the best rates")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument(
        "--batch-tokens", nargs="*", type=int, default=[1536, 16_384], help="none: keep the costs that are there"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "muon.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = recipe_of(args, "novels")
    prepared = prepare(recipe.data.sources, recipe.data.tokenizer, Path(recipe.data.stores))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    found: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "torch": torch.__version__,
        "load": os.getloadavg(),
        "tokens": args.tokens,
        "costs": [cost(args, prepared, member, tokens) for tokens in args.batch_tokens for member in MEMBERS]
        or json.loads(args.out.read_text())["costs"],
        "losses": [],
    }
    write(args.out, found)
    rates = {"stableadamw": args.rates, "muon": args.muon_rates}
    middle_first = (1, 2, 0)
    cells = [(name, rates[name][i], member, 21) for i in middle_first for member in MEMBERS for name in OPTIMIZERS]
    train_all(args, prepared, cells, found)
    best = {(name, member): best_rate(found["losses"], name, member) for name in OPTIMIZERS for member in MEMBERS}
    cells = [
        (name, best[name, member], member, seed) for seed in args.seeds for member in MEMBERS for name in OPTIMIZERS
    ]
    train_all(args, prepared, cells, found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
