"""A step's work for one rank, in the order of steps, made when it is asked for or ahead on a thread of its own.

A rank reads, digests and corrupts its own share of a step; one sum over the ranks tells all of them what the whole
step holds.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import torch

from seqpair.data import Numbers
from seqpair.data.order.batches import (
    Batch,
    assemble,
    read_sequences,
    sequence_digests,
    sequence_lengths,
    step_addresses,
    step_digest,
)
from seqpair.data.order.ledger import LedgerRecord
from seqpair.data.order.packing import pack, share
from seqpair.distributed.world import World
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


@dataclass(frozen=True)
class RankShare:
    """What one rank knows of a step before the ranks have told each other what their shares hold.

    Attributes:
        record: The step's record, without a digest.
        rope: The phase's RoPE bases.
        tokens: Tokens of the step with specials, over all ranks.
        indices: (n,) int64 places in the step of this rank's sequences.
        digests: (n, 4) their digests.
        divisor, predicted: This rank's summands of the step's.
        counts: How many microbatches this rank has of each of the step's parts.
        microbatches: For each part this rank's microbatches, which may be made as they are asked for, and what makes
            one without targets.
    """

    record: LedgerRecord
    rope: RopeBases
    tokens: int
    indices: Numbers
    digests: Numbers
    divisor: int
    predicted: int
    counts: tuple[int, ...]
    microbatches: tuple[tuple[Iterable[ModelInput], Callable[[], ModelInput]], ...]


def work_of_step(run: Run, phase: PhasePlan, step: int) -> StepWork:
    """Return a step's work for this rank; all ranks have to call it together."""
    return agree(share_of_step(run, phase, step), run.world)


def share_of_step(run: Run, phase: PhasePlan, step: int) -> RankShare:
    """Read this rank's share of a step and choose what it predicts; the others' sequences are located, not read.

    Args:
        run: The run.
        phase: The step's phase.
        step: The step within it.

    Raises:
        SeqpairError: Whatever reading the sequences complains about.
    """
    order, world, span = run.orders[phase.name], run.world, phase.span_of(step)
    at = step_addresses(order, step)
    parts = parts_of_step(at.positions, phase.name, OBJECTIVES[span.objective], span.causal_frac, run.plan.seed)
    lengths = [sequence_lengths(at, part.objective.ends_every_piece)[part.indices] for part in parts]
    shares = [
        part.indices[share(of_part, world.world_size, world.rank)] for part, of_part in zip(parts, lengths, strict=True)
    ]
    indices = np.sort(np.concatenate(shares))
    batch = read_sequences(order, step, at.take(indices))
    mine = [Part(part.objective, np.searchsorted(indices, places)) for part, places in zip(parts, shares, strict=True)]
    chosen = [run.builder.choose(part, batch, phase.mask_frac_of(step)) for part in mine]
    groups = [_groups(run, batch, part) for part in mine]
    made = zip(mine, chosen, groups, strict=True)
    return RankShare(
        record=LedgerRecord(
            phase.name, step, int(at.positions[0]), int(at.positions[-1]) + 1, int(at.lengths.sum()), digest=""
        ),
        rope=RopeBases(phase.rope_global_theta, phase.rope_local_theta),
        tokens=sum(int(of_part.sum()) for of_part in lengths),
        indices=indices,
        digests=sequence_digests(batch),
        divisor=sum(found.divisor for found in chosen),
        predicted=sum(found.count for found in chosen),
        counts=tuple(map(len, groups)),
        microbatches=tuple(_microbatches(run, phase, batch, *of_part) for of_part in made),
    )


def agree(mine: RankShare, world: World) -> StepWork:
    """Put the shares of all ranks together, in one exchange: all of them come to know the whole step.

    Args:
        mine: This rank's.
        world: The ranks, each with its share of the same step.
    """
    positions = np.arange(mine.record.first_position, mine.record.stop_position, dtype=np.int64)
    sequences, parts = positions.size, len(mine.counts)
    # Each rank writes where no other does, so the sum is the concatenation, in position order.
    values = np.zeros(2 + world.world_size * parts + 4 * sequences, dtype=np.int64)
    sums, counts, digests = np.split(values, [2, 2 + world.world_size * parts])
    sums[:] = mine.divisor, mine.predicted
    counts.reshape(world.world_size, parts)[world.rank] = mine.counts
    digests.reshape(sequences, 4)[mine.indices] = mine.digests
    sums, counts, digests = np.split(world.all_reduce_integers(values), [2, 2 + world.world_size * parts])
    most = counts.reshape(world.world_size, parts).max(axis=0).tolist()
    return StepWork(
        record=replace(mine.record, digest=step_digest(positions, digests)),
        rope=mine.rope,
        divisor=max(1, int(sums[0])),
        predicted=int(sums[1]),
        tokens=mine.tokens,
        microbatches=_filled_up(mine, most),
    )


def _filled_up(mine: RankShare, most: Sequence[int]) -> Iterator[ModelInput]:
    """Yield this rank's microbatches, part after part, with as many without targets as it takes to reach the most.

    Each part has one objective, so one direction. The ranks run equally many of each, since the gradients are exchanged
    in every rank's last one, and sharded parameters are gathered in all.
    """
    for (made, dummy), count, wanted in zip(mine.microbatches, mine.counts, most, strict=True):
        yield from made
        for _ in range(wanted - count):
            yield dummy()


def _groups(run: Run, batch: Batch, part: Part) -> list[Numbers]:
    """Return a part's sequences in microbatches, as indices into the part."""
    lengths = sequence_lengths(batch, part.objective.ends_every_piece)[part.indices]
    return pack(lengths, run.plan.runtime.microbatch_tokens)


def _microbatches(
    run: Run, phase: PhasePlan, batch: Batch, part: Part, chosen: Chosen, groups: Sequence[Numbers]
) -> tuple[Iterator[ModelInput], Callable[[], ModelInput]]:
    """Return a part's microbatches, made as they are asked for, and what makes one without targets."""
    specials, objective = run.prepared.tokenizer.specials, part.objective
    shape = None
    if run.has_one_shape:
        shape = FixedShape.of(objective, phase.highest_mask_frac, run.plan.runtime.microbatch_tokens, phase.seq_len)

    def filled(made: ModelInput) -> ModelInput:
        return made if shape is None else fill(made, shape, specials.pad)

    rows = (assemble(batch, part.indices[group], specials, objective.ends_every_piece) for group in groups)
    made = (filled(run.builder.build(objective, some, chosen, "cpu")) for some in rows)
    return made, lambda: filled(run.builder.dummy(objective, "cpu"))


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
        self._world = run.world
        makers = (_maker(run, phase, step) for phase, step in places)
        ahead = steps_ahead(run)
        self._made_ahead = MadeAhead(makers, ahead) if ahead else None
        self._makers = makers

    def take(self) -> StepWork:
        """Return the next step's work; all ranks have to call it together.

        Raises:
            SeqpairError: Whatever reading its sequences complains about.
        TrainingError: Another rank is gone or did not come in time.
        """
        # The exchange is here and not on the thread: ranks need all their exchanges in one order.
        mine = next(self._makers)() if self._made_ahead is None else self._made_ahead.take()
        return agree(mine, self._world)

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


def _maker(run: Run, phase: PhasePlan, step: int) -> Callable[[], RankShare]:
    """Return what makes a rank's share of a step: wholly where it is made ahead, else as it is used."""

    def make() -> RankShare:
        mine = share_of_step(run, phase, step)
        return _finished(mine, run.world.device) if steps_ahead(run) else mine

    return make


def _finished(mine: RankShare, device: torch.device) -> RankShare:
    """Return the share with all its microbatches made, for CUDA in pinned memory, from which copies overlap."""

    def ready(made: ModelInput) -> ModelInput:
        return made.map_tensors(torch.Tensor.pin_memory) if device.type == "cuda" else made

    # A new thread would pin, and so open a context, on the first device.
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        made = tuple((tuple(map(ready, some)), dummy) for some, dummy in mine.microbatches)
    return replace(mine, microbatches=made)
