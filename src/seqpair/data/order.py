"""The order: which sequence stands at which training position, and back.

Owns the bijection between a phase's positions and its sources' sequences. Must not know size, member,
budget, ranks or microbatches: none of them can change it. Entry point: `PhaseOrder`.

Position p lies in round r = p // M (M sequences a round, see `mixture`). A permutation of [0, M) keyed by
(seed, phase name, round) shuffles the round; a source's stream is one keyed permutation of all its
sequences after another, one an epoch, keyed by (seed, phase name, source, store digest, epoch). Both are
computed, never stored, and both run backwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from seqpair.data.feistel import KeyedPermutation
from seqpair.data.mixture import Mixture, SourceCounts
from seqpair.digest import sha256_json
from seqpair.recipe.plan import PhasePlan

if TYPE_CHECKING:
    from seqpair.data.store import Store

Numbers = NDArray[np.int64]

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
        """Count the sequences and make the rounds."""
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
        places_in_round = positions - rounds * self.mixture.round_sequences
        virtual = _permuted(self._round, rounds, places_in_round)
        source, places = self.mixture.stream_of(rounds, virtual)
        epoch = places // self.mixture.sequences[source]
        place_in_epoch = places - epoch * self.mixture.sequences[source]
        sequence = np.empty_like(positions)
        for index in range(len(self.sources)):
            mine = np.flatnonzero(source == index)
            sequence[mine] = _permuted(partial(self._stream, index), epoch[mine], place_in_epoch[mine])
        return SequenceRefs(source=source, sequence=sequence, epoch=epoch)

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
        for epoch in range(-(-rounds_begun * part // size)):
            places = epoch * size + self._stream(index, epoch).backward(sequences)
            rounds, virtual = self.mixture.virtual_of(index, places)
            in_round = _permuted(self._round, rounds, virtual, backward=True)
            found.append(rounds * self.mixture.round_sequences + in_round)
        positions = np.stack(found) if found else np.empty((0, sequences.size), dtype=np.int64)
        which = np.broadcast_to(np.arange(sequences.size), positions.shape)[positions < self.phase.positions]
        positions = positions[positions < self.phase.positions]
        ascending = np.argsort(positions, kind="stable")
        return positions[ascending], which[ascending]

    def _round(self, number: int) -> KeyedPermutation:
        return _permutation(self.mixture.round_sequences, self.seed, "round", self.phase.name, number)

    def _stream(self, source: int, epoch: int) -> KeyedPermutation:
        name, digest = self.sources[source], self._store_digests[source]
        size = int(self.mixture.sequences[source])
        return _permutation(size, self.seed, "stream", self.phase.name, name, digest, epoch)


@lru_cache(maxsize=1024)
def _permutation(size: int, *key_parts: object) -> KeyedPermutation:
    return KeyedPermutation(size, *key_parts)


def _permuted(
    permutation_of: Callable[[int], KeyedPermutation], groups: Numbers, numbers: Numbers, *, backward: bool = False
) -> Numbers:
    """Permute every number by its group's permutation; usually there are one or two groups."""
    result = np.empty_like(numbers)
    ascending = np.argsort(groups, kind="stable")
    borders = np.flatnonzero(np.diff(groups[ascending])) + 1
    for members in np.split(ascending, borders) if groups.size else ():
        permutation = permutation_of(int(groups[members[0]]))
        mine = numbers[members]
        result[members] = permutation.backward(mine) if backward else permutation.forward(mine)
    return result
