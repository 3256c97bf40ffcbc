"""A store of 100 million documents: the time and memory of an index for a new sequence length, and of one question.

The store has synthetic lengths and real offsets, ids, id hashes and documents.parquet; its token file is a hole of
the right size. It is written once into --folder (about 5 GB on disk, minutes) and used again. Each measurement runs in
a fresh process; memory is the growth of its anonymous memory (what is not a memory-mapped file), watched
every millisecond, from the moment all modules are imported. Times are by the wall clock and by CPU, for the machine
is shared.

    python bench/big_store.py --folder FOLDER --out bench/results/big_store.md
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from seqpair.data.order.lookup import trace_document
from seqpair.data.order.order import PhaseOrder
from seqpair.data.prepared import Prepared
from seqpair.data.store.manifest import (
    COUNTED_LENGTHS,
    DOCUMENTS,
    ID_HASHES,
    ID_ROWS,
    MANIFEST,
    OFFSETS,
    TOKENS,
    FileEntry,
    StoreManifest,
)
from seqpair.data.store.store import Store
from seqpair.data.store.writer import ROWS_PER_GROUP
from seqpair.files import hash64
from seqpair.recipe.load import load_recipe
from seqpair.recipe.plan import Plan
from seqpair.recipe.resolve import resolve_plans
from seqpair.text import Progress

SCHEMA = pa.schema(
    [("id", pa.string()), ("file", pa.string()), ("offset", pa.int64()), ("length", pa.int64()), ("row", pa.int64())]
)
SEQ_LEN = 1024
_LAZY = (PhaseOrder,)  # what the question imports when it is asked


def id_of(row: int) -> str:
    return f"part-{row // 100_000:05d}.jsonl:{row % 100_000}"


def build(folder: Path, documents: int) -> None:
    """Write the store; its manifest comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    lengths = np.maximum(1, np.random.default_rng(0).lognormal(5.6, 1.2, documents)).astype(np.int64)
    offsets = np.zeros(documents + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    offsets.tofile(folder / OFFSETS)
    with (folder / TOKENS).open("wb") as handle:
        handle.truncate(int(offsets[-1]) * 2)
    hashes = np.empty(documents, dtype=np.uint64)
    progress = Progress("big store", documents, "documents")
    with pq.ParquetWriter(folder / DOCUMENTS, SCHEMA, compression="zstd") as writer:
        for first in range(0, documents, ROWS_PER_GROUP):
            rows = range(first, min(first + ROWS_PER_GROUP, documents))
            ids = [id_of(row) for row in rows]
            hashes[rows.start : rows.stop] = [hash64(name) for name in ids]
            files = [name.split(":")[0] for name in ids]
            places = np.arange(rows.start, rows.stop)
            columns = [ids, files, offsets[places], lengths[places], places % 100_000]
            writer.write_table(pa.table(columns, schema=SCHEMA))
            progress.update(rows.stop)
    progress.finish()
    order = np.argsort(hashes, kind="stable")
    hashes[order].tofile(folder / ID_HASHES)
    order.astype("<i8").tofile(folder / ID_ROWS)
    names = (TOKENS, OFFSETS, DOCUMENTS, ID_HASHES, ID_ROWS)
    manifest = StoreManifest(
        source="big",
        split="train",
        kind="jsonl",
        part=None,
        digest="0" * 64,
        address="big",
        tokenizer_digest="0" * 64,
        vocab_size=50_368,
        dtype="uint16",
        documents=documents,
        tokens=int(offsets[-1]),
        text_bytes=int(offsets[-1]) * 4,
        special_tokens=0,
        sequences={
            length: int(sum((-(-part // (length - 2))).sum() for part in np.array_split(lengths, 64)))
            for length in COUNTED_LENGTHS
        },
        files={name: FileEntry(sha256="0" * 64, bytes=(folder / name).stat().st_size) for name in names},
        held_out_frac=0.0,
        python_version=None,
        rejected={},
        rejected_examples={},
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json())


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def watched(run: Callable[[], object]) -> dict[str, float]:
    """Return seconds by the wall clock and of this thread's CPU, and the peak growth of anonymous memory in MB."""
    peak = before = anonymous_bytes()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, anonymous_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    wall, cpu = time.perf_counter(), time.thread_time()
    run()
    seconds = {"wall": time.perf_counter() - wall, "cpu": time.thread_time() - cpu}
    done.set()
    thread.join()
    return {**seconds, "MB": (max(peak, anonymous_bytes()) - before) / 1e6}


def make_plan(store: Store) -> Plan:
    """Return the published plan of the 17m encoder, every phase from this store, scaled to read it about twice."""
    recipe = load_recipe(
        "17m",
        [
            "data.sources=[{name: big, kind: jsonl, paths: [nowhere.jsonl]}]",
            *(f"phases.{name}.mixture={{big: {{share: 1.0}}}}" for name in ("pretrain", "extend", "decay", "cross")),
            f"budget={2 * store.manifest.tokens}",
        ],
    )
    stats = {"big": store.stats([phase.seq_len for phase in recipe.phases])}
    return resolve_plans(recipe, ["encoder"], stats, store.manifest.vocab_size)["encoder"]


def child(task: str, folder: Path, row: int) -> dict[str, float]:
    """Measure one thing in this process."""
    if task == "open":
        return watched(lambda: Store.open(folder))
    if task == "index":
        (folder / f"pieces-{SEQ_LEN + 1}.i64").unlink(missing_ok=True)
        store = Store.open(folder)
        return watched(lambda: store.pieces(SEQ_LEN + 1))
    if task == "count":
        store = Store.open(folder)
        return watched(lambda: store.stats([1000]))
    if task == "plan":
        return watched(lambda: make_plan(Store.open(folder)))
    plan = make_plan(Store.open(folder))

    def ask() -> None:
        store = Store.open(folder)  # afresh: opening it is a part of the answer
        prepared = Prepared(tokenizer=None, train={"big": store}, held_out={})  # type: ignore[arg-type]
        (trace,) = trace_document(plan, list(plan.phases), id_of(row), "", prepared)
        assert trace.document == id_of(row)
        assert trace.readings

    first = watched(ask)
    again = watched(ask)
    return {**first, "again_wall": again["wall"], "again_cpu": again["cpu"]}


def fresh(task: str, given: argparse.Namespace, row: int = 0) -> dict[str, float]:
    command = [sys.executable, __file__, "--folder", str(given.folder), "--task", task, "--row", str(row)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    answer: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return answer


def spread(values: list[float], scale: float = 1.0) -> str:
    values = sorted(value * scale for value in values)
    return f"{values[len(values) // 2]:,.1f} ({values[0]:,.1f} to {values[-1]:,.1f})"


def measure(given: argparse.Namespace) -> list[str]:
    documents = json.loads((given.folder / MANIFEST).read_text())["documents"]
    child("document", given.folder, 0)  # makes the index for 1,024
    rows = np.random.default_rng(1).integers(0, documents, given.rounds).tolist()
    asked = [fresh("document", given, row) for row in rows]
    lines = ["| what | wall | CPU | memory beyond the maps, MB |", "|---|---|---|---|"]

    def row_of(label: str, keys: tuple[str, str], got: list[dict[str, float]], scale: float) -> None:
        times = [spread([one[key] for one in got], scale) for key in keys]
        lines.append(f"| {label} | {' | '.join(times)} | {spread([one['MB'] for one in got])} |")

    row_of("one document: open the store, find the id, all its readings (ms)", ("wall", "cpu"), asked, 1e3)
    row_of("the same again in the same process (ms)", ("again_wall", "again_cpu"), asked, 1e3)
    for task, label, scale in (
        ("open", "open the store (ms)", 1e3),
        ("plan", "load the recipe and plan from the manifest (ms)", 1e3),
        ("index", "index for a new sequence length (s)", 1.0),
        ("count", "count the sequences of a length that the manifest has not (s)", 1.0),
    ):
        row_of(label, ("wall", "cpu"), [fresh(task, given) for _ in range(3)], scale)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--documents", type=int, default=100_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--task", choices=("open", "index", "count", "plan", "document"), help="Measure one, here.")
    parser.add_argument("--row", type=int, default=0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.task:
        print(json.dumps(child(given.task, given.folder, given.row)))
        return
    if not (given.folder / MANIFEST).is_file():
        build(given.folder, given.documents)
    lines = measure(given)
    print("\n".join(lines))
    if given.out:
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        manifest = json.loads((given.folder / MANIFEST).read_text())
        given.out.write_text(
            f"# A store of {manifest['documents']:,} documents\n\n"
            f"{datetime.date.today()}, commit {commit.stdout.strip()}, "
            f"{os.cpu_count()} cores ({platform.machine()}), load average {os.getloadavg()[0]:.1f}: "
            f"{manifest['tokens']:,} tokens,\nlog-normal lengths. Median (range) over fresh processes.\n\n"
            + "\n".join(lines)
            + "\n\nWritten by `bench/big_store.py`.\n"
        )


if __name__ == "__main__":
    main()
