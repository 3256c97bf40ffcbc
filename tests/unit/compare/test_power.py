import numpy as np
import pytest

from seqpair.compare.estimates import p_value, variance_parts
from seqpair.compare.power import (
    Spread,
    detectable_difference,
    items_needed,
    plan_study,
    right_or_wrong_spread,
    spread_of,
)
from seqpair.errors import EvaluationError

SPREAD = Spread(seeds=0.02, items=0.4, noise=0.3)


def simulate(spread, mean, *, seeds, items, studies=600):
    generator = np.random.default_rng(0)
    of_items = mean + spread.items * generator.standard_normal((studies, 1, items))
    sides = []
    for own in (of_items, 0.0):  # half of what varies between runs is each side's
        of_seeds = spread.seeds * generator.standard_normal((studies, seeds, 1))
        sides.append(own + (of_seeds + spread.noise * generator.standard_normal((studies, seeds, items))) / np.sqrt(2))
    return sides


@pytest.mark.parametrize("seeds", [3, 6])
@pytest.mark.parametrize("family", [1, 5])
def test_the_detectable_difference_is_found_in_four_studies_of_five(seeds, family):
    difference = detectable_difference(SPREAD, items=300, seeds=seeds, family=family)
    p = p_value(variance_parts(*simulate(SPREAD, difference, seeds=seeds, items=300)))
    assert (p < 0.05 / family).mean() == pytest.approx(0.80, abs=0.05)


def test_more_items_more_seeds_and_fewer_tests_show_smaller_differences():
    def found(items=300, seeds=4, family=1):
        return detectable_difference(SPREAD, items=items, seeds=seeds, family=family)

    assert found(items=1200) < found() < found(items=75)
    assert found(seeds=8) < found() < found(seeds=3)
    assert found() < found(family=10)


def test_items_cannot_replace_seeds():
    many = detectable_difference(SPREAD, items=10**7, seeds=3)
    assert many > 2 * SPREAD.seeds


def test_a_pilots_spread_is_found_again():
    first, second = simulate(Spread(0.5, 1.0, 0.7), 0.2, seeds=40, items=400, studies=1)
    found = spread_of((first - second)[0])
    assert (found.seeds, found.items, found.noise) == pytest.approx((0.5, 1.0, 0.7), rel=0.2)


def test_a_guess_has_the_variance_of_items_that_differ():
    spread = right_or_wrong_spread(0.3, agreement=0.8, seed_sd=0.01, lasting=0.75)
    assert spread.items**2 + spread.noise**2 == pytest.approx(0.2)
    assert spread.items**2 == pytest.approx(0.15)


def test_a_plan_says_in_advance_that_a_study_is_too_small():
    small = plan_study(SPREAD, items=100, seeds=3, wanted=0.01)
    assert small.is_enough is False
    assert "too small a study for a difference of 0.01" in small.sentence
    large = plan_study(SPREAD, items=5000, seeds=8, wanted=0.2)
    assert large.is_enough
    assert "enough for a difference of 0.2" in large.sentence


def test_a_plan_with_two_seeds_is_never_enough_for_training():
    plan = plan_study(SPREAD, items=10**6, seeds=2, wanted=0.9)
    assert plan.is_enough is False
    assert "for these runs only" in plan.sentence


def test_the_least_number_of_items():
    assert items_needed(SPREAD, 0.2, seeds=4, choices=[1000, 50, 200]) in (50, 200)
    assert items_needed(SPREAD, 0.001, seeds=4, choices=[50, 200]) is None


@pytest.mark.parametrize(
    "change", [{"items": 1}, {"seeds": 0}, {"family": 0}, {"level": 1.0}, {"power": 0.0}], ids=lambda c: next(iter(c))
)
def test_what_is_no_study_is_refused(change):
    with pytest.raises(EvaluationError, match="no study has these numbers"):
        detectable_difference(SPREAD, **({"items": 10, "seeds": 3} | change))


def test_what_is_no_spread_is_refused():
    with pytest.raises(EvaluationError, match="a spread needs"):
        Spread(0.0, 0.0, 0.0)
    with pytest.raises(EvaluationError, match="agree this often"):
        right_or_wrong_spread(0.3, agreement=0.2, seed_sd=0.0)
    with pytest.raises(EvaluationError, match="two seeds and two items"):
        spread_of(np.zeros((1, 5)))


def test_clusters_show_less_than_as_many_items_alone():
    alone, halves, whole = (
        detectable_difference(SPREAD, items=300, seeds=5, clusters=clusters, shared=shared)
        for clusters, shared in ((None, 0.5), (30, 0.5), (30, 1.0))
    )
    assert alone < halves < whole
    with pytest.raises(EvaluationError, match="no study has these numbers"):
        detectable_difference(SPREAD, items=300, seeds=5, clusters=301)
