"""Counter-based randomness: a random word is a pure function of a key and counters.

The words are 32 bits wide and travel in 64-bit integers, in numpy also in their own 32, so the same code gives the
same bits for Python integers, numpy uint32 and int64 arrays and torch int64 tensors (torch has no unsigned 64-bit
arithmetic).

Source: the mixer is the 32-bit "lowbias32" finaliser found by C. Wellons' hash prospector (public domain).
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

from seqpair.files import hash64

Words = TypeVar("Words")
"""An int, a numpy uint32 or int64 array or a torch int64 tensor whose values lie in [0, 2**32)."""

MASK_32 = 0xFFFFFFFF
_FIRST_MULTIPLIER = 0x7FEB352D
_SECOND_MULTIPLIER = 0x846CA68B
_WEYL_STEP = 0x9E3779B9


def mix32(word: Words) -> Words:
    """Mix one 32-bit word; a bijection on [0, 2**32).

    A product may exceed the carrier's bits; numpy and torch wrap around, and the low 32 bits that are
    kept are the same in all carriers. The first operation makes the array that the others work in.
    """
    mixed: Any = word
    is_wide = getattr(word, "itemsize", 8) > 4  # a 32-bit carrier drops the high bits by itself
    mixed = mixed ^ (mixed >> 16)
    mixed *= _FIRST_MULTIPLIER
    if is_wide:
        mixed &= MASK_32
    mixed ^= mixed >> 15
    mixed *= _SECOND_MULTIPLIER
    if is_wide:
        mixed &= MASK_32
    mixed ^= mixed >> 16
    return cast(Words, mixed)


def key_words(*parts: object) -> tuple[int, int]:
    """Return two 32-bit key words for any printable parts (seed, phase name, purpose, ...)."""
    word = hash64("\x1f".join(str(part) for part in parts))
    return word & MASK_32, word >> 32


def hash_words(key: tuple[int, int], *counters: Words) -> Words:
    """Return one random 32-bit word for every element of the (broadcast) counters.

    Args:
        key: From `key_words`.
        *counters: One or more counters in [0, 2**32); give a larger one as two words. All are
            integers, or all arrays/tensors (mixed with integers) of one carrier.
    """
    return end_hash(key, begin_hash(key, *counters))


def begin_hash(key: tuple[int, int], *counters: Words) -> Words:
    """Return the state of `hash_words` after some counters: what is common to all words that share them."""
    first: Any = counters[0]
    state: Any = mix32(first ^ key[0])
    for counter in counters[1:]:
        state = mix32(((state + _WEYL_STEP) & MASK_32) ^ counter)
    return cast(Words, state)


def end_hash(key: tuple[int, int], state: Words, *counters: Words) -> Words:
    """Return the words of `hash_words` from a state and the counters that are left."""
    word: Any = state
    for counter in counters:
        word = mix32(((word + _WEYL_STEP) & MASK_32) ^ counter)
    return cast(Words, mix32(word ^ key[1]))


def as_fraction_threshold(fraction: float) -> int:
    """Return t such that a random word w < t has the given probability, to 2**-32."""
    assert 0.0 <= fraction <= 1.0
    return round(fraction * (1 << 32))
