"""The bootstrap against normal theory, against plain resampling, and by its coverage."""

import numpy as np
import pytest

from seqpair.compare import bootstrap
from seqpair.compare.bootstrap import paired_difference
from seqpair.compare.values import Interval


def ones_for(values):
    return np.ones(len(values))


def mean_difference(first, second, **options):
    return paired_difference(first, ones_for(first), second, ones_for(second), **options)


def against_zero(values, weights):
    return paired_difference(values, weights, np.zeros(len(values)), ones_for(values))


def test_the_interval_of_a_mean_agrees_with_normal_theory():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=2000)
    interval = against_zero(values, ones_for(values))
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert interval.value == pytest.approx(values.mean(), rel=1e-12)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_the_interval_of_a_proportion_agrees_with_normal_theory():
    right = np.arange(1000) < 310
    interval = against_zero(right, ones_for(right))
    half = 1.96 * np.sqrt(0.31 * 0.69 / 1000)
    assert interval.value == pytest.approx(0.31)
    assert interval.low == pytest.approx(0.31 - half, abs=0.05 * half)
    assert interval.high == pytest.approx(0.31 + half, abs=0.05 * half)


def test_the_interval_of_a_weighted_mean_agrees_with_the_delta_method():
    generator = np.random.default_rng(2)
    size = generator.integers(50, 500, 1500).astype(float)
    bits = 2.0 * size + generator.normal(0, 40, 1500)
    interval = against_zero(bits / size, size)
    residual = bits - bits.sum() / size.sum() * size
    half = 1.96 * np.sqrt(1500) * residual.std() / size.sum()
    assert interval.value == pytest.approx(bits.sum() / size.sum())
    assert interval.low == pytest.approx(interval.value - half, abs=0.06 * half)
    assert interval.high == pytest.approx(interval.value + half, abs=0.06 * half)


def test_counts_of_distinct_rows_have_the_distribution_of_drawn_rows():
    columns = np.stack([np.arange(400) < 120, np.ones(400)], axis=1).astype(float)
    rows, counts = np.unique(columns, axis=0, return_counts=True)
    by_counts = bootstrap._sums_by_counts(np.random.default_rng(0), rows, counts, 20_000)
    by_draws = bootstrap._sums_by_draws(np.random.default_rng(1), columns, 20_000)
    probes = [1, 10, 50, 90, 99]
    assert np.percentile(by_counts[:, 0], probes) == pytest.approx(np.percentile(by_draws[:, 0], probes), abs=1.5)
    assert (by_counts[:, 1] == 400).all()
    assert (by_draws[:, 1] == 400).all()


def test_pairing_is_narrower_than_two_independent_intervals():
    generator = np.random.default_rng(1)
    difficulty = generator.normal(0.0, 1.0, size=500)
    first, second = difficulty + generator.normal(0.1, 0.1, 500), difficulty + generator.normal(0.0, 0.1, 500)
    paired = mean_difference(first, second)
    independent = 1.96 * np.sqrt((first.var() + second.var()) / 500)
    assert not paired.contains(0.0)
    assert paired.high - paired.low < 0.2 * (2 * independent)


def test_items_weigh_by_their_size():
    interval = against_zero([1.0, 4.0] * 50, [10.0, 100.0] * 50)
    assert interval.value == pytest.approx(410 / 110)
    assert interval.low < interval.value < interval.high


def test_equal_members_differ_by_exactly_nothing():
    values = np.random.default_rng(3).normal(size=100)
    assert mean_difference(values, values) == Interval(0.0, 0.0, 0.0)


def test_the_same_input_gives_the_same_interval():
    values, others = np.random.default_rng(4).normal(size=(2, 100))
    assert mean_difference(values, others) == mean_difference(values, others)


def test_the_difference_changes_sign_with_the_order():
    generator = np.random.default_rng(5)
    one, two, size = generator.normal(2, 1, 300), generator.normal(2, 1, 300), generator.uniform(1, 9, 300)
    forward, backward = paired_difference(one, size, two, size), paired_difference(two, size, one, size)
    assert (forward.low, forward.high) == pytest.approx((-backward.high, -backward.low), abs=0.02)
    assert forward.value == pytest.approx(-backward.value)


def test_coverage_is_about_the_level():
    generator = np.random.default_rng(6)
    covered = 0
    for _ in range(400):
        first = generator.exponential(1.0, 120)
        second = 0.5 * first + generator.exponential(0.5, 120)
        covered += mean_difference(first, second, resamples=500).contains(0.0)
    assert 0.91 <= covered / 400 <= 0.98


@pytest.mark.parametrize(
    ("values", "weights", "message"),
    [
        ([], [], "shape"),
        ([1.0, float("nan")], [1.0, 1.0], "item 1 has a value that is not finite"),
        ([1.0], [1.0, 2.0], "1 values and 2 weights"),
        ([1.0, 1.0], [0.0, 0.0], "must not all be zero"),
        ([1.0, 1.0], [2.0, -1.0], "must not be negative"),
    ],
)
def test_bad_items_are_refused(values, weights, message):
    with pytest.raises(ValueError, match=message):
        paired_difference(values, weights, values, weights)


def test_members_with_different_items_are_refused():
    with pytest.raises(ValueError, match="different numbers of items: 3 and 2"):
        mean_difference([1, 2, 3], [1, 2])
