"""A step's work for one rank, in the order of steps, made when it is asked for or ahead on a thread of its own."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

from seqpair.data.order.batches import Batch, assemble, read_batch, sequence_lengths
from seqpair.data.order.packing import microbatches
from seqpair.nn.rope import RopeBases
from seqpair.objectives.selection import Part, parts_of_step
from seqpair.objectives.targets import Chosen, FixedShape, ModelInput, fill
from seqpair.recipe.objectives import OBJECTIVES
from seqpair.recipe.plan import PhasePlan
from seqpair.train.assembly import Run
from seqpair.train.step import StepWork

Made = TypeVar("Made")

_AHEAD_ON_CUDA = 2
"""Not measured: on a GPU the host is idle while the device works, and two steps even out slow reads."""


def work_of_step(run: Run, phase: PhasePlan, batch: Batch) -> StepWork:
    """Choose what a step predicts, over all ranks, and return this rank's share of it.

    Args:
        run: The run; all of its ranks run equally many microbatches.
        phase: The step's phase.
        batch: The step's sequences, over all ranks.

    Returns:
        The work; its microbatches are made as they are asked for.
    """
    span = phase.span_of(batch.step)
    parts = parts_of_step(batch, OBJECTIVES[span.objective], span.causal_frac, run.plan.seed)
    chosen = [(part, run.builder.choose(part, batch, phase.mask_frac_of(batch.step))) for part in parts]
    return StepWork(
        batch=batch,
        rope=RopeBases(phase.rope_global_theta, phase.rope_local_theta),
        divisor=max(1, sum(found.divisor for _, found in chosen)),
        predicted=sum(found.count for _, found in chosen),
        microbatches=_microbatches(run, phase, batch, chosen),
    )


def _microbatches(
    run: Run, phase: PhasePlan, batch: Batch, chosen: Sequence[tuple[Part, Chosen]]
) -> Iterator[ModelInput]:
    """Yield this rank's microbatches, part after part: each has one objective, so one direction."""
    budget, specials = run.plan.runtime.microbatch_tokens, run.prepared.tokenizer.specials
    for part, predicted in chosen:
        ends_every_piece = part.objective.ends_every_piece
        shape = None
        if run.has_one_shape:
            shape = FixedShape.of(part.objective, phase.highest_mask_frac, budget, phase.seq_len)
        lengths = sequence_lengths(batch, ends_every_piece)[part.indices]
        for group in microbatches(lengths, run.world.world_size, budget)[run.world.rank]:
            if group.size:
                rows = assemble(batch, part.indices[group], specials, ends_every_piece)
                made = run.builder.build(part.objective, rows, predicted, "cpu")
            else:  # the gradients are exchanged in every rank's last microbatch, so a rank without rows needs one too
                made = run.builder.dummy(part.objective, "cpu")
            yield made if shape is None else fill(made, shape, specials.pad)


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
