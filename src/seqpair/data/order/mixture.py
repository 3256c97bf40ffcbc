"""A phase's mixture: how many sequences of each source one round holds.

A share is of content tokens, so a source of share p and mean sequence length t is read in proportion
w = p / t; a source of e epochs and N sequences in proportion w = e * N. Where both kinds meet, the epochs
fix absolute tokens E, the shares are of the total E / (1 - sum of the shares). A round scales the w so
that the source read most is read once: m = max(1, round(w * min(N / w))). All of it is exact rational
arithmetic, so every machine gets the same rounds. Round r takes the next m sequences of every source's
stream, which is one epoch of the source after another.

A source may run out inside a round. Were such a round shuffled as a whole, the first sequences of the new
epoch would come among the last of the old one. So a round is cut where a source runs out: if that is after t
of its m sequences, every source's part is cut at the same fraction t / m, rounded to whole sequences (t itself
for that source). Each segment is shuffled by itself; inside one, every source is in a single epoch. A
segment's virtual sequences are the sources' parts of it end to end, in the order of the sources' names.

How often a plan reads each source, and the warning when that is too often.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np

from seqpair.data import Numbers
from seqpair.errors import DataError, RecipeError
from seqpair.recipe.plan import MixtureShare, PhasePlan, Plan, StoreStats

MOST_EPOCHS = 4.0
"""Text repeated up to about four times is worth nearly as much as new text, beyond that less and less.

Source: Muennighoff et al. 2023, Scaling Data-Constrained Language Models, arXiv 2305.16264, measured on decoders.
"""


@dataclass(frozen=True)
class SourceCounts:
    """What a mixture needs to know of a source: its sequences at the phase's length, its content tokens."""

    sequences: int
    tokens: int


class Mixture:
    """The rounds of a phase.

    Attributes:
        sources: The sources' names, sorted.
        sequences: (sources,) int64: how many sequences each source has, N.
        parts: (sources,) int64: how many of them one round reads, m; at least 1 and at most N.
        round_sequences: Sequences of a round, the sum of the parts.
    """

    def __init__(self, shares: Sequence[MixtureShare], counts: Mapping[str, SourceCounts]) -> None:
        """Make the rounds.

        Args:
            shares: The sources' parts; each has a share or epochs.
            counts: The counts of every source named.

        Raises:
            DataError: A source has no sequence.
            RecipeError: A source is named twice, has no part or two, or leaves nothing to the epochs.
        """
        by_source = {share.source: share for share in shares}
        if not shares or len(by_source) != len(shares):
            seen = ", ".join(share.source for share in shares) or "nothing"
            raise RecipeError(
                "the mixture names a source twice", seen=seen, fix="remove one of the two from the phase's mixture"
            )
        self.sources = tuple(sorted(by_source))
        for source in self.sources:
            if counts[source].sequences < 1:
                raise DataError(
                    f"source {source!r} has no sequence to train on",
                    seen=f"{counts[source].sequences} sequences, {counts[source].tokens} tokens",
                    fix="give the source some text, or take it out of the phase's mixture",
                )
        weights = _weights([by_source[source] for source in self.sources], [counts[s] for s in self.sources])
        limits = [counts[source].sequences for source in self.sources]
        scale = min(Fraction(limit) / weight for limit, weight in zip(limits, weights, strict=True))
        parts = [max(1, math.floor(weight * scale + Fraction(1, 2))) for weight in weights]
        self.sequences: Numbers = np.array(limits, dtype=np.int64)
        self.parts: Numbers = np.array(parts, dtype=np.int64)
        self.round_sequences = int(self.parts.sum())
        self._tokens = [counts[source].tokens for source in self.sources]

    def token_fracs(self) -> dict[str, float]:
        """Return each source's true share of a round's content tokens, after rounding to whole sequences."""
        tokens = [
            Fraction(int(part) * total, int(sequences))
            for part, total, sequences in zip(self.parts, self._tokens, self.sequences, strict=True)
        ]
        return {source: float(part / sum(tokens)) for source, part in zip(self.sources, tokens, strict=True)}

    def round(self, number: int) -> Round:
        """Return a round, cut where sources run out."""
        return _cut_round(tuple(self.parts.tolist()), tuple(self.sequences.tolist()), number)


class Round:
    """One round of a mixture.

    Attributes:
        borders: (segments + 1,) int64: where each segment begins among the round's positions.
        cuts: (sources, segments + 1) int64: where each segment begins in each source's part.
    """

    def __init__(self, cuts: Numbers) -> None:
        self.cuts = cuts
        self.borders: Numbers = cuts.sum(axis=0)
        starts = np.zeros((cuts.shape[0] + 1, cuts.shape[1] - 1), dtype=np.int64)
        np.cumsum(np.diff(cuts, axis=1), axis=0, out=starts[1:])
        self._starts = starts  # (sources + 1, segments)

    def segment_of_position(self, places: Numbers) -> Numbers:
        """Return the segment that holds each place in the round."""
        return np.searchsorted(self.borders, places, side="right") - 1

    def segment_of_part(self, source: int, places: Numbers) -> Numbers:
        """Return the segment that holds each place in a source's part."""
        return np.searchsorted(self.cuts[source], places, side="right") - 1

    def segment_size(self, segment: int) -> int:
        """Return how many sequences a segment holds."""
        return int(self._starts[-1, segment])

    def part_of(self, segment: int, virtual: Numbers) -> tuple[Numbers, Numbers]:
        """Return the sources of virtual sequences of a segment, and their places in the sources' parts."""
        source = np.searchsorted(self._starts[:, segment], virtual, side="right") - 1
        return source, self.cuts[source, segment] + (virtual - self._starts[source, segment])

    def virtual_of(self, segment: int, source: int, places: Numbers) -> Numbers:
        """Return the virtual sequences of places in a source's part of a segment; undoes `part_of`."""
        virtual: Numbers = self._starts[source, segment] + (places - self.cuts[source, segment])
        return virtual


@lru_cache(maxsize=1024)
def _cut_round(parts: tuple[int, ...], sequences: tuple[int, ...], number: int) -> Round:
    """Cut a round: at 0, at the fraction of its part after which each source runs out, and at 1."""
    fractions = {Fraction(0), Fraction(1)}
    for part, size in zip(parts, sequences, strict=True):
        left_in_epoch = size - number * part % size
        if left_in_epoch < part:
            fractions.add(Fraction(left_in_epoch, part))
    half = Fraction(1, 2)
    cuts = [[math.floor(part * fraction + half) for fraction in sorted(fractions)] for part in parts]
    return Round(np.array(cuts, dtype=np.int64))


def _weights(shares: Sequence[MixtureShare], counts: Sequence[SourceCounts]) -> list[Fraction]:
    """Return sequences of each source, in one common scale."""
    total_share, epoch_tokens = Fraction(0), Fraction(0)
    for share, count in zip(shares, counts, strict=True):
        given = [value for value in (share.share, share.epochs) if value is not None]
        if len(given) != 1 or not 0 < given[0] < math.inf:
            raise RecipeError(
                f"source {share.source!r} needs a share or epochs in the mixture, above zero",
                seen=f"share {share.share}, epochs {share.epochs}",
                allowed="exactly one of the two",
            )
        total_share += Fraction(share.share or 0)
        epoch_tokens += Fraction(share.epochs or 0) * count.tokens
    if epoch_tokens and total_share >= 1:
        raise RecipeError(
            "the shares leave nothing to the sources that are given in epochs",
            seen=f"shares of {float(total_share):g} in all",
            allowed="less than 1 where any source has epochs",
            fix="lower the shares, or give all sources a share",
        )
    total_tokens = epoch_tokens / (1 - total_share) if epoch_tokens else Fraction(1)
    return [
        Fraction(share.epochs) * count.sequences
        if share.epochs is not None
        else Fraction(share.share or 0) * total_tokens * count.sequences / count.tokens
        for share, count in zip(shares, counts, strict=True)
    ]


@dataclass(frozen=True)
class SourceReading:
    """What a phase reads of one source over its whole budget.

    Attributes:
        source: The source's name.
        asked_share, asked_epochs: The mixture's words; one of them is None. Epochs are weights among the sources:
            the phase's budget decides how far all of them are read.
        share: The share of the phase's content tokens as it comes out; None while it cannot be known.
        tokens: Content tokens read; None while they cannot be known.
        sequences: Training sequences read; None without a store.
        epochs: How often the source is read; None while it cannot be known.
    """

    source: str
    asked_share: float | None
    asked_epochs: float | None
    share: float | None
    tokens: float | None
    sequences: int | None
    epochs: float | None


def phase_readings(phase: PhasePlan, stats: Mapping[str, StoreStats] | None) -> list[SourceReading]:
    """Return what a phase reads of each of its sources, in the mixture's order.

    With P positions, a round of M sequences of which m are the source's, and N sequences in the source, it
    is read P m / (M N) times. The share that comes out differs from the one asked for only by the rounding of a
    round to whole sequences.

    Args:
        phase: The phase of a plan.
        stats: The counts of the training stores; without them a share of the planned tokens is all that is known.
    """
    if stats is None:
        planned_tokens = phase.positions * phase.mean_tokens
        return [
            SourceReading(
                source=part.source,
                asked_share=part.share,
                asked_epochs=part.epochs,
                share=part.share,
                tokens=None if part.share is None else part.share * planned_tokens,
                sequences=None,
                epochs=None,
            )
            for part in phase.mixture
        ]
    counts = {
        part.source: SourceCounts(stats[part.source].sequences[phase.seq_len], stats[part.source].tokens)
        for part in phase.mixture
    }
    mixture = Mixture(phase.mixture, counts)
    shares = mixture.token_fracs()
    read = {
        source: phase.positions * int(part) / mixture.round_sequences
        for source, part in zip(mixture.sources, mixture.parts, strict=True)
    }
    return [
        SourceReading(
            source=part.source,
            asked_share=part.share,
            asked_epochs=part.epochs,
            share=shares[part.source],
            tokens=read[part.source] / counts[part.source].sequences * counts[part.source].tokens,
            sequences=round(read[part.source]),
            epochs=read[part.source] / counts[part.source].sequences,
        )
        for part in phase.mixture
    ]


def repetition_warnings(plans: Sequence[Plan], stats: Mapping[str, StoreStats] | None) -> list[str]:
    """Return a sentence for each source that a member's phases together read more than `MOST_EPOCHS` times.

    Members that read a source alike share one sentence. Without counts nothing is known, and nothing is said.
    """
    alike: dict[tuple[str, str], list[str]] = {}
    for plan in plans:
        epochs: dict[str, dict[str, float]] = {}
        for phase in plan.phases:
            for reading in phase_readings(phase, stats) if stats is not None else ():
                if reading.epochs is not None:
                    epochs.setdefault(reading.source, {})[phase.name] = reading.epochs
        for source, by_phase in epochs.items():
            total = sum(by_phase.values())
            if total > MOST_EPOCHS:
                phases = ", ".join(f"{name} {value:.1f}" for name, value in by_phase.items())
                alike.setdefault((source, f"{total:.1f} times ({phases})"), []).append(plan.member)
    return [
        f"source {source!r} is read {times} by {', '.join(members)}: past about {MOST_EPOCHS:g} epochs repeated text "
        "is worth less and less (arXiv 2305.16264). Lower its share, shorten the budget, or add text"
        for (source, times), members in alike.items()
    ]
