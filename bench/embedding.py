"""Embedding texts with an exported encoder: `embed_texts` beside `SentenceTransformer.encode`.

Both read the same export and the same texts, in turn in one process, one thread, fp32, each in its default batches
(8,192 tokens; 32 texts), sentence-transformers also in its best of those tried on a CPU, 8. The texts are cut out of
the local novels at lengths around 390 tokens. Rounds rotate who begins; seconds are of processor time. The vectors are
compared.

    python bench/embedding.py --export runs/demo/encoder/export --out bench/results/embedding.json
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from local_data import TEXT
from sentence_transformers import SentenceTransformer

from seqpair.models.embed import EMBED_BATCH_TOKENS, embed_texts
from seqpair.models.open import open_model
from seqpair.models.text_model import TextModel

OURS = "seqpair"


def texts_of(model: TextModel, count: int, tokens: int) -> list[str]:
    """Return texts of log-normal lengths, nine tenths of them within a factor of 1.5 of the median."""
    ids = np.concatenate(model.encode([path.read_text() for path in sorted((TEXT / "novels").glob("*.txt"))[:3]]))
    draws = np.random.default_rng(0)
    lengths = np.clip(draws.lognormal(np.log(tokens), 0.25, count), 16, model.max_tokens - 8).astype(int)
    starts = draws.integers(0, len(ids) - lengths)
    return [model.decode(ids[start : start + length]) for start, length in zip(starts, lengths, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", type=Path, required=True)
    parser.add_argument("--texts", type=int, default=1500)
    parser.add_argument("--tokens", type=int, default=390)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, theirs = open_model(args.export, device="cpu"), SentenceTransformer(str(args.export), device="cpu")
    texts = texts_of(model, args.texts, args.tokens)
    ways = {
        OURS: lambda given: embed_texts(model, given, batch_tokens=EMBED_BATCH_TOKENS).vectors,
        "sentence-transformers, 32": lambda given: theirs.encode(given, batch_size=32),
        "sentence-transformers, 8": lambda given: theirs.encode(given, batch_size=8),
    }
    vectors = {name: way(texts[:64]) for name, way in ways.items()}  # warms up, too
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(args.rounds):
        names = list(ways)
        for name in names[number % 3 :] + names[: number % 3]:
            began = time.process_time()
            ways[name](texts)
            seconds[name].append(time.process_time() - began)
    ratios = {
        name: sorted(theirs / ours for theirs, ours in zip(spent, seconds[OURS], strict=True))
        for name, spent in seconds.items()
        if name != OURS
    }
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    found = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread, torch {torch.__version__}",
        "load": os.getloadavg(),
        "texts": len(texts),
        "tokens": args.tokens,
        "largest_difference": max(float(np.abs(own - vectors[OURS]).max()) for own in vectors.values()),
        "cpu_seconds": {name: [round(value, 2) for value in spent] for name, spent in seconds.items()},
        "ours_is_faster_by": {
            name: {"median": round(statistics.median(own), 2), "range": [round(own[0], 2), round(own[-1], 2)]}
            for name, own in ratios.items()
        },
    }
    text = json.dumps(found, indent=1) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text)


if __name__ == "__main__":
    main()
