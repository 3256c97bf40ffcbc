"""How often a plan reads each source, and the warning when that is too often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seqpair.data.order.mixture import Mixture, SourceCounts
from seqpair.recipe.plan import PhasePlan, Plan, StoreStats

MOST_EPOCHS = 4.0
"""Text repeated up to about four times is worth nearly as much as new text, beyond that less and less.

Source: Muennighoff et al. 2023, Scaling Data-Constrained Language Models, arXiv 2305.16264, measured on decoders.
"""


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
