"""What an objective chooses at random: the sequences of a step that are causal, and the tokens that are corrupted.

Every choice is a hash of (seed, phase, purpose) and of the training position, for tokens also of the index within the
sequence's content. It does not depend on rank, worker, microbatch, layout, device or objective: all masked members of a
study share it, and the number of chosen tokens is known before the first backward.

The functions use operators only where it matters, so numpy arrays (uint32 words, half the memory traffic) and
torch int64 tensors give the same bits. What is common to a sequence's tokens is hashed once a sequence.

Source: BERT's 80/10/10 (Devlin et al., arXiv 1810.04805, section 3.1). Differs: special tokens are
never chosen and never drawn as a replacement.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from seqpair.counter import MASK_32, as_fraction_threshold, begin_hash, end_hash, hash_words, key_words
from seqpair.recipe.objectives import OBJECTIVES, Objective

IdArray = Any
"""A numpy int64 array or a torch int64 tensor."""
WordArray = Any
"""A numpy uint32 array or a torch int64 tensor with values in [0, 2**32)."""

_TO_MASK = as_fraction_threshold(0.8)
_TO_RANDOM = as_fraction_threshold(0.9)
_LOWEST_RATE = 1e-3


# --- a step's parts ---


@dataclass(frozen=True)
class Part:
    """The sequences of a step that train one objective, and so have one attention direction.

    Attributes:
        objective: The objective; never a mixed one.
        indices: (n,) int64 places in the step, or in a rank's share of it, ascending.
    """

    objective: Objective
    indices: npt.NDArray[np.int64]


def parts_of_step(
    positions: npt.NDArray[np.int64], phase: str, objective: Objective, causal_frac: float | None, seed: int
) -> tuple[Part, ...]:
    """Return a step's parts; one unless the objective mixes two others.

    A hybrid step that reads the positions [a, b) has floor(b f) - floor(a f) causal sequences, so every
    step has the share to within one sequence, and any run of steps does too. They are those whose
    position's keyed hash is smallest.

    Args:
        positions: (S,) the training positions of the step's sequences, over all ranks.
        phase: The phase's name.
        objective: The step's objective.
        causal_frac: For a mixed objective, the share f of sequences that is causal.
        seed: The study's seed.

    Source: the mixing of causal and masked batches is GPT-BERT's (arXiv 2410.24159).
    Differs: there the share is of devices; here it is of positions.
    """
    everything = np.arange(positions.size, dtype=np.int64)
    if objective.parts is None:
        return (Part(objective, everything),)
    assert causal_frac is not None, "a mixed objective has its share in the plan"
    share = Fraction(str(causal_frac))
    first, stop = int(positions[0]), int(positions[-1]) + 1
    causal_sequences = math.floor(stop * share) - math.floor(first * share)
    words = hash_words(key_words(seed, phase, "direction"), positions & MASK_32, positions >> 32)
    ranked = np.lexsort((positions, words))
    causal, rest = np.sort(ranked[:causal_sequences]), np.sort(ranked[causal_sequences:])
    names = zip(objective.parts, (causal, rest), strict=True)
    return tuple(Part(OBJECTIVES[name], indices) for name, indices in names if indices.size)


def measured_objective(objective: Objective) -> Objective:
    """Return what an objective is measured by on held-out text: itself, or the part that is not causal."""
    return objective if objective.parts is None else OBJECTIVES[objective.parts[1]]


# --- corruption ---


class TokenCounters(NamedTuple):
    """The address of each token: its sequence's training position and its index in the content.

    Attributes:
        low, high: (S,) words of each sequence's position in the phase's order.
        sequence: (T,) int64, the sequence that each token belongs to.
        index: (T,) words, 0 for the first content token of the sequence.
    """

    low: WordArray
    high: WordArray
    sequence: IdArray
    index: WordArray

    @classmethod
    def of(cls, positions: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> TokenCounters:
        """Return the addresses of all tokens, in numpy, for sequences at some positions, end to end."""
        low, high = (positions & MASK_32).astype(np.uint32), (positions >> 32).astype(np.uint32)
        ends = np.cumsum(lengths)
        index = np.arange(ends[-1] if ends.size else 0, dtype=np.uint32)
        index -= np.repeat((ends - lengths).astype(np.uint32), lengths)
        return cls(low, high, np.repeat(np.arange(lengths.size), lengths), index)

    def draw(self, seed: int, phase: str, purpose: str) -> WordArray:
        """Return one random 32-bit word a token, (T,)."""
        key = key_words(seed, phase, purpose)
        return end_hash(key, begin_hash(key, self.low, self.high).take(self.sequence), self.index)

    def take(self, where: IdArray) -> TokenCounters:
        """Return the addresses of the tokens at an index or a mask."""
        return self._replace(sequence=self.sequence[where], index=self.index[where])


class Masking(NamedTuple):
    """What a rule chooses among the tokens it is given.

    Attributes:
        chosen: (T,) bool.
        votes: (T,) fp32, the weight of each token's loss if it is chosen, or null if each has one vote. A token's vote
            times its probability of being chosen is one on average, so the loss is divided by the tokens that could
            have been chosen.
    """

    chosen: IdArray
    votes: npt.NDArray[np.float32] | None = None


def chosen_tokens(counters: TokenCounters, seed: int, phase: str, mask_frac: float) -> IdArray:
    """Return (T,) bool: the tokens chosen for prediction, each with probability `mask_frac`.

    The caller leaves special tokens out.
    """
    chosen: IdArray = counters.draw(seed, phase, "mask") < as_fraction_threshold(mask_frac)
    return chosen


def _by_phase_rate(counters: TokenCounters, seed: int, phase: str, mask_frac: float | None) -> Masking:
    """Choose every token with the phase's probability."""
    assert mask_frac is not None, "an objective that takes the mask rate has one in its plan"
    return Masking(chosen_tokens(counters, seed, phase, mask_frac))


def sequence_rates(counters: TokenCounters, seed: int, phase: str) -> npt.NDArray[np.float64]:
    """Return (S,) the probability t of each sequence that one of its tokens is chosen, uniform in (0.001, 1]."""
    words = hash_words(key_words(seed, phase, "rate"), counters.low, counters.high)
    # Whole multiples of 2**-32, as the words that are compared with them are: then t is the exact probability.
    return (np.floor(words * (1.0 - _LOWEST_RATE)) + 1.0 + round(_LOWEST_RATE * 2.0**32)) / 2.0**32


def _by_sequence_rates(counters: TokenCounters, seed: int, phase: str, mask_frac: float | None) -> Masking:
    """Choose a sequence's tokens with a probability t of its own; each has 1 / t votes.

    The mean of the summed loss is then the bound on the negative log-likelihood of masked diffusion with a linear
    schedule, but for rates below 0.001, which are left out since their weights would be arbitrarily large.

    Source: arXiv 2406.07524, equation 10; arXiv 2502.09992, equation 3.
    Differs: t comes from the sequence's training position, so it is the same for any layout.
    """
    rates = sequence_rates(counters, seed, phase)
    chosen = counters.draw(seed, phase, "mask") < (rates * 2.0**32)[counters.sequence]
    return Masking(chosen, (1.0 / rates).astype(np.float32)[counters.sequence])


def prefix_tokens(
    positions: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], seed: int, phase: str
) -> npt.NDArray[np.int64]:
    """Return how many content tokens of each sequence are its prefix, uniform in [0, n - 1]: one is always predicted.

    Args:
        positions: (S,) the sequences' training positions.
        lengths: (S,) their content tokens n, each at least 1.
        seed: The study's seed.
        phase: The phase's name.

    Returns:
        (S,) int64.
    """
    words = hash_words(key_words(seed, phase, "prefix"), positions & MASK_32, positions >> 32)
    prefixes: npt.NDArray[np.int64] = words.astype(np.int64) * lengths >> 32
    return prefixes


Rule = Callable[[TokenCounters, int, str, float | None], Masking]
"""Takes the tokens' addresses, the seed, the phase's name and its mask rate; a pure function of these."""

MASKINGS: dict[str, Rule] = {"tokens": _by_phase_rate, "sequence_rates": _by_sequence_rates}
"""The rules that the objectives table names; specials inside the text are left out after them."""


def corrupted_ids(
    ids: IdArray, counters: TokenCounters, seed: int, phase: str, mask_id: int, regular_ids: IdArray
) -> IdArray:
    """Return what the model sees of chosen tokens: 80 % the mask, 10 % a random token, 10 % themselves.

    Args:
        ids: (M,) the chosen tokens' ids: int64, in numpy also uint32.
        counters: Their addresses.
        seed: The study's seed.
        phase: The phase's name.
        mask_id: The id of `[MASK]`.
        regular_ids: (R,) int64, the ids a random token is drawn from, uniformly.

    Returns:
        (M,), of the carrier and dtype of `ids`.
    """
    kind = counters.draw(seed, phase, "corruption")
    seen = ids + (kind < _TO_MASK) * (mask_id - ids)  # may wrap around and come back; no branch on random bits
    random = ((kind >= _TO_MASK) & (kind < _TO_RANDOM)).nonzero()
    random = random[0] if isinstance(random, tuple) else random[:, 0]
    word = counters.take(random).draw(seed, phase, "replacement")
    wide = word.astype(np.int64) if isinstance(word, np.ndarray) else word  # a product needs more than 32 bits
    seen[random] = regular_ids[(wide * len(regular_ids)) >> 32]
    return seen
