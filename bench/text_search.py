"""How fast `seqpair order --text` searches a store, and how soon `seqpair data show` answers.

    python bench/text_search.py --text FOLDER_OF_JSONL [--tokenizer FOLDER] [--work FOLDER] [--out FILE.json]

The store is made once under --work and used again. The search is measured beside the plain way, in one process and
alternating: decode every document with the tokenizer's own `decode_batch`, then look into the text. Both must find the
same documents.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from seqpair.data.prepare.preparation import prepare
from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.text_search import TextSearch
from seqpair.recipe.load import load_recipe

ROUNDS = 5
RECIPE = """\
extends: 1m
name: search-bench
data:
  stores: {work}/stores
  sources: [{{name: text, kind: jsonl, paths: [{text}]}}]
  tokenizer: {tokenizer}
phases: {{pretrain: {{mixture: {{text: {{share: 1.0}}}}}}}}
"""
QUERIES = {
    "rare": ("zzyzx quorbel", False),
    "rare, any case": ("zzyzx quorbel", True),
    "rare, any case, not ASCII": ("zz\u00fczx quorbel", True),
    "in few documents": ("quadratic formula", False),
    "in most documents": ("the", False),
}


def searched(tokenizer, store, text, ignore_case):
    began = time.perf_counter()
    search = TextSearch(tokenizer, text, ignore_case=ignore_case)
    rows = [hit.row for hit in search.find(store) if hit is not None]
    return search.scanned_bytes / (time.perf_counter() - began) / 1e6, rows


def plainly(tokenizer, store, text, ignore_case):
    began = time.perf_counter()
    rows, size = [], 0
    for start in range(0, store.manifest.documents, 256):
        stop = min(start + 256, store.manifest.documents)
        ids = [store.document_tokens(row).tolist() for row in range(start, stop)]
        for row, decoded in enumerate(tokenizer.backend.decode_batch(ids, skip_special_tokens=False), start):
            size += len(decoded.encode("utf-8"))
            if (text.lower() in decoded.lower()) if ignore_case else (text in decoded):
                rows.append(row)
    return size / (time.perf_counter() - began) / 1e6, rows


def seconds_of(*words):
    found = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "seqpair", *words], check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - began)
    return found


def spread(values, digits):
    return {"median": round(statistics.median(values), digits), "range": [round(f(values), digits) for f in (min, max)]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", required=True)
    parser.add_argument("--tokenizer", default="")
    parser.add_argument("--work", type=Path, default=Path("runs/bench-text-search"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/text_search.json"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    path = given.work / "recipe.yaml"
    tokenizer = f"{{path: {given.tokenizer}}}" if given.tokenizer else "{train_vocab_size: 8192}"
    path.write_text(RECIPE.format(work=given.work.absolute(), text=given.text, tokenizer=tokenizer))
    recipe = load_recipe(str(path))
    prepare(recipe.data.sources, recipe.data.tokenizer, Path(recipe.data.stores), recipe_folder=recipe.folder)
    prepared = open_recipe_data(recipe)
    store = prepared.train["text"]
    results = {}
    for name, (text, ignore_case) in QUERIES.items():
        rates, plain_rates = [], []
        for _ in range(ROUNDS):
            rate, rows = searched(prepared.tokenizer, store, text, ignore_case)
            plain_rate, plain_rows = plainly(prepared.tokenizer, store, text, ignore_case)
            assert rows == plain_rows, name
            rates.append(rate)
            plain_rates.append(plain_rate)
        ratios = [rate / plain for rate, plain in zip(rates, plain_rates, strict=True)]
        results[name] = {
            "documents": len(rows),
            "MB_per_second": spread(rates, 1),
            "plain_MB_per_second": spread(plain_rates, 1),
            "ratio": spread(ratios, 2),
        }
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.strip(),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "store": {key: getattr(store.manifest, key) for key in ("documents", "tokens", "text_bytes", "vocab_size")},
        "search": results,
        "seconds": {
            "data show": spread(seconds_of("data", "show", str(path)), 2),
            "--help": spread(seconds_of("--help"), 2),
        },
    }
    given.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
