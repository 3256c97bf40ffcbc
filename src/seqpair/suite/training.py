"""Training the runs of a study or of a sweep: one after another, or several at once, each in a process of its own."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_end
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType

import torch

from seqpair.checkpoint.catalog import latest_valid
from seqpair.checkpoint.manifest import CheckpointManifest
from seqpair.data.prepared import Prepared, open_prepared
from seqpair.distributed.world import start_world
from seqpair.errors import NotFiniteError, SeqpairError, TrainingError
from seqpair.paths import run_folder
from seqpair.recipe.data_spec import DataSpec
from seqpair.recipe.diff import plan_digest
from seqpair.recipe.plan import Plan
from seqpair.suite.starts import start_finder
from seqpair.text import Progress, note
from seqpair.train.loop import StopRequest, TrainingOutcome, train_member
from seqpair.train.position import StartingPoint

TrainedRun = tuple[Plan, TrainingOutcome | NotFiniteError]
_POLL_SECONDS = 0.5


def train_part(
    plan: Plan, prepared: Prepared, find_start: Callable[[Plan], StartingPoint] | None = None
) -> TrainingOutcome:
    """Train one member to its end, unless its run is finished.

    Args:
        plan: The member's plan.
        prepared: Tokenizer and stores.
        find_start: How its start is found; by default as `start_finder` does.

    Raises:
        SeqpairError: As `train_member`.
    """
    newest = latest_valid(run_folder(plan))
    if newest is not None and _is_end_of(plan, newest.manifest):
        note(f"{plan.member}: trained already ({newest.name})")
        return TrainingOutcome(finished=True, checkpoint=newest.name, steps_run=0, seconds=0.0)
    with start_world(plan.runtime.device, timeout_seconds=plan.runtime.timeout_seconds) as world:
        return train_member(plan, prepared, world, find_start or start_finder(prepared))


def is_trained(plan: Plan) -> bool:
    """Return whether a member's run holds the last checkpoint of exactly this plan."""
    newest = latest_valid(run_folder(plan))
    return newest is not None and _is_end_of(plan, newest.manifest)


def _is_end_of(plan: Plan, manifest: CheckpointManifest) -> bool:
    """Return whether a checkpoint is this plan's last; one of another plan is left to `train_member` to refuse."""
    steps = sum(phase.steps for phase in plan.phases)
    return manifest.total_steps == steps and manifest.plan_digest == plan_digest(plan)


def train_runs(
    plans: Sequence[Plan],
    data: DataSpec,
    prepared: Prepared,
    find_start: Callable[[Plan], StartingPoint],
    *,
    workers: int = 1,
    announce: Callable[[Plan], None] = lambda plan: None,
) -> Generator[TrainedRun]:
    """Train runs and yield each when it has ended, with its error where its loss was no longer finite.

    A run begins after the one that it starts from; where that one diverged, it ends with the same error. A signal
    stops all runs at a checkpoint; so does an error of one, or a caller that asks for no more of them.

    Args:
        plans: Their plans, each after that of the run it starts from.
        data: What the study is trained on; processes open it themselves.
        prepared: The same, opened.
        find_start: As `start_finder` returns it.
        workers: Runs that train at the same time and share the cores, or take one CUDA device each. A script that gives
            more than one needs the usual `if __name__ == "__main__":`.
        announce: Called before a run begins.

    Raises:
        SeqpairError: As `train_member`; more than one worker under torchrun.
    """
    if workers > 1 and "WORLD_SIZE" in os.environ:
        raise SeqpairError(
            "torchrun starts the ranks of one run, so several runs cannot train at once under it",
            seen=f"--workers {workers}",
            fix="leave out --workers, or start without torchrun",
        )
    diverged: dict[Path | None, NotFiniteError] = {}

    def ended(plan: Plan, train: Callable[[], TrainingOutcome]) -> TrainingOutcome | NotFiniteError:
        try:
            if (start := _start_of(plan)) in diverged:
                raise diverged[start]
            return train()
        except NotFiniteError as error:
            diverged[run_folder(plan).resolve()] = error
            return error

    if workers == 1:
        for plan in plans:
            announce(plan)
            yield plan, ended(plan, partial(train_part, plan, prepared, find_start))
        return
    left, running = list(plans), dict[Future[TrainingOutcome | NotFiniteError], Plan]()
    with _Processes(data, workers) as processes:
        while left or running:
            unfinished = {run_folder(plan).resolve() for plan in (*left, *running.values())}
            ready = [plan for plan in left if _start_of(plan) not in unfinished]
            for plan in ready[: workers - len(running)]:
                left.remove(plan)
                announce(plan)
                running[processes.pool.submit(ended, plan, partial(processes.train, plan))] = plan
            finished, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            processes.pass_signal_on()
            yield from [(running.pop(future), future.result()) for future in finished]


def _start_of(plan: Plan) -> Path | None:
    """Return the run of the study's other member that this one starts from; in a sweep it may be a link's target."""
    member = plan.start.member if plan.start is not None else None
    return None if member is None else (run_folder(plan).parent / member).resolve()


class _Processes:
    """Processes that train one run each, with a thread here that waits for each of them."""

    def __init__(self, data: DataSpec, workers: int) -> None:
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="run")
        self._data, self._threads = data, max(1, torch.get_num_threads() // workers)
        self._alive: list[BaseProcess] = []
        self._stop = StopRequest()
        self._told, self._lock = False, threading.Lock()
        given = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        self._devices = SimpleQueue[str]()
        for _, device in zip(range(workers), itertools.cycle(given.split(",")), strict=False):
            self._devices.put(device)

    def __enter__(self) -> _Processes:
        """Take the signals."""
        self._stop.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop what still trains, at a checkpoint, and wait for it."""
        self._tell()
        self.pool.shutdown(cancel_futures=True)
        self._stop.__exit__(kind, error, at)

    def pass_signal_on(self) -> None:
        """Stop all processes once this one was asked to stop."""
        if self._stop.signal_number is not None and not self._told:
            self._tell()

    def _tell(self) -> None:
        with self._lock:
            self._told = True
            for process in self._alive:
                process.terminate()

    def train(self, plan: Plan) -> TrainingOutcome:
        """Train a run in a process of its own and wait for its end."""
        device = self._devices.get()
        here, there = _CONTEXT.Pipe(duplex=False)
        process = _CONTEXT.Process(target=_train_alone, args=(plan, self._data, self._threads, device, there))
        stopped = TrainingOutcome(finished=False, checkpoint=None, steps_run=0, seconds=0.0)
        with self._lock:
            if self._told:
                return replace(stopped, signal_number=self._stop.signal_number)
            process.start()
            self._alive.append(process)
        there.close()
        try:
            answer = here.recv()
        except EOFError:  # it died
            answer = None
        process.join()
        with self._lock:
            self._alive.remove(process)
        self._devices.put(device)
        if isinstance(answer, Exception):
            raise answer
        if answer is not None and answer.finished:
            return answer
        if not self._told:
            raise TrainingError(
                f"the process that trained {plan.member} ended before its last step",
                seen=f"exit code {process.exitcode}",
                fix="repeat the command, the run resumes; if memory ran out, give fewer --workers",
            )
        return replace(stopped, signal_number=self._stop.signal_number)


_CONTEXT = multiprocessing.get_context("spawn")
"""A forked process would inherit the locks of torch's threads, which nobody there ever releases."""


def _train_alone(plan: Plan, data: DataSpec, threads: int, device: str, answer: Connection) -> None:
    """Train one run in this process, made for it, and answer with the outcome or the error."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_stop_with, args=(parent.sentinel,), daemon=True).start()
    Progress.rewrites = False
    torch.set_num_threads(threads)
    if device:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # read when this process first uses CUDA
    result: TrainingOutcome | SeqpairError | OSError
    try:
        result = train_part(plan, open_prepared(data.sources, data.tokenizer, Path(data.stores)))
    except (SeqpairError, OSError) as error:  # the process that asked raises it; of any other, the trace is shown here
        result = error
    answer.send(result)


def _stop_with(sentinel: int) -> None:
    """Ask this process to stop at a checkpoint once its parent is dead."""
    wait_for_end([sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
