"""A hybrid step's split: its share is exact, depends on positions only, and each part is counted as it is built."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqpair.data.order.batches import Batch, assemble
from seqpair.data.tokenizer.tokenizer import SpecialIds
from seqpair.objectives import selection
from seqpair.objectives.selection import (
    MASKINGS,
    Part,
    TokenCounters,
    chosen_tokens,
    corrupted_ids,
    measured_objective,
    parts_of_step,
    prefix_tokens,
    sequence_rates,
)
from seqpair.objectives.targets import TargetBuilder
from seqpair.recipe.objectives import OBJECTIVES, Objective

HYBRID = OBJECTIVES["hybrid"]
SPECIALS = SpecialIds(cls=1, sep=2, pad=3, mask=4, unk=0)
BUILDER = TargetBuilder(
    SimpleNamespace(specials=SPECIALS, regular_ids=np.arange(5, 60), special_ids=np.arange(5), vocab_size=64), seed=3
)


def batch_at(first: int, sequences: int) -> Batch:
    rng = np.random.default_rng(first)
    lengths = rng.integers(1, 40, sequences)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Batch(
        phase="pretrain",
        step=0,
        positions=np.arange(first, first + sequences, dtype=np.int64),
        source=np.zeros(sequences, dtype=np.int32),
        rows=np.arange(sequences, dtype=np.int64),
        pieces=np.zeros(sequences, dtype=np.int32),
        is_last_piece=rng.random(sequences) < 0.5,
        content=rng.integers(5, 60, int(offsets[-1])),
        offsets=offsets,
    )


def parts_of(batch: Batch, objective: Objective, causal_frac: float | None, seed: int) -> tuple[Part, ...]:
    return parts_of_step(batch.positions, batch.phase, objective, causal_frac, seed)


@pytest.mark.parametrize("share", [0.0625, 0.5, 0.3, 0.01])
def test_the_causal_share_is_exact_in_every_step_and_over_all(share):
    causal = 0
    for step in range(200):
        parts = parts_of(batch_at(step * 12, 12), HYBRID, share, seed=1)
        here = sum(part.indices.size for part in parts if part.objective.name == "clm")
        assert abs(here - 12 * share) < 1
        causal += here
    assert causal == int(200 * 12 * share + 1e-9)


def test_every_sequence_is_in_exactly_one_part():
    parts = parts_of(batch_at(7, 50), HYBRID, 0.3, seed=1)
    assert [part.objective.name for part in parts] == ["clm", "mntp"]
    assert sorted(np.concatenate([part.indices for part in parts]).tolist()) == list(range(50))


def test_the_direction_changes_with_the_seed_and_not_with_the_content():
    def causal(seed: int, shift: int) -> list[int]:
        batch = batch_at(0, 64)
        moved = Batch(**{**batch.__dict__, "content": (batch.content + shift) % 50 + 5})
        return parts_of(moved, HYBRID, 0.25, seed)[0].indices.tolist()

    assert causal(1, 0) == causal(1, 9)
    assert causal(1, 0) != causal(2, 0)


def test_a_plain_objective_has_one_part():
    (part,) = parts_of(batch_at(0, 9), OBJECTIVES["mlm"], None, seed=1)
    assert part.objective.name == "mlm"
    assert part.indices.tolist() == list(range(9))


def test_a_hybrid_step_counts_what_its_parts_predict():
    batch = batch_at(1 << 34, 40)
    for part in parts_of(batch, HYBRID, 0.4, seed=1):
        rows = assemble(batch, part.indices, SPECIALS, part.objective.ends_every_piece)
        chosen = BUILDER.choose(part, batch, 0.3)
        built = BUILDER.build(part.objective, rows, chosen, "cpu")
        assert built.target_ids.numel() == chosen.count
        assert built.direction == part.objective.direction


def test_a_mixed_objective_is_measured_by_its_rest():
    assert measured_objective(HYBRID).name == "mntp"
    assert measured_objective(OBJECTIVES["clm"]).name == "clm"


def test_prefixes_are_uniform_leave_a_token_and_depend_on_the_position_alone():
    positions = np.arange(1 << 33, (1 << 33) + 20_000)
    lengths = np.where(positions % 2 == 0, 10, 1)
    found = prefix_tokens(positions, lengths, 7, "pretrain")
    assert (found[lengths == 1] == 0).all()
    share = np.bincount(found[lengths == 10], minlength=10) / 10_000
    assert share.size == 10
    assert share == pytest.approx(np.full(10, 0.1), abs=0.015)
    assert np.array_equal(prefix_tokens(positions[5:9], lengths[5:9], 7, "pretrain"), found[5:9])
    assert not np.array_equal(prefix_tokens(positions, lengths, 8, "pretrain"), found)


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


def test_a_sequence_masks_its_own_share_and_a_tokens_mean_vote_is_one():
    here = counters(3000, 40)
    masking = MASKINGS["sequence_rates"](here, 7, "pretrain", None)
    rates = sequence_rates(here, 7, "pretrain")
    assert 0.001 < rates.min() < 0.003
    assert 0.99 < rates.max() <= 1.0
    assert rates.mean() == pytest.approx(0.5005, abs=4 * (1 / 12 / 3000) ** 0.5)
    shares = masking.chosen.reshape(3000, 40).mean(1)
    assert np.abs(shares - rates).max() < 6 * (0.25 / 40) ** 0.5
    assert np.allclose(masking.votes.reshape(3000, 40), 1 / rates[:, None])
    votes = (masking.chosen * masking.votes).reshape(3000, 40).mean(1)
    assert abs(votes.mean() - 1.0) < 4 * votes.std() / 3000**0.5


def test_a_sequences_rate_depends_on_seed_phase_and_position_and_on_nothing_else():
    rates = sequence_rates(counters(50, 3), 7, "pretrain")
    assert np.array_equal(rates[20:], sequence_rates(counters(30, 9, 20), 7, "pretrain"))
    for other in (sequence_rates(counters(50, 3), 8, "pretrain"), sequence_rates(counters(50, 3), 7, "decay")):
        assert not (rates == other).any()


def test_the_largest_rate_is_one_and_the_smallest_has_a_finite_vote():
    edge = TokenCounters(np.zeros(1, np.uint32), np.zeros(1, np.uint32), np.zeros(9, np.int64), np.arange(9))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(selection, "hash_words", lambda *_: np.array([(1 << 32) - 1], dtype=np.uint32))
        assert 1 - 1e-9 < sequence_rates(edge, 0, "p").item() <= 1.0
        patched.setattr(selection, "hash_words", lambda *_: np.array([0], dtype=np.uint32))
        assert sequence_rates(edge, 0, "p").item() == pytest.approx(0.001, rel=1e-6)
