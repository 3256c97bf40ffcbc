"""A step's parts: which of its sequences train which objective.

It depends on training positions only, so the number of ranks, the microbatches and the layout do not change it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from seqpair.counter import MASK_32, hash_words, key_words
from seqpair.data.order.batches import Batch
from seqpair.recipe.objectives import OBJECTIVES, Objective


@dataclass(frozen=True)
class Part:
    """The sequences of a step that train one objective, and so have one attention direction.

    Attributes:
        objective: The objective; never a mixed one.
        indices: (n,) int64 places in the batch, ascending.
    """

    objective: Objective
    indices: npt.NDArray[np.int64]


def parts_of_step(batch: Batch, objective: Objective, causal_frac: float | None, seed: int) -> tuple[Part, ...]:
    """Return a step's parts; one unless the objective mixes two others.

    A hybrid step that reads the positions [a, b) has floor(b f) - floor(a f) causal sequences, so every
    step has the share to within one sequence, and any run of steps does too. They are those whose
    position's keyed hash is smallest.

    Args:
        batch: The step's sequences.
        objective: The step's objective.
        causal_frac: For a mixed objective, the share f of sequences that is causal.
        seed: The study's seed.

    Source: the mixing of causal and masked batches is GPT-BERT's (arXiv 2410.24159).
    Differs: there the share is of devices; here it is of positions.
    """
    everything = np.arange(batch.positions.size, dtype=np.int64)
    if objective.parts is None:
        return (Part(objective, everything),)
    assert causal_frac is not None, "a mixed objective has its share in the plan"
    share = Fraction(str(causal_frac))
    first, stop = int(batch.positions[0]), int(batch.positions[-1]) + 1
    causal_sequences = math.floor(stop * share) - math.floor(first * share)
    words = hash_words(key_words(seed, batch.phase, "direction"), batch.positions & MASK_32, batch.positions >> 32)
    ranked = np.lexsort((batch.positions, words))
    causal, rest = np.sort(ranked[:causal_sequences]), np.sort(ranked[causal_sequences:])
    names = zip(objective.parts, (causal, rest), strict=True)
    return tuple(Part(OBJECTIVES[name], indices) for name, indices in names if indices.size)


def measured_objective(objective: Objective) -> Objective:
    """Return what an objective is measured by on held-out text: itself, or the part that is not causal."""
    return objective if objective.parts is None else OBJECTIVES[objective.parts[1]]
