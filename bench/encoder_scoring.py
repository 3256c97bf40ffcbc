"""Scoring LAMBADA with an encoder on this machine: in batches, against one request at a time.

An encoder of random weights, fp32, the real tokenizer. Three ways to the same numbers, which are compared:

* batched: rows of all requests by length in batches of tokens, the head only where it is read (`EncoderScorer`);
* full logits: one row at a time, logits of all positions, as the original's fork of lm-eval does;
* one position: one row at a time, the head only at the position that is read.

The items go in blocks; each block is done all three ways in turn, in an order that rotates. Seconds are given
twice: by the clock, which other work on the machine stretches, and of processor time of the process.

    python bench/encoder_scoring.py --items 1000 --out bench/results/encoder_scoring.md
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers
from local_data import EVAL, MODERNBERT
from safetensors.torch import save_file

from seqpair.data.tokenizer.tokenizer import SpecialIds
from seqpair.files import write_json, write_text
from seqpair.hub.config import ModelFacts, hub_config
from seqpair.hub.weights import to_hub
from seqpair.models.open import open_model
from seqpair.models.score import encode_requests, score_continuations
from seqpair.models.text_model import TextModel
from seqpair.nn.model import LanguageModel, initialise
from seqpair.recipe.plan import ModelPlan
from seqpair.recipe.sizes import SIZES

VOCAB_SIZE = 50_368


def make_encoder(size: str, tokenizer: Path, folder: Path, batch_tokens: int) -> TextModel:
    """Write an encoder of random weights as a Hugging Face folder and open it as a user would."""
    plan = ModelPlan(shape=SIZES[size], vocab_size=VOCAB_SIZE)
    model = LanguageModel(plan)
    initialise(model, plan, 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embedding" not in name:
                parameter.mul_(8)
    specials = SpecialIds(unk=50280, cls=50281, sep=50282, pad=50283, mask=50284)
    facts = ModelFacts(plan, "bidirectional", 1024, 10_000.0, 10_000.0, specials, "masked")
    write_json(folder / "config.json", hub_config(facts, transformers.__version__))
    tensors = to_hub(model.state_dict(), plan.shape.layers, "bidirectional")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(tokenizer / name, folder / name)
    return open_model(folder, batch_tokens=batch_tokens)


@torch.inference_mode()
def one_at_a_time(model: TextModel, requests: list[tuple[str, str]], *, full_logits: bool) -> list[float]:
    """Score request by request, row by row."""
    found = []
    for context, continuation in encode_requests(model, requests):
        total = 0.0
        for done, token in enumerate(continuation):
            known = [model.cls_id, *context, *continuation[:done]]
            row = torch.tensor([[*known, model.mask_id, model.mask_id, model.mask_id, model.sep_id]])
            if full_logits:
                logits = model.network(input_ids=row).logits[0, len(known)]
                total += float(torch.log_softmax(logits.float(), -1)[token])
            else:
                state = model.network.model(input_ids=row).last_hidden_state[0, len(known) : len(known) + 1]
                total += float(model.log_probabilities(state)[0, token])
        found.append(total)
    return found


def commit() -> str:
    try:
        words = ["git", "rev-parse", "--short", "HEAD"]
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="17m")
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--block", type=int, default=100)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--data", type=Path, default=EVAL / "generative" / "lambada_openai.jsonl")
    parser.add_argument("--tokenizer", type=Path, default=MODERNBERT)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    rows = [json.loads(line) for line in chosen.data.read_text(encoding="utf-8").splitlines()[: chosen.items]]
    requests = [(row["context"], " " + row["continuation"]) for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        model = make_encoder(chosen.size, chosen.tokenizer, Path(folder), chosen.batch_tokens)
    ways = {
        "batched": lambda block: [score.log_prob for score in score_continuations(model, block)],
        "full logits": lambda block: one_at_a_time(model, block, full_logits=True),
        "one position": lambda block: one_at_a_time(model, block, full_logits=False),
    }
    for way in ways.values():
        way(requests[:5])
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in ways}
    worst = 0.0
    blocks = [requests[start : start + chosen.block] for start in range(0, len(requests), chosen.block)]
    for number, block in enumerate(blocks):
        names = list(ways)[number % 3 :] + list(ways)[: number % 3]
        values = {}
        for name in names:
            began, cpu_began = time.perf_counter(), time.process_time()
            values[name] = np.array(ways[name](block))
            seconds[name].append(time.perf_counter() - began)
            cpu_seconds[name].append(time.process_time() - cpu_began)
        worst = max(worst, *(float(np.abs(values[name] - values["batched"]).max()) for name in ways))
    write = report(chosen, seconds, cpu_seconds, worst, len(requests))
    print(write)
    if chosen.out:
        write_text(chosen.out, write)


def faster(spent: list[float], batched: list[float]) -> str:
    """Return two cells: the median over the blocks of how much faster batched is, and the range."""
    ratios = [own / fast for own, fast in zip(spent, batched, strict=True)]
    return f"{statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f}"


def report(
    chosen: argparse.Namespace,
    seconds: dict[str, list[float]],
    cpu_seconds: dict[str, list[float]],
    worst: float,
    items: int,
) -> str:
    lines = [
        "# Scoring LAMBADA with an encoder",
        "",
        f"`python bench/encoder_scoring.py --size {chosen.size} --items {items} --block {chosen.block}`, "
        f"{datetime.date.today()}, commit {commit()}, {platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}, load {os.getloadavg()[0]:.1f}.",
        "",
        f"{items} items, random weights of `{chosen.size}`, fp32; "
        f"largest difference between the ways {worst:.1e} nats.",
        "",
        "| way | items/s | batched is faster by, median of the blocks | range "
        "| items per CPU second | batched is faster by | range |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in seconds:
        lines.append(
            f"| {name} | {items / sum(seconds[name]):.1f} | {faster(seconds[name], seconds['batched'])} "
            f"| {items / sum(cpu_seconds[name]):.1f} | {faster(cpu_seconds[name], cpu_seconds['batched'])} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
