import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpair.compare.families import adjust_family, holm
from seqpair.compare.values import Estimate


def estimate(p):
    return Estimate(0.1, 0.0, 0.2, 0.95, p, "", "", 10, 3)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_never_lowers_a_p(p):
    adjusted = holm(p)
    assert (adjusted >= np.array(p) - 1e-15).all()
    assert (adjusted <= np.minimum(1.0, len(p) * np.array(p)) + 1e-15).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()


def test_many_families_at_once():
    p = np.random.default_rng(0).uniform(size=(5, 4))
    assert holm(p)[3] == pytest.approx(holm(p[3]))


def test_what_has_no_p_is_in_no_family():
    found = adjust_family([estimate(0.02), None, estimate(None), estimate(0.03)])
    assert [one and one.p_adjusted for one in found] == [pytest.approx(0.04), None, None, pytest.approx(0.04)]
    assert found[0].family == 2
    assert found[2].family == 1


def test_the_adjusted_p_decides():
    assert estimate(0.03).decides
    assert not estimate(0.03).adjusted(0.06, 2).decides


def test_numbers_that_are_no_probabilities_are_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([0.1, 1.2])
