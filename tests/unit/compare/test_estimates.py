import numpy as np
import pytest
import simulated_scores as sim

from seqpair.compare.estimates import average_estimate, difference_estimate, effect_sizes, value_estimate
from seqpair.compare.pairing import pair_sides
from seqpair.compare.values import OTHER_ITEMS_AND_SEEDS, THESE_RUNS, Task
from seqpair.errors import EvaluationError


def paired(first, second, task=None):
    """Pair two tables (S, I)."""
    sides = [
        [sim.scores(row, sim.model(member, seed=seed), task) for seed, row in enumerate(table)]
        for member, table in (("encoder", first), ("decoder", second))
    ]
    return pair_sides(*sides)


def table(seeds, items=300, accuracy=0.6, seed=0):
    return (np.random.default_rng(seed).uniform(size=(seeds, items)) < accuracy).astype(float)


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_or_two_seeds_speak_of_these_runs_only(seeds):
    found = difference_estimate(paired(table(seeds), table(seeds, seed=1)))
    assert found.scope == THESE_RUNS == "conditional on these runs"
    assert not found.is_about_training
    assert found.seeds == seeds


def test_three_seeds_speak_of_training():
    found = difference_estimate(paired(table(3), table(3, seed=1)))
    assert found.scope == OTHER_ITEMS_AND_SEEDS
    assert found.low < found.value < found.high
    assert found.df is not None


def test_seeds_that_disagree_widen_what_items_would_say():
    calm, restless = table(3, 2000), np.stack([table(1, 2000, accuracy)[0] for accuracy in (0.5, 0.6, 0.7)])
    other = table(3, 2000, seed=9)
    narrow, wide = (difference_estimate(paired(one, other)) for one in (calm, restless))
    assert wide.high - wide.low > 4 * (narrow.high - narrow.low)
    alone = difference_estimate(paired(restless[2:], other[2:]))
    assert alone.decides
    assert not wide.decides


def test_no_item_differs_still_leaves_room():
    same = np.ones((1, 200))
    found = difference_estimate(paired(same, same))
    assert found.value == 0
    assert found.p == 1.0
    assert 0.005 < found.high < 0.03  # about three items of 200: Tango's interval ends at 3.84 / (200 + 3.84)
    many = difference_estimate(paired(np.ones((3, 200)), np.ones((3, 200))))
    assert many.low < 0 < many.high


def test_continuous_outcomes_of_one_run_agree_with_normal_theory():
    generator = np.random.default_rng(2)
    first, second = generator.normal(0.2, 1.0, (2, 1, 800))
    found = difference_estimate(paired(first, second))
    half = 1.96 * (first - second).std() / np.sqrt(800)
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.06 * half)


@pytest.mark.parametrize("seeds", [1, 3])
def test_an_average_is_surer_than_its_tasks(seeds):
    tasks = [paired(table(seeds, 300, 0.6, n), table(seeds, 300, 0.55, n + 50), Task(f"task{n}")) for n in range(6)]
    alone, together = difference_estimate(tasks[0]), average_estimate(tasks)
    assert together.value == pytest.approx(np.mean([difference_estimate(one).value for one in tasks]))
    assert together.high - together.low < alone.high - alone.low
    assert together.items == 1800


def test_an_average_over_other_seeds_is_refused():
    with pytest.raises(EvaluationError, match="evaluated at the same seeds"):
        average_estimate([paired(table(3), table(3)), paired(table(2), table(2))])


def test_a_sides_value_stays_within_zero_and_one():
    high = value_estimate((np.arange(300) < 298)[None].repeat(3, axis=0).astype(float), right_or_wrong=True)
    assert high.high <= 1.0
    one = value_estimate(np.zeros((1, 50)), right_or_wrong=True)
    assert one.low == 0
    assert one.high == pytest.approx(3.84 / 53.84, abs=1e-3)  # Wilson's


def test_effect_sizes_by_hand():
    first, second = np.r_[np.ones(60), np.zeros(40)][None], np.r_[np.ones(40), np.zeros(50), np.ones(10)][None]
    found = effect_sizes(paired(first, second))
    assert found.points == pytest.approx(10.0)
    assert found.odds_ratio == pytest.approx(20.5 / 10.5)
    assert found.cohens_h == pytest.approx(2 * np.arcsin(np.sqrt(0.6)) - 2 * np.arcsin(np.sqrt(0.5)))
    differences = (first - second)[0]
    assert found.standardised == pytest.approx(0.1 / differences.std(ddof=1))
    bits = effect_sizes(paired(first * 3, second))
    assert bits.cohens_h is None
    assert bits.odds_ratio is None


def test_one_item_is_refused():
    with pytest.raises(EvaluationError, match="too few items"):
        difference_estimate(paired([[1.0]], [[0.0]]))
