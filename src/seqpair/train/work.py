"""One step's work for one rank: the divisor of its loss, and its microbatches, still on the host."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from seqpair.data.order.batches import Batch, assemble, sequence_lengths
from seqpair.data.order.packing import microbatches
from seqpair.data.tokenizer.tokenizer import SpecialIds
from seqpair.distributed.world import World
from seqpair.nn.rope import RopeBases
from seqpair.objectives.fixed_shape import FixedShape, fill
from seqpair.objectives.parts import Part
from seqpair.objectives.targets import Chosen, ModelInput, TargetBuilder


@dataclass(frozen=True)
class StepInput:
    """What one update needs to know.

    Attributes:
        batch: The step's sequences, over all ranks.
        parts: Which of them train which objective.
        mask_frac: Share of content tokens to choose, for objectives that corrupt.
        rope: The phase's RoPE bases.
        microbatch_tokens: Token budget of one microbatch.
        fixed_for: The phase's longest sequence, where all microbatches of an objective are to have one shape.
    """

    batch: Batch
    parts: tuple[Part, ...]
    mask_frac: float | None
    rope: RopeBases
    microbatch_tokens: int
    fixed_for: int | None = None


@dataclass(frozen=True)
class StepWork:
    """A step that can be run.

    Attributes:
        batch: The step's sequences, over all ranks.
        rope: The phase's RoPE bases.
        divisor: Predicted tokens of the whole batch, over all ranks; at least 1.
        microbatches: This rank's, in order, at least one, on the host; may be made as they are asked for.
    """

    batch: Batch
    rope: RopeBases
    divisor: int
    microbatches: Iterable[ModelInput]


def make_work(given: StepInput, builder: TargetBuilder, specials: SpecialIds, world: World) -> StepWork:
    """Choose what is predicted, over all ranks, and return this rank's share of the step.

    Args:
        given: The step.
        builder: Makes inputs and targets.
        specials: The tokenizer's special ids.
        world: The ranks; all of them run equally many microbatches.
    """
    chosen = [builder.choose(part, given.batch, given.mask_frac) for part in given.parts]
    return StepWork(
        batch=given.batch,
        rope=given.rope,
        divisor=max(1, sum(part.count for part in chosen)),
        microbatches=_microbatches(given, chosen, builder, specials, world),
    )


def _microbatches(
    given: StepInput, chosen: list[Chosen], builder: TargetBuilder, specials: SpecialIds, world: World
) -> Iterator[ModelInput]:
    """Yield this rank's microbatches, part after part: each has one objective, so one direction."""
    for part, predicted in zip(given.parts, chosen, strict=True):
        ends_every_piece = part.objective.ends_every_piece
        shape = None
        if given.fixed_for is not None:
            shape = FixedShape.of(part.objective, given.mask_frac, given.microbatch_tokens, given.fixed_for)
        lengths = sequence_lengths(given.batch, ends_every_piece)[part.indices]
        for group in microbatches(lengths, world.world_size, given.microbatch_tokens)[world.rank]:
            if group.size:
                rows = assemble(given.batch, part.indices[group], specials, ends_every_piece)
                made = builder.build(part.objective, rows, predicted, "cpu")
            else:
                made = builder.dummy(part.objective, "cpu")
            yield made if shape is None else fill(made, shape, specials.pad)
