"""The order: which sequence stands at which training position, and back.

Position p lies in round r = p // M (M sequences a round, see `mixture`). A permutation keyed by (seed, phase
name, round, segment) shuffles each segment of the round; mostly there is one, the whole of it. A source's
stream is one permutation of all its sequences after another, one an epoch, keyed by (seed, phase name, source,
store digest, epoch). All are computed, never stored, and all run backwards. No sequence comes again before
every sequence of its source has come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seqpair.data import Numbers
from seqpair.data.order.feistel import KeyedPermutation
from seqpair.data.order.mixture import Mixture, Round, SourceCounts
from seqpair.files import sha256_json
from seqpair.recipe.plan import PhasePlan

if TYPE_CHECKING:
    from seqpair.data.store.store import Store

ORDER_VERSION = 1
"""Counts up when the same key would give another order; part of every order's digest."""


@dataclass(frozen=True)
class SequenceRefs:
    """Which sequences stand at some positions.

    Attributes:
        source: (S,) int32, index into the order's `sources`.
        sequence: (S,) int64, the sequence's number in its store at the phase's sequence length.
        epoch: (S,) int64, how often the source has been used up before.
    """

    source: NDArray[np.int32]
    sequence: Numbers
    epoch: Numbers


class PhaseOrder:
    """The order of one phase: a pure function of (seed, phase name and length, mixture and stores, position).

    Args:
        seed: The study's seed.
        phase: The phase; of its budget and batches only `positions` and `positions_of` are used, by readers.
        stores: The training store of every source in the phase's mixture.

    Attributes:
        phase: The phase.
        sources: The names of its sources, sorted.
        stores: Their stores, in the same order.
        mixture: The rounds.
        digest: SHA-256 of everything that defines the order.

    Raises:
        DataError: A source has no sequence.
        RecipeError: The mixture cannot be read.
    """

    def __init__(self, seed: int, phase: PhasePlan, stores: Mapping[str, Store]) -> None:
        self.seed, self.phase = seed, phase
        pieces = {share.source: stores[share.source].pieces(phase.seq_len) for share in phase.mixture}
        counts = {
            source: SourceCounts(sequences=index.count, tokens=int(stores[source].offsets[-1]))
            for source, index in pieces.items()
        }
        self.mixture = Mixture(phase.mixture, counts)
        self.sources = self.mixture.sources
        self.stores = tuple(stores[source] for source in self.sources)
        self.pieces = tuple(pieces[source] for source in self.sources)
        self._store_digests = tuple(store.manifest.digest for store in self.stores)
        self.digest = sha256_json(
            {
                "version": ORDER_VERSION,
                "seed": seed,
                "phase": phase.name,
                "seq_len": phase.seq_len,
                "sources": [
                    {"source": source, "store": digest, "sequences": int(sequences), "part": int(part)}
                    for source, digest, sequences, part in zip(
                        self.sources, self._store_digests, self.mixture.sequences, self.mixture.parts, strict=True
                    )
                ],
            }
        )

    def refs(self, positions: Numbers) -> SequenceRefs:
        """Return the sequences at some positions.

        Args:
            positions: (S,) int64, not negative; they may lie past the phase's budget.

        Raises:
            IndexError: A position is negative.
        """
        positions = np.asarray(positions, dtype=np.int64)
        if positions.size and positions.min() < 0:
            raise IndexError(f"position {positions.min()} is negative")
        rounds = positions // self.mixture.round_sequences
        source, places = np.empty_like(positions), np.empty_like(positions)
        for number, mine in _groups(rounds):
            in_round = positions[mine] - number * self.mixture.round_sequences
            source[mine], places[mine] = self._read_round(number, in_round)
        sizes = self.mixture.sequences[source]
        epoch = places // sizes
        place_in_epoch = places - epoch * sizes
        sequence = np.empty_like(positions)
        for index, of_source in _groups(source):
            for number, mine in _groups(epoch[of_source]):
                chosen = of_source[mine]
                sequence[chosen] = self._stream(index, number).forward(place_in_epoch[chosen])
        return SequenceRefs(source=source.astype(np.int32), sequence=sequence, epoch=epoch)

    def positions_of(self, source: str, sequence: int) -> Numbers:
        """Return all positions of the phase at which a sequence stands, ascending, int64.

        Raises:
            KeyError: The phase has no such source.
            IndexError: The source has no such sequence.
        """
        return self.occurrences(source, np.array([sequence], dtype=np.int64))[0]

    def occurrences(self, source: str, sequences: Numbers) -> tuple[Numbers, Numbers]:
        """Return all positions of the phase at which any of some sequences stands.

        Args:
            source: The source's name.
            sequences: (S,) int64, sequences of that source.

        Returns:
            Positions below `phase.positions`, ascending, and for each the index into `sequences`; int64.

        Raises:
            KeyError: The phase has no such source.
            IndexError: The source has no such sequence.
        """
        if source not in self.sources:
            raise KeyError(f"phase {self.phase.name!r} does not read source {source!r}")
        index = self.sources.index(source)
        sequences = np.asarray(sequences, dtype=np.int64)
        size, part = int(self.mixture.sequences[index]), int(self.mixture.parts[index])
        rounds_begun = -(-self.phase.positions // self.mixture.round_sequences)
        found: list[Numbers] = []
        # Each epoch of the source reads every sequence once: its place in the epoch's stream, then the round that takes
        # this place, then the place in the round. The last round may go past the phase's end, which is cut below.
        for epoch in range(-(-rounds_begun * part // size)):
            places = epoch * size + self._stream(index, epoch).backward(sequences)
            rounds = places // part
            positions = np.empty_like(places)
            for number, mine in _groups(rounds):
                in_round = self._find_in_round(number, index, places[mine] - number * part)
                positions[mine] = number * self.mixture.round_sequences + in_round
            found.append(positions)
        every = np.concatenate(found)
        which = np.tile(np.arange(sequences.size, dtype=np.int64), len(found))
        ascending = np.argsort(every, kind="stable")
        ascending = ascending[every[ascending] < self.phase.positions]
        return every[ascending], which[ascending]

    def _read_round(self, number: int, places: Numbers) -> tuple[Numbers, Numbers]:
        """Return the source and the place in its stream at places of a round."""
        cut = self.mixture.round(number)
        source, in_part = np.empty_like(places), np.empty_like(places)
        for segment, mine in _groups(cut.segment_of_position(places)):
            virtual = self._segment(cut, number, segment).forward(places[mine] - cut.borders[segment])
            source[mine], in_part[mine] = cut.part_of(segment, virtual)
        return source, number * self.mixture.parts[source] + in_part

    def _find_in_round(self, number: int, source: int, in_part: Numbers) -> Numbers:
        """Return the places in a round at which the given places of a source's part stand."""
        cut = self.mixture.round(number)
        places = np.empty_like(in_part)
        for segment, mine in _groups(cut.segment_of_part(source, in_part)):
            virtual = cut.virtual_of(segment, source, in_part[mine])
            places[mine] = cut.borders[segment] + self._segment(cut, number, segment).backward(virtual)
        return places

    def _segment(self, cut: Round, number: int, segment: int) -> KeyedPermutation:
        return _permutation(cut.segment_size(segment), self.seed, "round", self.phase.name, number, segment)

    def _stream(self, source: int, epoch: int) -> KeyedPermutation:
        name, digest = self.sources[source], self._store_digests[source]
        size = int(self.mixture.sequences[source])
        return _permutation(size, self.seed, "stream", self.phase.name, name, digest, epoch)


@lru_cache(maxsize=1024)
def _permutation(size: int, *key_parts: object) -> KeyedPermutation:
    return KeyedPermutation(size, *key_parts)


def _groups(labels: Numbers) -> Iterator[tuple[int, Numbers]]:
    """Yield every label with the indices that carry it; mostly there are one or two."""
    if labels.size and labels.min() == labels.max():
        yield int(labels[0]), np.arange(labels.size, dtype=np.int64)
        return
    # One sort instead of a comparison of all labels for every label.
    ascending = np.argsort(labels, kind="stable")
    borders = np.flatnonzero(np.diff(labels[ascending])) + 1
    for members in np.split(ascending, borders) if labels.size else ():
        yield int(labels[members[0]]), members
