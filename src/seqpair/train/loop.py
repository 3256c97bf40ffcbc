"""The training loop: step after step through the phases, with exact resume.

A checkpoint is copied between two steps and written while the next ones run. SIGTERM and Ctrl-C let the running step
end, save a checkpoint, and stop.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import FrameType, TracebackType

from torch import Tensor

from seqpair.checkpoint.catalog import latest_valid, thin
from seqpair.checkpoint.lock import Lease, lock_run
from seqpair.checkpoint.store import load_checkpoint, save_checkpoint
from seqpair.data.order.batches import read_batch
from seqpair.data.order.ledger import Ledger, LedgerRecord
from seqpair.data.prepared import Prepared
from seqpair.distributed.world import World
from seqpair.files import write_json
from seqpair.nn.model import drift
from seqpair.paths import DRIFT_FILE, LEDGER_FILE, run_folder
from seqpair.recipe.plan import PhasePlan, Plan
from seqpair.text import Progress, note
from seqpair.train.assembly import Run, assemble_run, seed_dropout
from seqpair.train.feed import StepFeed
from seqpair.train.loggers import open_loggers
from seqpair.train.metrics import Metrics
from seqpair.train.pinned_plan import pin_plan
from seqpair.train.position import Place, StartingPoint, begin_from, manifest_fields, place_after, restore
from seqpair.train.step import ObjectiveLoss, StepLoss, StepWork, accumulate_gradients, not_finite


class StopRequest:
    """A context in which the first SIGTERM or SIGINT sets `signal_number`; a second SIGINT interrupts."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._earlier: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        """Install the handlers (only the main thread may)."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._earlier[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Put the earlier handlers back."""
        for number, handler in self._earlier.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number
        note(f"{signal.Signals(number).name} received: saving after this step, then stopping")


@dataclass(frozen=True)
class TrainingOutcome:
    """How a call of `train_member` ended.

    Attributes:
        finished: Whether the plan's last step is done.
        checkpoint: The name of the newest checkpoint.
        steps_run: Steps that this process ran.
        seconds: Their wall-clock time.
        signal_number: The signal that stopped the run, if one did.
    """

    finished: bool
    checkpoint: str | None
    steps_run: int
    seconds: float
    signal_number: int | None = None


def train_member(
    plan: Plan,
    prepared: Prepared,
    world: World,
    find_start: Callable[[Plan], StartingPoint] | None = None,
    *,
    emulate_float8: bool = False,
) -> TrainingOutcome:
    """Train one member to the end of its plan, from scratch or from its newest checkpoint.

    Repeating the call after any interruption ends with the bits of an uninterrupted run (on the same
    machine and world size; on CUDA with `runtime.deterministic`). So does a call with a plan that is longer than the
    one that the run was trained by: it continues from the newest checkpoint up to which both plans agree.

    Args:
        plan: The member's plan, made with the real stores.
        prepared: Tokenizer and stores.
        world: The ranks.
        find_start: Finds the weights of a member that does not start from scratch; called only where
            the run has no checkpoint of its own yet.
        emulate_float8: Let `runtime.float8` be what it rounds to and no more, on any device: for tests.

    Raises:
        RunLockedError: Another process is using the run folder.
        NotFiniteError: A loss or gradient norm was not finite.
        SeqpairError: Whatever assembly, checkpoints and disk complain about.
    """
    folder = run_folder(plan)
    with lock_run(folder) if world.is_main else contextlib.nullcontext() as lease, StopRequest() as stop:
        if world.is_main:
            pin_plan(plan, folder)
            prepared.tokenizer.save(folder / "tokenizer")
        with world.patience():
            world.barrier()
        run = assemble_run(plan, prepared, world, emulate_float8=emulate_float8)
        with contextlib.closing(_Loop(run, stop, lease, find_start)) as loop:
            return loop.go()


def step_gradients(run: Run, phase: PhasePlan, work: StepWork) -> StepLoss:
    """Make the gradients of a step's mean loss over all predicted tokens, on every rank."""
    seed_dropout(run.plan, phase.name, work.record.step, run.world.rank)
    return accumulate_gradients(run.module, work, run.world, bf16=run.plan.runtime.precision == "bf16")


class _Loop:
    """The state of one training process between two steps."""

    def __init__(
        self,
        run: Run,
        stop: StopRequest,
        lease: Lease | None,
        find_start: Callable[[Plan], StartingPoint] | None,
    ) -> None:
        self.run, self.stop, self.lease, self.find_start = run, stop, lease, find_start
        self.place = Place.at_start()
        writes = run.world.is_main
        self.ledger = Ledger(run.folder / LEDGER_FILE) if writes else None
        self.metrics = Metrics(run.folder, writes=writes)
        self.checkpoint_name: str | None = None
        found = latest_valid(run.folder)
        if found is not None:
            loaded = load_checkpoint(found.path, verify=False)  # `latest_valid` has just verified it
            self.place = restore(run, loaded)
            self.checkpoint_name = loaded.manifest.name
            if writes:
                note(f"{run.plan.member}: going on from checkpoint {self.checkpoint_name}")
        elif run.plan.start is not None:
            assert find_start is not None, "who trains a member with a start says how it is found"
            begin_from(run, find_start(run.plan))
        if self.ledger is not None:
            self.ledger.cut_back(self.place.total_step)
        first_step = self.place.total_step if found is not None else -1  # at the start step 0 is measured again
        loggers = open_loggers(run.plan, run.folder, first_step, self.metrics.rows()) if writes else None
        self.metrics.cut_back(first_step)
        if loggers is not None:
            self.metrics.follow(loggers)
        self.writer = ThreadPoolExecutor(1, thread_name_prefix="seqpair-checkpoint")
        self.writing: Future[None] | None = None
        self.loss_shown: float | None = None
        self.feed = StepFeed(run, self._places_left())

    def go(self) -> TrainingOutcome:
        """Run all steps that are left."""
        plan, began, first = self.run.plan, time.monotonic(), self.place.total_step
        planned = sum(phase.planned_tokens(phase.steps) for phase in plan.phases)
        progress = Progress(plan.member, planned, "tokens", done=self.place.content_tokens)
        for index in range(self.place.phase_index, len(plan.phases)):
            phase = plan.phases[index]
            if self.place.phase_index != index:
                self.place = self.place.entering(index)
            if self.place.total_step == 0:
                self._measure_held_out(phase)
            while self.place.step < phase.steps:
                # The first step may compile, and ranks need not take equally long for that.
                is_first = self.place.total_step == first
                with self.run.world.patience() if is_first else contextlib.nullcontext():
                    self._one_step(phase, progress)
                if self.writing is not None and self.writing.done():
                    self._finish_writing()
                stopping = self._asked_to_stop()
                if stopping or self.place.step in phase.checkpoint_steps:
                    self._save(phase)
                if stopping:
                    self._finish_writing()
                    return self._outcome(began, first, finished=False)
        if not planned:
            self._save(plan.phases[-1])  # a member without a step is its start, and has a checkpoint all the same
        self._finish_writing()
        self._write_drift()
        progress.finish(self._extra())
        return self._outcome(began, first, finished=True)

    def close(self) -> None:
        """End the feed and the writing of a checkpoint, and close the files of records."""
        self.feed.close()
        self.writer.shutdown()
        if self.ledger is not None:
            self.ledger.close()
        self.metrics.close()

    def _places_left(self) -> Iterator[tuple[PhasePlan, int]]:
        """Return the phase and the number of every step that is left."""
        place = self.place
        for index, phase in enumerate(self.run.plan.phases[place.phase_index :]):
            for step in range(place.step if index == 0 else 0, phase.steps):
                yield phase, step

    def _asked_to_stop(self) -> bool:
        """Return whether any rank was asked to stop, so that all ranks agree on the step."""
        asked = self.run.world.all_reduce_sum([float(self.stop.signal_number is not None)])
        return asked[0] > 0

    def _outcome(self, began: float, first: int, *, finished: bool) -> TrainingOutcome:
        return TrainingOutcome(
            finished=finished,
            checkpoint=self.checkpoint_name,
            steps_run=self.place.total_step - first,
            seconds=time.monotonic() - began,
            signal_number=self.stop.signal_number,
        )

    def _one_step(self, phase: PhasePlan, progress: Progress) -> None:
        run, step, began = self.run, self.place.step, time.monotonic()
        run.world.enter(self.place.total_step, "reading the batch")
        work = self.feed.take()
        record = work.record
        assert (record.phase, record.step) == (phase.name, step), "the feed gives the steps in the loop's order"
        loss = step_gradients(run, phase, work)
        lr_frac = phase.lr_frac(step)
        run.optimizer.set_lr_frac(lr_frac)
        run.world.enter(self.place.total_step, "the optimiser's step")
        numbers = run.optimizer.step().read()
        if not math.isfinite(numbers.grad_norm):
            raise not_finite(record, "gradient norm", numbers.grad_norm)
        run.optimizer.zero_grad(set_to_none=True)
        self.place = place_after(self.place, record)
        if self.lease is not None:
            self.lease.require()  # before anything is written
        if self.ledger is not None:
            if self.ledger.format != record.format:  # begun by an earlier version, and goes on as it began
                record = LedgerRecord.of(read_batch(run.orders[phase.name], step), self.ledger.format)
            self.ledger.append(record)
        seconds = time.monotonic() - began
        self.metrics.train(self.place, record, loss, numbers, lr=lr_frac * run.plan.optimizer.lr, seconds=seconds)
        self.loss_shown = loss.loss if self.loss_shown is None else 0.9 * self.loss_shown + 0.1 * loss.loss
        if run.world.is_main:
            progress.update(self.place.content_tokens, self._extra())
        if self.place.step in phase.held_out_steps:
            self._measure_held_out(phase)

    def _extra(self) -> str:
        return "" if self.loss_shown is None else f"loss {self.loss_shown:.3f}"

    def _measure_held_out(self, phase: PhasePlan) -> None:
        """Measure on the main rank; with sharded parameters on all, which gather them together."""
        run, place = self.run, self.place
        # Others wait here for the main rank, where they may wait longer than at the next step's exchanges.
        with run.world.patience():
            run.world.enter(place.total_step, "measuring the held-out loss")
            if run.world.is_main or run.sharding is not None:
                with run.world.exchange("the shards of a measurement", computes=True):
                    results = run.probes[phase.name].measure(
                        ObjectiveLoss(run.model) if run.sharding is None else run.module,
                        phase.objective_of(max(0, place.step - 1)),
                        run.builder,
                        run.world.device,
                        run.plan.runtime.microbatch_tokens,
                        bf16=run.plan.runtime.precision == "bf16",
                    )
                for result in results:
                    self.metrics.held_out(place, phase.name, result)
            run.world.barrier()

    def _write_drift(self) -> None:
        """Write how far each layer has moved from the start, for a member that has one."""
        run = self.run
        if run.plan.start is None or self.find_start is None:
            return
        model = self._whole(run.model.state_dict())
        if run.world.is_main:
            write_json(run.folder / DRIFT_FILE, drift(model, self.find_start(run.plan).model))

    def _whole(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return copies of tensors as files have them, the same for any sharding; on the main rank only."""
        if self.run.sharding is not None:
            return self.run.sharding.whole(tensors)
        copied = tensors if self.run.world.is_main else {}
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in copied.items()}

    def _save(self, phase: PhasePlan) -> None:
        name = f"{phase.tag}{self.place.step}"
        with self.run.world.patience():
            self._finish_writing()
            if name != self.checkpoint_name:
                self._begin_writing(phase)
            self.run.world.barrier()
        self.checkpoint_name = name

    def _begin_writing(self, phase: PhasePlan) -> None:
        """Copy what a checkpoint holds, and let the thread write it while the next steps run."""
        run = self.run
        run.world.enter(self.place.total_step, "saving a checkpoint")
        model, optimizer = self._whole(run.model.state_dict()), self._whole(run.optimizer.tensor_state())
        if not run.world.is_main:
            return
        if self.ledger is not None:
            self.ledger.sync()
        self.metrics.sync()
        fields = manifest_fields(run, phase, self.place)
        state = {"place": self.place.as_json(), "optimizer": run.optimizer.json_state()}

        def write() -> None:
            save_checkpoint(run.folder, fields, model=model, optimizer=optimizer, state=state)
            thin(run.folder, run.plan.keep, run.plan.phases)

        self.writing = self.writer.submit(write)

    def _finish_writing(self) -> None:
        """Wait for the checkpoint that is being written, if one is; raises what its writing raises."""
        writing, self.writing = self.writing, None
        if writing is not None:
            writing.result()
