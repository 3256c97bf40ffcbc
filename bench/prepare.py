"""How fast `prepare` is beside the tokenizer alone, and how much memory it needs.

    python bench/prepare.py speed --rounds 5          # prepare, encode_batch, encode_batch_fast in turn
    python bench/prepare.py memory --megabytes 500    # peak of all processes while one JSONL file is prepared

`speed` reads a share (`--share`) of every body of the shared text, as six sources. The tokenizer alone gets the texts
ready in memory, in batches of 2 MiB and all at once; the fastest of these counts, and its ids are not even taken out.
`prepare` loads the tokenizer, hashes and reads the files, tokenizes, and writes finished stores. Rounds alternate, so
that a busy machine hits all alike; seconds of processor time, of all processes, are given beside the clock's, because
other work moves them less.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from local_data import MODERNBERT, TEXT

from seqpair.data.prepare.preparation import prepare
from seqpair.data.prepare.workers import default_workers
from seqpair.data.sources.documents import Tally, documents
from seqpair.data.sources.opening import open_source
from seqpair.data.tokenizer.tokenizer import Tokenizer, load_tokenizer
from seqpair.recipe.data_spec import SourceSpec, TokenizerSpec

BATCH_CHARS = (1 << 21, 1 << 40)


def sample(folder: Path, share: float) -> list[SourceSpec]:
    """Copy a share of each body of the shared text, and return them as six sources."""
    specs = []
    for name, pattern, fields in (
        ("openstax", "openstax/*.jsonl", ("text",)),
        ("medquad", "medquad.jsonl", ("question", "answer")),
        ("peps", "peps.jsonl", ("text",)),
        ("factbook", "factbook.jsonl", ("text",)),
        ("kjv", "kjv.jsonl", ("text",)),
    ):
        lines = [line for path in sorted(TEXT.glob(pattern)) for line in path.open("rb")]
        out = folder / f"{name}.jsonl"
        out.write_bytes(b"".join(lines[: max(1, int(len(lines) * share))]))
        specs.append(SourceSpec(name=name, kind="jsonl", paths=(str(out),), text_field=fields))
    novels = sorted((TEXT / "novels").glob("*.txt"))
    chosen = tuple(str(path) for path in novels[: max(1, int(len(novels) * share))])
    return [*specs, SourceSpec(name="novels", kind="text", paths=chosen)]


def texts_of(specs: Sequence[SourceSpec]) -> list[str]:
    """Return all texts of some sources."""
    return [document.text for spec in specs for document in documents(open_source(spec), Tally())]


def encode_alone(tokenizer: Tokenizer, texts: Sequence[str], method: str, batch_chars: int) -> int:
    """Encode the texts in batches and return the number of tokens."""
    encode = getattr(tokenizer.backend, method)
    tokens, batch, chars = 0, [], 0
    for index, text in enumerate(texts):
        batch.append(text)
        chars += len(text)
        if chars >= batch_chars or index == len(texts) - 1:
            tokens += sum(map(len, encode(batch, add_special_tokens=False)))
            batch, chars = [], 0
    return tokens


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds that some work takes: the clock's, and the processors' with ended child processes."""
    started, before = time.perf_counter(), sum(os.times()[:4])
    work()
    return time.perf_counter() - started, sum(os.times()[:4]) - before


def speed(rounds: int, share: float) -> dict[str, object]:
    """Measure `prepare` beside the tokenizer alone, in alternating rounds."""
    cores = len(os.sched_getaffinity(0))
    tokenizer = load_tokenizer(MODERNBERT)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        specs = sample(folder, share)
        texts = texts_of(specs)
        size = sum(len(text.encode("utf-8")) for text in texts)
        seconds: dict[str, list[tuple[float, float]]] = {}
        spec = TokenizerSpec(path=str(MODERNBERT))
        for index in range(rounds):
            stores = folder / f"stores{index}"
            taken = timed(lambda stores=stores: prepare(specs, spec, stores, workers=default_workers()))
            seconds.setdefault("prepare", []).append(taken)
            shutil.rmtree(stores)
            for method in ("encode_batch", "encode_batch_fast"):
                for chars in BATCH_CHARS:
                    label = "all at once" if chars == BATCH_CHARS[-1] else f"{chars >> 20} MiB"
                    taken = timed(lambda m=method, c=chars: encode_alone(tokenizer, texts, m, c))
                    seconds.setdefault(f"{method}, {label}", []).append(taken)
            print(json.dumps({name: values[-1] for name, values in seconds.items()}), file=sys.stderr, flush=True)
    ratios = {}
    for kind, position in (("clock", 0), ("processors", 1)):
        best = [min(v[i][position] for name, v in seconds.items() if name != "prepare") for i in range(rounds)]
        ratios[kind] = sorted(best[i] / seconds["prepare"][i][position] for i in range(rounds))
    return {
        "bytes": size,
        "documents": len(texts),
        "cores": cores,
        "megabytes_per_second": {
            name: {
                kind: {"median": statistics.median(rates), "range": [min(rates), max(rates)]}
                for kind, rates in (
                    ("clock", [size / 1e6 / value[0] for value in values]),
                    ("processor", [size / 1e6 / value[1] for value in values]),
                )
            }
            for name, values in seconds.items()
        },
        "ratio_to_the_fastest_alone_of_the_same_round": {
            kind: {"median": statistics.median(values), "all": values} for kind, values in ratios.items()
        },
    }


def memory(megabytes: float, workers: int) -> dict[str, object]:
    """Measure the peak of the proportional set sizes of all processes while one file is prepared."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as temporary:
        folder = Path(temporary)
        specs = sample(folder, 0.4)
        out = folder / "large.jsonl"
        with out.open("wb") as handle:
            while handle.tell() < megabytes * 1e6:
                for spec in specs:
                    if spec.text_field == ("text",):
                        with Path(spec.paths[0]).open("rb") as given:
                            shutil.copyfileobj(given, handle)
        recipe = {
            "paths": [str(out)],
            "tokenizer": str(MODERNBERT),
            "stores": str(folder / "stores"),
            "workers": workers,
        }
        command = [sys.executable, __file__, "one", json.dumps(recipe)]
        started = time.perf_counter()
        process = subprocess.Popen(command)
        peak, samples = [0, 0], 0
        while process.poll() is None:
            now = _memory_of(process.pid)
            peak, samples = [max(peak[0], now[0]), max(peak[1], now[1])], samples + 1
            threading.Event().wait(0.2)
        if process.returncode:
            raise SystemExit(process.returncode)
        return {
            "file_bytes": out.stat().st_size,
            "workers": workers,
            "seconds": time.perf_counter() - started,
            "peak_pss_bytes": peak[0],
            "peak_anonymous_bytes": peak[1],
            "samples": samples,
        }


def _memory_of(pid: int) -> tuple[int, int]:
    """Return the proportional and the anonymous set size of a process and all below it, bytes."""
    pss = anonymous = 0
    waiting = [pid]
    while waiting:
        current = waiting.pop()
        try:
            for line in Path(f"/proc/{current}/smaps_rollup").read_text().splitlines():
                name, _, value = line.partition(":")
                pss += int(value.split()[0]) * 1024 if name == "Pss" else 0
                anonymous += int(value.split()[0]) * 1024 if name == "Pss_Anon" else 0
            for task in Path(f"/proc/{current}/task").iterdir():
                waiting.extend(int(child) for child in (task / "children").read_text().split())
        except OSError:
            continue
    return pss, anonymous


def one(recipe: dict[str, object]) -> None:
    """Prepare one file of lines; the process that `memory` watches."""
    spec = SourceSpec(name="large", kind="jsonl", paths=tuple(recipe["paths"]))
    prepare([spec], TokenizerSpec(path=str(MODERNBERT)), Path(recipe["stores"]), workers=recipe["workers"])


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "memory", "one"])
    parser.add_argument("recipe", nargs="?")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--share", type=float, default=0.25)
    parser.add_argument("--megabytes", type=float, default=500)
    parser.add_argument("--workers", type=int, default=default_workers())
    given = parser.parse_args()
    if given.what == "one":
        one(json.loads(given.recipe))
        return
    outcome = speed(given.rounds, given.share) if given.what == "speed" else memory(given.megabytes, given.workers)
    print(json.dumps(outcome, indent=1))


if __name__ == "__main__":
    main()
