import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqpair.objectives.corruption import TokenCounters, chosen_tokens, corrupted_ids

REGULAR = np.array([5, 6, 7, 9, 11, 200, 319])
MASK = 4


def counters(sequences: int = 200, content: int = 300, first_position: int = 0) -> TokenCounters:
    positions = np.arange(first_position, first_position + sequences)
    return TokenCounters.of(positions, np.full(sequences, content))


def as_torch(value: TokenCounters) -> TokenCounters:
    return TokenCounters(*(torch.from_numpy(part.astype(np.int64)) for part in value))


@given(seed=st.integers(0, 2**63 - 1), first=st.integers(0, 2**50), frac=st.floats(0.0, 1.0))
def test_numpy_and_torch_give_the_same_bits(seed, first, frac):
    mine = counters(3, 40, first)
    theirs = as_torch(mine)
    chosen = chosen_tokens(mine, seed, "pretrain", frac)
    assert torch.equal(torch.from_numpy(chosen), chosen_tokens(theirs, seed, "pretrain", frac))
    ids = np.arange(120) % 7 + 5
    seen = corrupted_ids(ids, mine, seed, "pretrain", MASK, REGULAR)
    seen_torch = corrupted_ids(torch.from_numpy(ids), theirs, seed, "pretrain", MASK, torch.from_numpy(REGULAR))
    assert seen.dtype == np.int64
    assert torch.equal(torch.from_numpy(seen), seen_torch)


@pytest.mark.parametrize("frac", [0.0, 0.15, 0.3, 1.0])
def test_the_share_of_chosen_tokens_is_the_mask_rate(frac):
    share = chosen_tokens(counters(), 7, "pretrain", frac).mean()
    assert share == pytest.approx(frac, abs=4 * (frac * (1 - frac) / 60_000) ** 0.5)


def test_eighty_ten_ten_with_uniform_replacements():
    ids = np.full(60_000, 8)  # not among the replacements, so that each kind can be told
    seen = corrupted_ids(ids, counters(), 7, "pretrain", MASK, REGULAR)
    assert (seen == MASK).mean() == pytest.approx(0.8, abs=0.006)
    assert (seen == 8).mean() == pytest.approx(0.1, abs=0.005)
    drawn = seen[(seen != MASK) & (seen != 8)]
    assert set(drawn) == set(REGULAR)
    shares = np.bincount(drawn, minlength=320)[REGULAR] / drawn.size
    assert np.abs(shares - 1 / REGULAR.size).max() < 0.02


def test_the_draw_depends_on_seed_phase_position_and_index_and_on_nothing_else():
    here = counters(2, 500)
    chosen = chosen_tokens(here, 7, "pretrain", 0.3)
    assert np.array_equal(chosen[500:], chosen_tokens(counters(1, 500, 1), 7, "pretrain", 0.3))  # not on the batch
    assert np.array_equal(chosen[300:500], chosen_tokens(here.take(slice(300, 500)), 7, "pretrain", 0.3))
    others = [
        chosen_tokens(here, 8, "pretrain", 0.3),
        chosen_tokens(here, 7, "decay", 0.3),
        chosen_tokens(counters(2, 500, 2), 7, "pretrain", 0.3),
        chosen_tokens(counters(2, 500, 1 << 32), 7, "pretrain", 0.3),  # the position's high word counts
    ]
    for other in others:
        assert 0.3 < (chosen == other).mean() < 0.7  # 0.58 if independent


def test_a_lower_rate_chooses_a_subset_of_a_higher_one():
    low, high = (chosen_tokens(counters(), 7, "pretrain", frac) for frac in (0.15, 0.3))
    assert low.sum() > 0
    assert not (low & ~high).any()
