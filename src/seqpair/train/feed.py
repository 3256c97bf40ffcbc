"""The steps' work in order, made when it is asked for or ahead on a thread of its own."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

from seqpair.data.order.batches import Batch, read_batch
from seqpair.nn.rope import RopeBases
from seqpair.objectives.parts import parts_of_step
from seqpair.recipe.objectives import OBJECTIVES
from seqpair.recipe.plan import PhasePlan
from seqpair.train.assembly import Run
from seqpair.train.work import StepInput, StepWork, make_work

Made = TypeVar("Made")

_AHEAD_ON_CUDA = 2
"""Not measured: on a GPU the host is idle while the device works, and two steps even out slow reads."""


class MadeAhead(Generic[Made]):
    """Calls makers on a thread, one after another, at most some ahead of what was taken.

    Args:
        makers: What is called; each at most once, in order.
        ahead: How many results may lie ready, at least 1.
    """

    def __init__(self, makers: Iterator[Callable[[], Made]], ahead: int) -> None:
        self._makers = makers
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="seqpair-feed")
        self._results: deque[Future[Made]] = deque()
        for _ in range(ahead):
            self._begin_one()

    def _begin_one(self) -> None:
        maker = next(self._makers, None)
        if maker is not None:
            self._results.append(self._thread.submit(maker))

    def take(self) -> Made:
        """Return the next result; waits until it is there.

        Raises:
            Exception: What its maker raised.
        """
        assert self._results, "no more was asked for than there is"
        made = self._results.popleft().result()
        self._begin_one()
        return made

    def close(self) -> None:
        """End the thread, after the maker it is in, and forget what was not taken."""
        self._thread.shutdown(cancel_futures=True)
        self._results.clear()


class StepFeed:
    """A run's steps in order.

    Args:
        run: The run.
        places: (phase, step) of every step that may be asked for, in order.
    """

    def __init__(self, run: Run, places: Iterable[tuple[PhasePlan, int]]) -> None:
        makers = (_maker(run, phase, step) for phase, step in places)
        ahead = steps_ahead(run)
        self._made_ahead = MadeAhead(makers, ahead) if ahead else None
        self._makers = makers

    def take(self) -> StepWork:
        """Return the next step's work.

        Raises:
            SeqpairError: Whatever reading its batch complains about.
        """
        return next(self._makers)() if self._made_ahead is None else self._made_ahead.take()

    def close(self) -> None:
        """End the thread, if there is one."""
        if self._made_ahead is not None:
            self._made_ahead.close()


def steps_ahead(run: Run) -> int:
    """Return how many steps are made ahead; unless the plan says it, none on a CPU, which has no idle core for it."""
    given = run.plan.runtime.prefetch_batches
    if given is not None:
        return given
    return _AHEAD_ON_CUDA if run.world.device.type == "cuda" else 0


def work_of_step(run: Run, phase: PhasePlan, batch: Batch) -> StepWork:
    """Return this rank's work of a step whose batch has been read; microbatches are made as they are asked for."""
    span = phase.span_of(batch.step)
    given = StepInput(
        batch=batch,
        parts=parts_of_step(batch, OBJECTIVES[span.objective], span.causal_frac, run.plan.seed),
        mask_frac=phase.mask_frac,
        rope=RopeBases(phase.rope_global_theta, phase.rope_local_theta),
        microbatch_tokens=run.plan.runtime.microbatch_tokens,
        fixed_for=phase.seq_len if run.has_one_shape else None,
    )
    return make_work(given, run.builder, run.prepared.tokenizer.specials, run.world)


def _maker(run: Run, phase: PhasePlan, step: int) -> Callable[[], StepWork]:
    """Return what makes the work of a step: wholly where it is made ahead, else as it is used."""

    def make() -> StepWork:
        work = work_of_step(run, phase, read_batch(run.orders[phase.name], step))
        return _finished(work, run.world.device) if steps_ahead(run) else work

    return make


def _finished(work: StepWork, device: torch.device) -> StepWork:
    """Return the work with all its microbatches made, for CUDA in pinned memory, from which copies overlap."""
    if device.type != "cuda":
        return dataclasses.replace(work, microbatches=tuple(work.microbatches))
    with torch.cuda.device(device):  # a new thread would pin, and so open a context, on the first device
        pinned = tuple(made.map_tensors(torch.Tensor.pin_memory) for made in work.microbatches)
    return dataclasses.replace(work, microbatches=pinned)
