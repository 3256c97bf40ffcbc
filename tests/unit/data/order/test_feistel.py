from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqpair.data.order.feistel import MAX_SIZE, KeyedPermutation

HUGE = 10**12


def chi_square_excess(counts: list[int], kinds: int, draws: int) -> float:
    """How many standard deviations a chi-square statistic lies above its mean, for equally likely kinds."""
    expected = draws / kinds
    statistic = sum((count - expected) ** 2 / expected for count in counts) + (kinds - len(counts)) * expected
    return (statistic - (kinds - 1)) / math.sqrt(2 * (kinds - 1))


def test_it_is_a_bijection_for_every_small_size():
    for size in range(1, 301):
        permutation = KeyedPermutation(size, "small", size)
        image = permutation.forward(np.arange(size))
        assert np.array_equal(np.sort(image), np.arange(size)), size
        assert np.array_equal(permutation.backward(image), np.arange(size)), size


@pytest.mark.parametrize("size", [4**8 + 1, 2**17 - 1, 3**11, 99_991 * 2, 250_000])
def test_it_is_a_bijection_across_chunks(size):
    image = KeyedPermutation(size, 5).forward(np.arange(size))
    assert np.array_equal(np.bincount(image, minlength=size), np.ones(size))


@given(size=st.integers(1, HUGE), seed=st.integers(), data=st.data())
@settings(max_examples=150)
def test_backward_undoes_forward_up_to_ten_to_the_twelfth(size, seed, data):
    numbers = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=30)), dtype=np.int64)
    permutation = KeyedPermutation(size, seed, "sampled")
    image = permutation.forward(numbers)
    assert image.min() >= 0
    assert image.max() < size
    assert len(set(image.tolist())) == len(set(numbers.tolist()))
    assert np.array_equal(permutation.backward(image), numbers)
    assert np.array_equal(permutation.forward(permutation.backward(numbers)), numbers)


@pytest.mark.parametrize("size", [HUGE, 2**40 + 1, 4**20, 4**20 + 1, MAX_SIZE - 1, 2**61 + 1, 2**62 - 2**31])
def test_large_sizes_hit_both_ends(size):
    permutation = KeyedPermutation(size, "ends")
    numbers = np.concatenate([np.arange(50), size - 1 - np.arange(50), np.arange(99) * (size // 99)])
    image = permutation.forward(numbers)
    assert image.min() >= 0
    assert image.max() < size
    assert np.array_equal(permutation.backward(image), numbers)


def test_fewer_than_half_of_the_draws_walk_for_every_size():
    near_powers = [base**power + offset for base in (2, 4) for power in range(1, 20) for offset in (-1, 0, 1)]
    sizes = [*range(1, 5000), *(size for size in near_powers if size >= 1)]
    walking = {size: KeyedPermutation(size, 0).walking_frac for size in sizes}
    assert max(walking.values()) <= 0.25
    assert all(frac < 1 / math.sqrt(size) for size, frac in walking.items())


def test_other_keys_give_other_permutations_and_the_same_key_the_same():
    numbers = np.arange(1000)
    images = [KeyedPermutation(1000, *key).forward(numbers) for key in ((1, "a"), (1, "b"), (2, "a"), (1, "a"))]
    assert np.array_equal(images[0], images[3])
    for other in images[1:3]:
        assert np.count_nonzero(images[0] == other) < 12  # one place in a thousand agrees by chance


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_all_permutations_of_a_small_size_are_equally_likely_over_keys(size):
    keys = 3000
    seen = Counter(tuple(KeyedPermutation(size, "k", key).forward(np.arange(size)).tolist()) for key in range(keys))
    assert chi_square_excess(list(seen.values()), math.factorial(size), keys) < 5


@pytest.mark.parametrize("size", [6, 9, 17, 30])
def test_first_elements_are_uniform_over_keys(size):
    keys = 2500
    first = Counter(int(KeyedPermutation(size, key).forward(np.zeros(1, np.int64))[0]) for key in range(keys))
    assert chi_square_excess(list(first.values()), size, keys) < 5


@pytest.mark.parametrize("size", [65_537, 10**6, HUGE])
def test_neighbours_and_blocks_are_spread_evenly(size):
    window = min(size, 60_000)
    image = KeyedPermutation(size, "spread").forward(np.arange(window))
    unit = image / size
    assert abs(np.corrcoef(unit[:-1], unit[1:])[0, 1]) < 5 / math.sqrt(window)
    cells = np.bincount((unit[:-1] * 16).astype(int) * 16 + (unit[1:] * 16).astype(int), minlength=256)
    assert chi_square_excess(cells.tolist(), 256, window - 1) < 5
    steps = np.diff(unit) % 1.0
    assert chi_square_excess(np.bincount((steps * 100).astype(int), minlength=100).tolist(), 100, window - 1) < 5


def test_a_random_permutation_has_few_fixed_points():
    fixed = sum(
        int(np.count_nonzero(KeyedPermutation(1000, key).forward(np.arange(1000)) == np.arange(1000)))
        for key in range(300)
    )
    assert abs(fixed - 300) < 5 * math.sqrt(300)


def test_shapes_are_kept_and_empty_input_is_fine():
    permutation = KeyedPermutation(100, 1)
    assert permutation.forward(np.arange(12).reshape(3, 4)).shape == (3, 4)
    assert permutation.forward(np.empty(0, np.int64)).shape == (0,)
    assert permutation.forward(np.array([[3]]))[0, 0] == permutation.forward(np.arange(10))[3]
    strided = np.arange(40)[::2]
    assert np.array_equal(permutation.backward(permutation.forward(strided)), strided)


def test_numbers_outside_are_refused():
    permutation = KeyedPermutation(10, 1)
    with pytest.raises(IndexError, match=r"numbers in \[3, 10\] are not all in \[0, 10\)"):
        permutation.forward(np.array([3, 10]))
    with pytest.raises(IndexError, match=r"not all in \[0, 10\)"):
        permutation.backward(np.array([-1]))


@pytest.mark.parametrize("size", [0, -1, MAX_SIZE])
def test_sizes_outside_are_refused(size):
    with pytest.raises(ValueError, match=r"must be in \[1, 2\*\*62\)"):
        KeyedPermutation(size, 1)
