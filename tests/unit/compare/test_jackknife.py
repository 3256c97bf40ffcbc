"""Leaving one out is exact: against scipy, sacrebleu and plain counting, item by item."""

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from seqpair.compare.crossed import crossed_interval, crossed_parts
from seqpair.compare.jackknife import (
    classes_without_each,
    pearson_without_each,
    pseudo_values,
    ratio_without_each,
    spearman_without_each,
)
from seqpair.evaluate.finetune.metrics import class_metrics

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
    parts = crossed_parts(rows[0] - rows[1])
    half = crossed_interval(parts)[0]
    return float(parts.value), float(half)


def test_intervals_of_a_difference_of_correlations_hold_the_truth():
    draw = np.random.default_rng(3)
    held = sum(abs(value) <= half for value, half in (simulated_interval(draw) for _ in range(200)))
    assert 180 <= held <= 199  # of 200 at 95 %: fewer than 180 has a probability of 0.1 %
