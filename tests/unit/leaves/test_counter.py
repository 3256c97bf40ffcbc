import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqpair.counter import MASK_32, as_fraction_threshold, hash_words, key_words, mix32

WORDS = st.lists(st.integers(0, MASK_32), min_size=1, max_size=50)


@given(WORDS, WORDS)
def test_integers_numpy_and_torch_give_the_same_bits(first, second):
    size = min(len(first), len(second))
    first, second = first[:size], second[:size]
    key = key_words(7, "pretrain", "mask")
    plain = [hash_words(key, a, b) for a, b in zip(first, second, strict=True)]
    arrays = hash_words(key, np.array(first, dtype=np.int64), np.array(second, dtype=np.int64))
    tensors = hash_words(key, torch.tensor(first), torch.tensor(second))
    assert plain == arrays.tolist() == tensors.tolist()
    assert all(0 <= word <= MASK_32 for word in plain)


def test_mixing_is_a_bijection_on_a_sample_and_golden():
    words = mix32(np.arange(1 << 18, dtype=np.int64))
    assert np.unique(words).size == words.size
    assert hash_words(key_words("a"), 1, 2, 3) == hash_words(key_words("a"), 1, 2, 3)
    assert hash_words((1, 2), 3, 4) == 3778603486


def test_every_counter_and_the_key_matter():
    seen = {hash_words(key_words(seed), a, b) for seed in range(4) for a in range(40) for b in range(40)}
    assert len(seen) >= 4 * 40 * 40 - 2


def test_a_threshold_has_its_probability():
    words = hash_words(key_words("p"), np.arange(400_000, dtype=np.int64), np.zeros(400_000, dtype=np.int64))
    for fraction in (0.15, 0.3, 0.8):
        assert abs((words < as_fraction_threshold(fraction)).mean() - fraction) < 0.004
    assert as_fraction_threshold(0.0) == 0
    assert as_fraction_threshold(1.0) == 1 << 32
