"""A keyed permutation of [0, N) without a table, forwards and backwards.

A number x in [0, a * b) is the pair (x // b, x % b) in Z_a x Z_b, with a = ceil(sqrt(N)) and
b = ceil(N / a). A round adds a keyed function of one half to the other, modulo the other's size:

    left  <- (left  + f_i(right)) mod a      (even rounds)
    right <- (right + f_i(left))  mod b      (odd rounds)

Every round is a bijection whatever f_i is, and so is the whole. a * b exceeds N by less than a, so
that less than a share 1 / sqrt(N) of the draws, and never more than a quarter, falls outside [0, N)
and is permuted again until it falls inside (cycle walking); just above a power of two or four nothing is special.

f_i mixes 32-bit words (the constants of `seqpair.counter.mix32`, with a second key word between the two
multiplications) and maps the word w to its range by (w * size) >> 32, without a division. Reductions
modulo a and b are one conditional subtraction, written as the unsigned minimum of y and y - a.

Source: J. Black and P. Rogaway, "Ciphers with Arbitrary Finite Domains" (2002), section 5, the generalised
Feistel construction over Z_a x Z_b, and section 3 for cycle walking.
Differs: fewer rounds of a fast non-cryptographic mixer; this order has to look random, not to resist an attack.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from seqpair.counter import key_words
from seqpair.data import Numbers

MAX_SIZE = 1 << 62
"""Both halves and their sums stay inside 32 bits up to here."""

_ROUNDS = 12
_CHUNK_NUMBERS = 1 << 15
_FIRST_MULTIPLIER = np.uint32(0x7FEB352D)
_SECOND_MULTIPLIER = np.uint32(0x846CA68B)
_SHIFT_15, _SHIFT_16, _SHIFT_32 = np.uint32(15), np.uint32(16), np.uint64(32)

_Half = NDArray[np.uint32]
_Wide = NDArray[np.uint64]


class KeyedPermutation:
    """A bijection on [0, size), chosen by a key.

    Args:
        size: How many numbers are permuted, 1 <= size < 2**62.
        *key_parts: Anything printable; other parts give another permutation.

    Raises:
        ValueError: The size is outside its range.
    """

    def __init__(self, size: int, *key_parts: object) -> None:
        if not 1 <= size < MAX_SIZE:
            raise ValueError(f"a permutation's size must be in [1, 2**62), not {size}")
        self.size = size
        self._left_size = math.isqrt(size - 1) + 1
        self._right_size = -(-size // self._left_size)
        self._right_wide = np.uint64(self._right_size)
        self._rounds = []
        for index in range(_ROUNDS):
            first, second = key_words(*key_parts, "feistel", index)
            half_size = self._left_size if index % 2 == 0 else self._right_size
            self._rounds.append((np.uint32(first), np.uint32(second), np.uint32(half_size), np.uint64(half_size)))

    @property
    def walking_frac(self) -> float:
        """Return the share of draws that fall outside [0, size) and are permuted again."""
        return 1.0 - self.size / (self._left_size * self._right_size)

    def forward(self, numbers: Numbers) -> Numbers:
        """Return the image of every number.

        Args:
            numbers: Of any shape, int64, each in [0, size).

        Returns:
            An int64 array of the same shape.

        Raises:
            IndexError: A number is outside [0, size).
        """
        return self._permute(numbers, backward=False)

    def backward(self, numbers: Numbers) -> Numbers:
        """Return the number whose image each one is: `backward(forward(x)) == x`.

        Args:
            numbers: Of any shape, int64, each in [0, size).

        Returns:
            An int64 array of the same shape.

        Raises:
            IndexError: A number is outside [0, size).
        """
        return self._permute(numbers, backward=True)

    def _permute(self, numbers: Numbers, *, backward: bool) -> Numbers:
        numbers = np.asarray(numbers)
        if numbers.size and (numbers.min() < 0 or numbers.max() >= self.size):
            raise IndexError(f"numbers in [{numbers.min()}, {numbers.max()}] are not all in [0, {self.size})")
        # Chunks keep all buffers of the network in a core's cache. The view as uint64 is free: no number is negative.
        flat = np.ascontiguousarray(numbers, dtype=np.int64).reshape(-1).view(np.uint64)
        result = np.empty(flat.size, dtype=np.uint64)
        scratch = _Scratch(min(flat.size, _CHUNK_NUMBERS))
        for first in range(0, flat.size, _CHUNK_NUMBERS):
            chunk = slice(first, first + _CHUNK_NUMBERS)
            self._walk(flat[chunk], result[chunk], scratch, backward=backward)
        return result.view(np.int64).reshape(numbers.shape)

    def _walk(self, numbers: _Wide, result: _Wide, scratch: _Scratch, *, backward: bool) -> None:
        """Permute a chunk, and again what fell outside until nothing is outside."""
        limit = np.uint64(self.size)
        self._network(numbers, result, scratch, backward=backward)
        if self._left_size * self._right_size == self.size:
            return
        # Following a cycle of the larger permutation until it is inside again maps the inside one to one onto itself:
        # `backward` follows the same cycle in the other direction.
        outside = np.flatnonzero(result >= limit)
        while outside.size:
            again = result[outside]
            self._network(again, again, scratch, backward=backward)
            result[outside] = again
            outside = outside[again >= limit]

    def _network(self, numbers: _Wide, result: _Wide, scratch: _Scratch, *, backward: bool) -> None:
        """Run all rounds once over at most `_CHUNK_NUMBERS` numbers; `result` may be `numbers`."""
        count = numbers.size
        left, right, word, shifted = (half[:count] for half in scratch.halves)
        wide = scratch.wide[:count]
        # (x // b, x % b) with one division: the remainder is what the product of the quotient leaves.
        np.floor_divide(numbers, self._right_wide, out=wide)
        np.copyto(left, wide, casting="same_kind")
        np.multiply(wide, self._right_wide, out=wide)
        np.subtract(numbers, wide, out=wide)
        np.copyto(right, wide, casting="same_kind")
        order = range(_ROUNDS - 1, -1, -1) if backward else range(_ROUNDS)
        for index in order:
            target, other = (left, right) if index % 2 == 0 else (right, left)
            first, second, half_size, half_wide = self._rounds[index]
            _mix(other, first, second, word, shifted)
            # (word * size) >> 32 maps a word to [0, size); the product needs 64 bits, the result fits 32 again.
            np.copyto(wide, word)
            np.multiply(wide, half_wide, out=wide)
            np.right_shift(wide, _SHIFT_32, out=wide)
            np.copyto(word, wide, casting="same_kind")
            if backward:
                np.subtract(target, word, out=target)
                np.add(target, half_size, out=shifted)
            else:
                np.add(target, word, out=target)
                np.subtract(target, half_size, out=shifted)
            # Of y and y -+ size one wraps around to a huge unsigned number; the smaller is y modulo size.
            np.minimum(target, shifted, out=target)
        np.copyto(wide, left)
        np.multiply(wide, self._right_wide, out=wide)
        np.add(wide, right, out=result)


def _mix(half: _Half, first: np.uint32, second: np.uint32, word: _Half, shifted: _Half) -> None:
    """Write a keyed random word for every half into `word`; `shifted` is scratch."""
    np.bitwise_xor(half, first, out=word)
    np.right_shift(word, _SHIFT_16, out=shifted)
    np.bitwise_xor(word, shifted, out=word)
    np.multiply(word, _FIRST_MULTIPLIER, out=word)
    np.right_shift(word, _SHIFT_15, out=shifted)
    np.bitwise_xor(word, shifted, out=word)
    np.bitwise_xor(word, second, out=word)
    np.multiply(word, _SECOND_MULTIPLIER, out=word)
    np.right_shift(word, _SHIFT_16, out=shifted)
    np.bitwise_xor(word, shifted, out=word)


class _Scratch:
    """Buffers for one chunk, allocated once a call so that threads do not share them."""

    def __init__(self, count: int) -> None:
        self.halves = [np.empty(count, dtype=np.uint32) for _ in range(4)]
        self.wide = np.empty(count, dtype=np.uint64)
