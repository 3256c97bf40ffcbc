"""Worker processes that make parts, and one line of progress over all of them.

The tokenizer's own threads share its tables, so a few cores are used best by one process; what Python does around
it keeps one core busy for about ten that tokenize, so many cores want several processes, each with some threads.
With one worker no process is started: the parts are made here.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait as wait_for_end
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from seqpair.data.prepare.part_build import PartTask, make_part
from seqpair.data.sources.documents import Source
from seqpair.data.sources.opening import open_source
from seqpair.data.tokenizer.tokenizer import Tokenizer
from seqpair.errors import DataError
from seqpair.recipe.data_spec import SourceSpec
from seqpair.text import Progress, format_count

_CORES_A_WORKER = 4
_UNITS_AT_ONCE = 2
_WORTH_PROCESSES_BYTES = 1 << 22
_QUEUED_A_WORKER = 3
_POLL_SECONDS = 0.5


def usable_cores() -> int:
    """Return how many cores this process may use; macOS has no affinity, so there it is all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """Return how many processes the cores of this machine, as far as they are ours, are best used by."""
    return max(1, usable_cores() // _CORES_A_WORKER)


class _StoppedError(Exception):
    """The main process wants no more."""


@dataclass
class _Counters:
    """What the workers have done together, in memory that they share."""

    bytes_read: Any
    tokens: Any
    stop: Event

    def advance(self, bytes_read: int, tokens: int) -> None:
        if self.stop.is_set():
            raise _StoppedError
        with self.bytes_read.get_lock():
            self.bytes_read.value += bytes_read
            self.tokens.value += tokens


@dataclass(frozen=True)
class Workers:
    """Makes parts with a number of processes.

    Attributes:
        count: How many processes; 1 makes everything in this one.
        tokenizer: What encodes the text; each process gets a copy, which is quicker than to load and check it.
    """

    count: int
    tokenizer: Tokenizer

    def make(self, tasks: Sequence[PartTask], bytes_before: int) -> Iterator[PartTask]:
        """Make the parts, and yield each task when its part is there.

        Args:
            tasks: What to make; begun in this order.
            bytes_before: Bytes of the sources in parts that an earlier run left, for progress.

        Raises:
            DataError: A source cannot be read, or a worker process died.
            DiskFullError: The disk is full; finished parts remain.
        """
        if not tasks:
            return
        total = bytes_before + sum(task.unit.size_bytes for task in tasks)
        progress = Progress("prepare", total, "B", done=bytes_before)
        left_bytes = total - bytes_before
        alone = self.count == 1 or len(tasks) == 1 or left_bytes <= _WORTH_PROCESSES_BYTES
        yield from self._make_here(tasks, progress) if alone else self._make_in_processes(tasks, progress)

    def _make_here(self, tasks: Sequence[PartTask], progress: Progress) -> Iterator[PartTask]:
        """Make the parts in this process, two at a time: one tokenizes while the other waits for the disk."""
        tokens = 0
        lock, stop, own = threading.Lock(), threading.Event(), threading.local()

        def advance(more_bytes: int, more_tokens: int) -> None:
            nonlocal tokens
            if stop.is_set():
                raise _StoppedError
            with lock:
                tokens += more_tokens
                progress.update(progress.done + more_bytes, _token_rate(progress, tokens))

        def work(task: PartTask) -> None:
            if getattr(own, "spec", None) != task.spec:
                own.spec, own.source = task.spec, open_source(task.spec, task.recipe_folder)
            make_part(task, own.source, self.tokenizer, advance)

        with ThreadPoolExecutor(_UNITS_AT_ONCE, thread_name_prefix="part") as pool:
            try:
                yield from _finished_tasks(pool, work, tasks, _UNITS_AT_ONCE)
            finally:
                stop.set()
        progress.finish(f"{format_count(tokens)} tokens, {_token_rate(progress, tokens)}")

    def _make_in_processes(self, tasks: Sequence[PartTask], progress: Progress) -> Iterator[PartTask]:
        # "spawn": a forked child would inherit locks of the tokenizer's threads that nobody there ever releases.
        context = multiprocessing.get_context("spawn")
        counters = _Counters(context.Value("q", 0), context.Value("q", 0), context.Event())
        before = progress.done
        count = min(self.count, len(tasks))
        threads = max(1, usable_cores() // count)
        pool = ProcessPoolExecutor(
            count, mp_context=context, initializer=_begin, initargs=(self.tokenizer, threads, counters)
        )
        try:

            def show() -> None:
                progress.update(before + counters.bytes_read.value, _token_rate(progress, counters.tokens.value))

            yield from _finished_tasks(pool, _work, tasks, count * _QUEUED_A_WORKER, show)
            tokens = counters.tokens.value
            progress.finish(f"{format_count(tokens)} tokens, {_token_rate(progress, tokens)}")
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process of `prepare` died",
                seen=error,
                fix="repeat the command, finished parts are kept; if memory ran out, give fewer --workers",
            ) from error
        finally:
            counters.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)


def _finished_tasks(
    pool: Executor,
    work: Callable[[PartTask], None],
    tasks: Sequence[PartTask],
    queued: int,
    show: Callable[[], None] | None = None,
) -> Iterator[PartTask]:
    """Yield tasks as they are finished, with at most `queued` handed over; `show` is called now and then."""
    waiting: dict[Future[None], PartTask] = {}
    left = iter(tasks)
    while True:
        while len(waiting) < queued and (task := next(left, None)) is not None:
            waiting[pool.submit(work, task)] = task
        if not waiting:
            return
        finished, _ = wait(waiting, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
        if show is not None:
            show()
        for future in finished:
            future.result()
            yield waiting.pop(future)


def _token_rate(progress: Progress, tokens: int) -> str:
    """Return tokens per second, at the rate of bytes: both are counted from where this process began."""
    read = progress.done - progress.first_done
    return f"{format_count(progress.rate() * tokens / read if read else 0)} tokens/s"


_process: dict[str, Any] = {}
"""What a worker process keeps from task to task; set once by `_begin`."""


def _begin(tokenizer: Tokenizer, threads: int, counters: _Counters) -> None:
    """Set a worker process up: its share of threads, no reaction to Ctrl-C, an end when its parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    _process.update(tokenizer=tokenizer, counters=counters)


def _end_with(sentinel: int) -> None:
    wait_for_end([sentinel])
    os._exit(1)  # a killed parent leaves nobody to catch an exception, and threads would keep the process alive


@functools.lru_cache(maxsize=8)
def _opened(spec: SourceSpec, recipe_folder: Path | None) -> Source:
    return open_source(spec, recipe_folder)


def _work(task: PartTask) -> None:
    make_part(task, _opened(task.spec, task.recipe_folder), _process["tokenizer"], _process["counters"].advance)
