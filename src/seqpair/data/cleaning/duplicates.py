"""Which of many documents were there before, exactly (by a digest) or nearly (by MinHash signatures of word n-grams).

Documents are walked in the recipe's order: one is a duplicate if it equals an earlier one, or is similar to an
earlier one that stays. So every removed document has a partner that stays, and the result depends on nothing but
the order.

Memory for N documents: 40 N bytes for digests and their sorting order, 17 N bytes for one band at a time, and
the signatures of those documents only that share a band with another.

The MinHash library is rensa (extra `clean`). Measured against datasketch 2.0 in bench/cleaning.py it makes a
signature fourteen times as fast, with an error no larger; it needs nothing but Python, and has wheels for Linux
(glibc and musl), macOS and Windows. Words are hashed here, not there, so that signatures do not depend on its
tokenizer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seqpair.data.cleaning.words import Words, inside_texts, mix64, ngram_hashes
from seqpair.errors import DataError, needs_extra
from seqpair.recipe.cleaning_spec import DuplicatesSpec, NearDuplicatesSpec

KEPT, EXACT, NEAR = 0, 1, 2
_BAND_POWER = np.uint64(0x9E3779B97F4A7C15)
DIGEST_WORDS = 2
"""64-bit words of a text's digest."""
_SEED = 1
_FOUND_FRAC = 0.99


def minhash_version() -> int:
    """Return the version of the library's algorithm; signatures of two versions must not be compared.

    Raises:
        DataError: The library is not installed.
    """
    with needs_extra("finding near duplicates", "clean", DataError, "; or leave `duplicates.near` out of the recipe"):
        from rensa import RMinHash
    return int(RMinHash.ALGORITHM_VERSION)


def text_digest(text: str) -> bytes:
    """Return 16 bytes of BLAKE2b of the UTF-8 text: equal for equal texts alone, for all that can happen."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=8 * DIGEST_WORDS).digest()


def near_signatures(words: Words, spec: NearDuplicatesSpec) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """Return the signatures of D texts, and which of them are long enough to be compared.

    Returns:
        uint32 (D, permutations), and bool (D,).

    Raises:
        DataError: The library is not installed.
    """
    minhash_version()
    from rensa import RMinHash

    chosen, bounds = inside_texts(words.offsets, spec.ngram_words)
    hashes = ngram_hashes(words.hashes, [spec.ngram_words])[0][chosen]
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        np.ascontiguousarray(hashes), bounds.astype(np.uint64), spec.permutations, _SEED
    )
    rows = np.array(matrix.to_rows(), dtype=np.uint32).reshape(-1, spec.permutations)
    return rows, np.diff(words.offsets) >= spec.min_words


def bands_of(permutations: int, similarity: float) -> tuple[int, int]:
    """Return (bands, rows a band): the most rows with which 99 of 100 pairs at the similarity share a band.

    A pair at similarity s agrees in a band of r slots with probability s**r, and in at least one of b bands with
    1 - (1 - s**r)**b. More rows mean fewer pairs that are compared in vain.
    """
    for rows in range(permutations, 0, -1):
        bands = permutations // rows
        if 1 - (1 - similarity**rows) ** bands >= _FOUND_FRAC:
            return bands, rows
    return permutations, 1


@dataclass(frozen=True)
class Duplicates:
    """The outcome for N documents.

    Attributes:
        kind: uint8 (N,): `KEPT`, `EXACT` or `NEAR`.
        partner: int64 (N,): the earlier document that stays; -1 for those that stay.
        similarity: float32 (N,): the estimate for near duplicates, 1 for exact ones, 0 for those that stay.
    """

    kind: NDArray[np.uint8]
    partner: NDArray[np.int64]
    similarity: NDArray[np.float32]


class SignatureParts:
    """Signatures that lie in parts, such as one memory-mapped file a unit, seen as one.

    Args:
        parts: Arrays uint32 (permutations, documents of the part): a slot of all documents lies together.
    """

    def __init__(self, parts: Sequence[NDArray[np.uint32]]) -> None:
        self._parts = parts
        self._starts = np.cumsum([0, *(part.shape[1] for part in parts)])

    def band(self, first: int, rows: int, chosen: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return a hash of some slots for the chosen documents (ascending)."""
        hashes = np.zeros(len(chosen), dtype=np.uint64)
        for part, places, target in self._by_part(chosen):
            # Slot by slot and not row by row: a slot of all documents lies together on disk.
            for slot in range(first, first + rows):
                hashes[target] = hashes[target] * _BAND_POWER + part[slot][places]
        return mix64(hashes + np.uint64(1))

    def of(self, chosen: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Return the signatures of the chosen documents (ascending), uint32 (chosen, permutations)."""
        width = self._parts[0].shape[0] if self._parts else 0
        rows = np.empty((len(chosen), width), dtype=np.uint32)
        for part, places, target in self._by_part(chosen):
            rows[target] = part[:, places].T
        return rows

    def _by_part(self, chosen: NDArray[np.int64]) -> list[tuple[NDArray[np.uint32], NDArray[np.int64], slice]]:
        # `chosen` ascends, so each part's documents are one run of it, and a slice instead of an index suffices.
        bounds = np.searchsorted(chosen, self._starts)
        return [
            (part, chosen[low:high] - start, slice(int(low), int(high)))
            for part, start, low, high in zip(self._parts, self._starts[:-1], bounds[:-1], bounds[1:], strict=True)
            if high > low
        ]


def find_duplicates(
    digests: NDArray[np.uint64],
    usable: NDArray[np.bool_],
    comparable: NDArray[np.bool_],
    signatures: SignatureParts,
    spec: DuplicatesSpec,
) -> Duplicates:
    """Find the duplicates among N documents in order.

    Args:
        digests: uint64 (N, 2): digests of the texts.
        usable: bool (N,): documents that no other rule removed; the others are neither removed here nor partners.
        comparable: bool (N,): documents long enough for a signature.
        signatures: The signatures of all N; not touched without `spec.near`.
        spec: What is asked for.
    """
    count = len(digests)
    found = Duplicates(
        np.zeros(count, dtype=np.uint8), np.full(count, -1, dtype=np.int64), np.zeros(count, dtype=np.float32)
    )
    if spec.exact:
        _mark_equal(digests, np.flatnonzero(usable), found)
    if spec.near is not None:
        rest = np.flatnonzero(usable & comparable & (found.kind == KEPT))
        _mark_similar(rest, signatures, spec.near, found)
    # a document may equal one that was found to be similar to a third: the partner that stays is the third
    equal = np.flatnonzero(found.kind == EXACT)
    moved = equal[found.kind[found.partner[equal]] == NEAR]
    found.partner[moved] = found.partner[found.partner[moved]]
    return found


def _mark_equal(digests: NDArray[np.uint64], rows: NDArray[np.int64], found: Duplicates) -> None:
    """Mark every document whose digest an earlier one has; its partner is the first with that digest."""
    # Sorted by digest, then by row (lexsort's last key counts most): equal documents lie together, the earliest first.
    order = rows[np.lexsort((rows, digests[rows, 1], digests[rows, 0]))]
    same = (digests[order[1:]] == digests[order[:-1]]).all(axis=1)
    first = np.concatenate([[True], ~same])[: len(order)]  # the slice matters for no documents at all
    # A running maximum over the places of firsts carries each first on to the documents that equal it.
    heads = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))]
    later = order[~first]
    found.kind[later], found.partner[later], found.similarity[later] = EXACT, heads[~first], 1.0


def _mark_similar(
    rows: NDArray[np.int64], signatures: SignatureParts, spec: NearDuplicatesSpec, found: Duplicates
) -> None:
    """Walk through the documents that share a band with another; compare each with those that stay."""
    members, groups = _groups(rows, signatures, spec)
    if len(members) == 0:
        return
    # `members` ascends, so the groups of a document are the run from its first place to the next document's.
    documents, starts = np.unique(members, return_index=True)
    ends = np.append(starts[1:], len(members))
    slots = signatures.of(documents)
    staying: dict[int, list[int]] = {}  # group -> places in `documents` of its members that stay
    for place, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        own = groups[start:end].tolist()
        candidates = sorted({other for group in own for other in staying.get(group, ())})
        if candidates:
            # The share of equal slots estimates the Jaccard similarity; a shared band alone proves nothing.
            alike = (slots[candidates] == slots[place]).mean(axis=1)
            best = int(alike.argmax())  # of equally similar ones the first
            if alike[best] >= spec.similarity:
                document = documents[place]
                found.kind[document], found.similarity[document] = NEAR, alike[best]
                found.partner[document] = documents[candidates[best]]
                continue
        for group in own:
            staying.setdefault(group, []).append(place)


def _groups(
    rows: NDArray[np.int64], signatures: SignatureParts, spec: NearDuplicatesSpec
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (document, group) pairs, sorted by document: the groups are those that share a band's hash."""
    bands, height = bands_of(spec.permutations, spec.similarity)
    members: list[NDArray[np.int64]] = []
    groups: list[NDArray[np.int64]] = []
    before = 0
    for band in range(bands):
        hashes = signatures.band(band * height, height, rows)
        order = np.argsort(hashes, kind="stable")
        ordered = hashes[order]
        same = ordered[1:] == ordered[:-1]
        # Shared with the next or with the one before; documents alone in their group are dropped, which are most.
        shared = np.append(same, False) | np.concatenate([[False], same])[: len(ordered)] if len(ordered) else same
        numbers = np.cumsum(np.concatenate([[True], ~same])[: len(ordered)])
        members.append(rows[order[shared]])
        groups.append(numbers[shared] + before)
        before += len(rows) + 1  # so that groups of different bands never have the same number
    all_members, all_groups = np.concatenate(members), np.concatenate(groups)
    order = np.argsort(all_members, kind="stable")
    return all_members[order], all_groups[order]
