import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from seqpair.compare.exact import mcnemar_p, permutation_p


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
