"""A process killed before its n-th file operation, in every stage: the repeated command ends with the same bytes.

A server process, which has imported everything and computed nothing, forks a child for each command. The child counts
what it opens for writing, renames, makes, removes and flushes below its folder, and kills itself before number n.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from labelled_sets import filler
from tiny import write_tiny_study

KILLS = 10
"""Per stage, at places spread over all its operations, the first and the last among them."""
SMALL = ("phases.pretrain.budget_tokens=4k", "phases.pretrain.lr={warmup_tokens: 500, decay_tokens: 1k}")
SETS = [word for key in (*SMALL, "checkpoints.every_tokens=2k", "held_out.sequences=2") for word in ("--set", key)]
TUNED = ["--data", "rows.tsv", "--text", "text", "--label", "mood", "--rate", "1e-3", "--epochs", "1", "--seeds", "1"]
EXPORT = "runs/tiny/encoder/export"
STAGES: dict[str, list[str]] = {
    "prepare": ["prepare", "tiny.yaml"],
    "train": ["train", "tiny.yaml", "--member", "encoder", *SETS],
    "export": ["export", "runs/tiny/encoder", EXPORT, "--overwrite"],
    "convert": ["convert", EXPORT, "converted", "--to", "decoder"],
    "soup": ["soup", "runs/tiny/encoder", "--last", "2", "--out", "mean"],
    "order": ["order", "runs/tiny", "--export", "order.parquet"],
    "embed": ["embed", EXPORT, "rows.tsv", "--out", "vectors.npy", "--overwrite"],
    "eval": ["eval", EXPORT, "--suite", "own"],
    "finetune": ["finetune", EXPORT, *TUNED, "--out", "tuned"],
    "report": ["report", "runs/tiny"],
    "release": ["release", "runs/tiny", "release"],
    "sweep": ["sweep", "tiny.yaml", "--over", "optimizer.lr=1e-3,2e-3", "--members", "encoder", *SETS],
}
TIME = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
VOLATILE = ("created", "seconds", "tokens_per_second", "time", "date", "mtime_ns", "files")
"""Keys whose values differ between two runs that nothing interrupts: times of clocks and files."""


def timeless(value: Any) -> Any:
    """Return a JSON value without what clocks wrote."""
    if isinstance(value, dict):
        return {key: timeless(below) for key, below in value.items() if not key.endswith(VOLATILE)}
    return [timeless(below) for below in value] if isinstance(value, list) else value


def contents(folder: Path) -> dict[str, Any]:
    """Return what every file below a folder says, the caches and locks aside."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.name != ".lock" and not name.startswith("cache/"):
            found[name] = TIME.sub(b"", path.read_bytes())
            if path.suffix in (".json", ".jsonl"):
                lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
                found[name] = [timeless(json.loads(line)) for line in lines]
    return found


class Server:
    """The process that forks; `run` returns a child's exit status and how many operations it counted."""

    def __init__(self) -> None:
        options = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONHASHSEED": "0"}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **options, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def run(self, folder: Path, words: list[str], kill_at: int = 0) -> tuple[int, int]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([str(folder), words, kill_at]) + "\n")
        self.process.stdin.flush()
        status, counted = json.loads(self.process.stdout.readline())
        return status, counted


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    with made.process:  # its pipes are closed at the end, which ends it
        yield made


@pytest.fixture(scope="module")
def earlier(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder as it is before each stage; all lie at the same path when a stage runs, as plans name paths."""
    place = tmp_path_factory.mktemp("killed") / "work"
    place.mkdir()
    study = write_tiny_study(place)
    study.recipe.write_text(study.recipe.read_text().replace(f"{place}/", ""))
    (place / "rows.tsv").write_text("".join(["text\tmood\n", *(f"{one}\n" for one in moods())]))
    found = {}
    for stage, words in STAGES.items():
        found[stage] = place.with_name(f"before-{stage}")
        shutil.copytree(place, found[stage])
        assert server.run(place, words)[0] == 0, stage
    found["end"] = place
    return found


def moods() -> list[str]:
    import random

    draw = random.Random(0)
    return [f"{('import', 'def')[n % 2]} {' '.join(filler(draw, 4))}\t{('bad', 'good')[n % 2]}" for n in range(24)]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_the_repeated_command_ends_with_the_same_bytes(server, earlier, stage) -> None:
    place, words = earlier["end"], STAGES[stage]

    def begin() -> None:
        shutil.rmtree(place)
        shutil.copytree(earlier[stage], place)

    begin()
    status, operations = server.run(place, words)
    assert status == 0
    wanted = contents(place)
    kills = min(KILLS, operations)
    killed = [1 + index * (operations - 1) // (kills - 1) for index in range(kills)]
    for number in killed:
        begin()
        assert server.run(place, words, kill_at=number)[0] == -signal.SIGKILL, number
        finished = contents(place) == wanted  # some verbs refuse to write what is there
        assert server.run(place, words)[0] == 0 or finished, f"repeated after a kill before {number} of {operations}"
        found = contents(place)
        wrong = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        assert not wrong, f"after a kill before operation {number} of {operations}: {wrong}"
    sys.stderr.write(f"{stage}: {len(killed)} kills over {operations} operations\n")


def _command(folder: str, words: list[str], kill_at: int, told: int) -> None:
    """Run one command in this process, count its operations, and die before number `kill_at`."""
    from seqpair.cli.app import main

    root, counted = os.path.realpath(folder), 0

    def count(place: object = "") -> None:
        nonlocal counted
        if isinstance(place, str | bytes | os.PathLike) and root in os.path.abspath(os.fsdecode(place)):
            counted += 1
            if counted == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = given
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR):
                count(path)
        elif event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.symlink", "os.link"):
            count(given[0])

    flush = os.fsync
    os.fsync = lambda descriptor: (count(root), flush(descriptor))[1]  # type: ignore[assignment, func-returns-value]
    os.chdir(root)
    os.environ["XDG_CACHE_HOME"] = os.path.join(root, "cache")
    sys.argv = ["seqpair", *words]
    sys.addaudithook(hook)
    with open(os.devnull, "w") as quiet, open(f"{root}.log", "a") as log:  # noqa: PTH123
        sys.stdout, sys.stderr = quiet, log
        try:
            main()
            status = 0
        except SystemExit as ended:
            status = int(ended.code or 0)
    os.write(told, json.dumps(counted).encode())
    os._exit(status)


def _serve() -> None:
    import torch  # noqa: F401
    import transformers  # noqa: F401

    import seqpair.cli.app
    import seqpair.suite.study  # noqa: F401

    for line in sys.stdin:
        folder, words, kill_at = json.loads(line)
        heard, told = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                _command(folder, words, kill_at, told)
            except BaseException:
                traceback.print_exc(file=sys.__stderr__)
            finally:
                os._exit(70)
        os.close(told)
        with os.fdopen(heard) as pipe:
            counted = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps([status, int(counted or 0)]), flush=True)  # noqa: T201


if __name__ == "__main__":
    _serve()
