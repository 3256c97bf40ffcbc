"""What documents are compared by: a digest of the bytes, and a MinHash signature of the word n-grams.

The library is rensa (extra `clean`). Measured against datasketch 2.0 in bench/cleaning.py it makes a signature
fourteen times as fast, with an error no larger; it needs nothing but Python, and has wheels for Linux (glibc and
musl), macOS and Windows. Words are hashed here, not there, so that signatures do not depend on its tokenizer.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from seqpair.data.cleaning.words import Words, inside_texts, ngram_hashes
from seqpair.errors import DataError
from seqpair.recipe.cleaning_spec import NearDuplicatesSpec

DIGEST_WORDS = 2
"""64-bit words of a text's digest."""

_SEED = 1
_FOUND_FRAC = 0.99


def minhash_version() -> int:
    """Return the version of the library's algorithm; signatures of two versions must not be compared.

    Raises:
        DataError: The library is not installed.
    """
    try:
        from rensa import RMinHash
    except ImportError as error:
        raise DataError(
            "near duplicates need a package that is not installed",
            seen="no module 'rensa'",
            fix="pip install 'seqpair[clean]', or leave `duplicates.near` out of the recipe",
        ) from error
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
