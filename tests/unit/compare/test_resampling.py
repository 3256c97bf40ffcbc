"""The bootstrap and the permutation test against normal theory and plain counting; leaving one out, item by item."""

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from seqpair.compare import resampling as bootstrap
from seqpair.compare.estimates import interval_half, variance_parts
from seqpair.compare.resampling import (
    classes_without_each,
    mcnemar_p,
    paired_difference,
    pearson_without_each,
    permutation_p,
    pseudo_values,
    ratio_without_each,
    spearman_without_each,
)
from seqpair.compare.values import Interval
from seqpair.evaluate.finetune.metrics import class_metrics


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


def test_pairing_is_narrower_than_two_independeninterval_halfs():
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


def test_mcnemar_is_a_coin_thrown_for_every_item_that_differs():
    assert mcnemar_p(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar_p(0, 0) == mcnemar_p(5, 5) == 1.0


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_does_not_care_which_side_is_first(one, two):
    assert mcnemar_p(one, two) == pytest.approx(mcnemar_p(two, one))


def test_few_differing_items_are_enumerated():
    d = np.array([1.0, 2.0, -0.5, 4.0, 0.0])
    sums = [abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in itertools.product((-1, 1), repeat=5)]
    assert permutation_p(d) == pytest.approx(np.mean([s >= 6.5 for s in sums]))


def test_the_permutation_test_of_right_and_wrong_is_mcnemars():
    d = np.repeat([1.0, -1.0, 0.0], [60, 35, 500])
    assert permutation_p(d) == pytest.approx(mcnemar_p(60, 35), abs=0.004)


def test_random_signs_agree_with_the_t_test():
    d = np.random.default_rng(0).normal(0.15, 1.0, 300)
    assert permutation_p(d) == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=0.01)


def test_ties_change_nothing_and_only_ties_decide_nothing():
    d = np.random.default_rng(1).normal(0.3, 1.0, 40)
    assert permutation_p(d) == permutation_p(np.concatenate([d, np.zeros(100)]))
    assert permutation_p(np.zeros(5)) == 1.0


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="shape"):
        permutation_p([])
    with pytest.raises(ValueError, match="item 1 has a value that is not finite"):
        permutation_p([1.0, float("nan")])
    with pytest.raises(ValueError, match="counts of items"):
        mcnemar_p(-1, 3)


NUMBERS = st.lists(st.tuples(st.integers(0, 4), st.integers(-3, 3)), min_size=4, max_size=12)


@given(NUMBERS)
def test_correlations_without_each_item_are_scipys(pairs):
    x, y = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    for function, oracle in ((spearman_without_each, stats.spearmanr), (pearson_without_each, stats.pearsonr)):
        whole, without = function(x, y)
        cases = [(whole, x, y), *((without[i], np.delete(x, i), np.delete(y, i)) for i in range(len(x)))]
        for found, a, b in cases:
            if np.ptp(a) == 0 or np.ptp(b) == 0:
                assert math.isnan(found)
            else:
                assert found == pytest.approx(oracle(a, b).statistic, abs=1e-12)


def test_1400_items_take_less_than_a_second():
    draw = np.random.default_rng(0)
    gold = np.round(draw.random(1379) * 5, 1)
    found = gold + draw.normal(size=1379)
    began = time.process_time()
    whole, without = spearman_without_each(gold, found)
    assert time.process_time() - began < 1
    assert whole == pytest.approx(stats.spearmanr(gold, found).statistic)
    for i in range(0, 1379, 100):
        assert without[i] == pytest.approx(stats.spearmanr(np.delete(gold, i), np.delete(found, i)).statistic)


def test_pseudo_values_of_a_mean_are_the_items():
    values = np.array([1.0, 2.0, 4.0, 9.0])
    without = (values.sum() - values) / 3
    assert pseudo_values(values.mean(), without) == pytest.approx(values)


@pytest.mark.parametrize("metric", ["matthews", "f1", "f1_macro"])
def test_classes_without_each_item_are_counted_anew(metric):
    draw = np.random.default_rng(1)
    gold = draw.integers(0, 2, 40)
    guess = np.where(draw.random(40) < 0.7, gold, 1 - gold)

    def measure(counts):
        return class_metrics(counts)[metric]

    whole, without = classes_without_each(gold, guess, 2, measure)
    for i in range(40):
        counts = np.zeros((2, 2))
        np.add.at(counts, (np.delete(gold, i), np.delete(guess, i)), 1.0)
        assert without[i] == pytest.approx(measure(counts))
    assert whole > 0


def test_a_ratio_without_its_only_denominator_is_undefined():
    whole, without = ratio_without_each([1.0, 0.0, 0.0], [2.0, 0.0, 0.0])
    assert whole == 0.5
    assert math.isnan(without[0])
    assert list(without[1:]) == [0.5, 0.5]


def test_a_column_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        spearman_without_each([1.0, 2.0, math.nan], [1.0, 2.0, 3.0])


def simulated_interval(draw, seeds=3, items=150, correlation=0.5):
    """Return the interval of a difference of two members' Spearman correlations whose true difference is zero."""
    truth = draw.normal(size=items)
    lasting = draw.normal(size=(2, 1, items))
    noise = (lasting + draw.normal(size=(2, seeds, items))) / math.sqrt(2)
    shift = np.clip(correlation + 0.03 * draw.normal(size=(2, seeds, 1)), -0.99, 0.99)
    found = shift * truth + np.sqrt(1 - shift**2) * noise
    rows = np.array([[pseudo_values(*spearman_without_each(truth, own)) for own in member] for member in found])
    parts = variance_parts(rows[0], rows[1])
    half = interval_half(parts)
    return float(parts.value), float(half)


def tesinterval_halfs_of_a_difference_of_correlations_hold_the_truth():
    draw = np.random.default_rng(3)
    held = sum(abs(value) <= half for value, half in (simulated_interval(draw) for _ in range(200)))
    assert 180 <= held <= 199  # of 200 at 95 %: fewer than 180 has a probability of 0.1 %
