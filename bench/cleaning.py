"""The rate of each stage of cleaning, and the two MinHash libraries side by side, in one process.

    python bench/cleaning.py            # writes bench/results/cleaning.json

`datasketch` (with scipy) is measured if it is installed; seqpair does not need it. Rounds alternate between what is
compared; medians and ranges are kept. Text: MedQuAD (short documents) and the textbooks (long ones).
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from local_data import LOCAL_DATA

from seqpair.data.cleaning.contamination import EvalIndex, build_index
from seqpair.data.cleaning.duplicates import SignatureParts, find_duplicates, near_signatures, text_digest
from seqpair.data.cleaning.eval_sets import eval_files, read_eval_items
from seqpair.data.cleaning.rules import Measured, quality_fault
from seqpair.data.cleaning.words import Words, inside_texts, ngram_hashes, words_of
from seqpair.files import write_json
from seqpair.recipe.cleaning_spec import DuplicatesSpec, EvalSetSpec, NearDuplicatesSpec, QualitySpec

ROUNDS = 5
NEAR = NearDuplicatesSpec()
CHEAP = QualitySpec(min_letter_frac=0.1, max_digit_frac=0.9, max_repeated_line_frac=0.99, max_mean_word_letters=99)
REPETITION = QualitySpec(
    max_top_ngram_frac={2: 0.99, 3: 0.99, 4: 0.99}, max_repeated_ngram_frac={5: 0.999, 7: 0.999, 10: 0.999}
)


def texts_of(folder: Path, megabytes: float) -> dict[str, list[str]]:
    medquad = [json.loads(line) for line in (folder / "text/medquad.jsonl").read_text().splitlines()]
    books = [json.loads(line) for file in sorted((folder / "text/openstax").glob("*.jsonl")) for line in file.open()]
    texts = {
        "medquad": [f"{row['question']}\n\n{row['answer']}" for row in medquad],
        "openstax": [row["text"] for row in books],
    }
    for name, rows in texts.items():
        sizes = np.cumsum([len(row) for row in rows])
        texts[name] = rows[: int(np.searchsorted(sizes, megabytes * 1e6))]
    return texts


def timed(stages: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    for stage in stages.values():
        stage()
    for _ in range(ROUNDS):
        for name, stage in stages.items():
            started = time.perf_counter()
            stage()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def checked(texts: list[str], words: Words, spec: QualitySpec) -> int:
    faults = 0
    for number, text in enumerate(texts):
        part = slice(int(words.offsets[number]), int(words.offsets[number + 1]))
        faults += quality_fault(Measured(text, words.hashes[part], words.ends[part] - words.starts[part]), spec) is None
    return faults


def batches(texts: list[str]) -> list[list[str]]:
    return [texts[start : start + 256] for start in range(0, len(texts), 256)]


def stages(texts: list[str], index: EvalIndex) -> dict[str, object]:
    parts = batches(texts)
    words = [words_of(part) for part in parts]
    size = sum(len(text.encode()) for text in texts)
    rows = np.concatenate([near_signatures(part, NEAR)[0] for part in words])
    digests = np.frombuffer(b"".join(map(text_digest, texts)), dtype="<u8").reshape(-1, 2)
    everything = np.ones(len(texts), dtype=bool)
    columns = SignatureParts([np.ascontiguousarray(rows.T)])
    spec = DuplicatesSpec(near=NEAR)
    seconds = timed(
        {
            "cut into words": lambda: [words_of(part) for part in parts],
            "digest of the text": lambda: [text_digest(text) for text in texts],
            "cheap quality rules (4)": lambda: [checked(p, w, CHEAP) for p, w in zip(parts, words, strict=True)],
            "n-gram repetition rules (6)": lambda: [
                checked(p, w, REPETITION) for p, w in zip(parts, words, strict=True)
            ],
            "MinHash signatures": lambda: [near_signatures(part, NEAR) for part in words],
            "search for evaluation text": lambda: [index.search(part) for part in words],
            "find duplicates": lambda: find_duplicates(digests, everything, everything, columns, spec),
        }
    )
    return {
        "documents": len(texts),
        "bytes": size,
        "stages": {
            name: {
                "median_seconds": round(statistics.median(times), 4),
                "documents_per_second": round(len(texts) / statistics.median(times)),
                "megabytes_per_second": round(size / statistics.median(times) / 1e6, 1),
                "megabytes_per_second_range": [round(size / t / 1e6, 1) for t in (max(times), min(times))],
            }
            for name, times in seconds.items()
        },
    }


def minhash(texts: list[str]) -> dict[str, object]:
    """Compare the libraries on equal shingles, already hashed."""
    words = words_of(texts)
    chosen, bounds = inside_texts(words.offsets, NEAR.ngram_words)
    shingles = ngram_hashes(words.hashes, [NEAR.ngram_words])[0][chosen]
    sets = [shingles[low:high] for low, high in zip(bounds[:-1], bounds[1:], strict=True)]
    candidates: dict[str, Callable[[], object]] = {"rensa": lambda: near_signatures(words, NEAR)}
    try:
        from datasketch import MinHash
    except ImportError:
        return {"datasketch": "not installed"}

    def plain() -> None:
        for own in sets:
            sketch = MinHash(NEAR.permutations, seed=1, hashfunc=int)
            sketch.update_batch((own & np.uint64(0xFFFFFFFF)).tolist())

    candidates["datasketch"] = plain
    seconds = timed(candidates)
    ratios = [slow / fast for slow, fast in zip(seconds["datasketch"], seconds["rensa"], strict=True)]
    return {
        "documents": len(texts),
        "shingles": len(shingles),
        **{
            name: {"nanoseconds_a_shingle": round(1e9 * statistics.median(t) / len(shingles))}
            for name, t in seconds.items()
        },
        "datasketch_seconds_over_rensa_seconds": {
            "median": round(statistics.median(ratios), 1),
            "range": [round(min(ratios), 1), round(max(ratios), 1)],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=LOCAL_DATA, help="the folder with text/ and eval/")
    parser.add_argument("--megabytes", type=float, default=8.0, help="text of each source")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "cleaning.json")
    options = parser.parse_args()
    sets = [
        EvalSetSpec(name="blimp", paths=(f"{options.data}/eval/blimp/*.jsonl",), fields=("sentence_good",)),
        EvalSetSpec(name="boolq", paths=(f"{options.data}/eval/generative/boolq.jsonl",), fields=("query",)),
        EvalSetSpec(name="qmsum", paths=(f"{options.data}/eval/retrieval/qmsum_long/corpus.jsonl",), fields=("text",)),
    ]
    texts = texts_of(options.data, options.megabytes)
    with tempfile.TemporaryDirectory() as folder:
        items = ((entry.name, i) for entry in sets for file in eval_files(entry) for i in read_eval_items(entry, file))
        started = time.perf_counter()
        build_index(items, 13, 8, Path(folder))
        index_seconds = time.perf_counter() - started
        index = EvalIndex(Path(folder))
        ngrams = sum(entry.ngrams for entry in index.sets)
        report = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "commit": subprocess.run(
                ["git", "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True
            ).stdout.strip(),
            "machine": f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}, one process",
            "rounds": ROUNDS,
            "index": {"ngrams": ngrams, "seconds": round(index_seconds, 2)},
            **{name: stages(rows, index) for name, rows in texts.items()},
            "minhash": minhash(texts["medquad"][:1500]),
        }
    write_json(options.out, report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
