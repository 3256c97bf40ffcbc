"""How fast MDS shards are read on one core: raw and zstd, token ids and text, against reading the bytes alone.

Run: taskset -c 0 python bench/mds.py [--json FILE]

Two shards of 8 MB each are written for every case with the tests' own writer: token ids in chunks of 1,024
(drawn with Zipf frequencies, so that zstd has something to do) and text in documents of 3,000 characters. All
cases are read in every round, one after the other; "bytes alone" reads or unpacks the same files and does
nothing else. Files are in the page cache; the clock is CPU time, so that a busy machine disturbs it less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import zstandard

from seqpair.data.sources.documents import Tally, documents
from seqpair.data.sources.opening import open_source
from seqpair.recipe.data_spec import SourceSpec

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from mds_writer import write_mds

SHARDS, SHARD_BYTES, ROUNDS = 2, 1 << 23, 5
CHUNK_TOKENS, VOCABULARY, TEXT_CHARS = 1024, 50_280, 3000


def rows_of_ids() -> list[dict[str, object]]:
    rng = np.random.default_rng(0)
    count = SHARDS * SHARD_BYTES // (4 * CHUNK_TOKENS + 30)
    ids = np.minimum(rng.zipf(1.2, (count, CHUNK_TOKENS)), VOCABULARY).astype("<u4")
    return [{"input_ids": row, "id": f"document-{index}"} for index, row in enumerate(ids)]


def rows_of_text() -> list[dict[str, object]]:
    rng = np.random.default_rng(0)
    words = np.array(["".join(rng.choice(list("etaoinshrdlu"), 1 + index % 9)) for index in range(5000)])
    count = SHARDS * SHARD_BYTES // TEXT_CHARS
    return [
        {"text": " ".join(words[rng.zipf(1.3, 700) % 5000])[:TEXT_CHARS], "id": f"document-{index}"}
        for index in range(count)
    ]


def read(spec: SourceSpec) -> int:
    """Read a source to its end; return its tokens, or 0 for text."""
    return sum(0 if document.ids is None else len(document.ids) for document in documents(open_source(spec), Tally()))


def bytes_alone(folder: Path) -> int:
    for path in sorted(folder.glob("shard*")):
        data = path.read_bytes()
        if path.suffix == ".zstd":
            zstandard.ZstdDecompressor().decompress(data)
    return 0


def seconds(run: Callable[[], int]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cases: dict[str, tuple[Path, SourceSpec]] = {}
        for content, rows in (("ids", rows_of_ids()), ("text", rows_of_text())):
            columns = {"id": "str", **({"input_ids": "ndarray:uint32"} if content == "ids" else {"text": "str"})}
            for packing in (None, "zstd"):
                name = f"{content}, {packing or 'raw'}"
                folder = Path(scratch) / name.replace(", ", "-")
                write_mds(folder, columns, rows, packing=packing, shard_rows=-(-len(rows) // SHARDS))
                ids = {"ids_field": "input_ids"} if content == "ids" else {}
                cases[name] = (folder, SourceSpec(name="s", kind="mds", paths=(str(folder),), id_field="id", **ids))
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in cases}
        for _ in range(ROUNDS):
            for name, (folder, spec) in cases.items():
                times[name].append((seconds(lambda s=spec: read(s)), seconds(lambda f=folder: bytes_alone(f))))
        found = []
        for name, (folder, spec) in cases.items():
            index = json.loads((folder / "index.json").read_text())
            raw_mb = sum(shard["raw_data"]["bytes"] for shard in index["shards"]) / 1e6
            disk_mb = sum(path.stat().st_size for path in folder.glob("shard*")) / 1e6
            rates = sorted(raw_mb / ours for ours, _ in times[name])
            found.append(
                {
                    "case": name,
                    "raw_mb": round(raw_mb, 1),
                    "disk_mb": round(disk_mb, 1),
                    "mb_per_second": round(statistics.median(rates), 1),
                    "range": [round(rates[0], 1), round(rates[-1], 1)],
                    "mtokens_per_second": round(read(spec) / statistics.median(o for o, _ in times[name]) / 1e6, 1),
                    "bytes_alone_mb_per_second": round(raw_mb / statistics.median(b for _, b in times[name]), 1),
                }
            )
    for line in found:
        print(json.dumps(line))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
