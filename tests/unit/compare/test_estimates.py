"""Which method is used when; the crossed analysis against hand-made mean squares and by simulation; Holm."""

import numpy as np
import pytest
import simulated_scores as sim
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from seqpair.compare.estimates import (
    adjust_family,
    average_estimate,
    average_parts,
    cluster_sums,
    difference_estimate,
    effect_sizes,
    error_of_parts,
    holm,
    interval_half,
    p_value,
    value_estimate,
    variance_parts,
)
from seqpair.compare.pairing import pair_sides
from seqpair.compare.values import OTHER_ITEMS_AND_SEEDS, THESE_RUNS, Estimate, Task
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


STUDIES, ITEMS = 400, 200


def simulate(seed, *, studies=STUDIES, seeds=3, ratio=1.0, items=ITEMS, noise=1.0):
    """Return two sides whose difference has mean zero, and whose seeds add `ratio` times the rest's variance to it."""
    generator = np.random.default_rng(seed)
    rest = 1 / items + noise**2 / (seeds * items)
    of_items = generator.standard_normal((studies, 1, items))
    sides = []
    for of_difference in (of_items, 0.0):
        of_seeds = np.sqrt(ratio * rest * seeds / 2) * generator.standard_normal((studies, seeds, 1))
        own_noise = np.sqrt(0.5) * noise * generator.standard_normal((studies, seeds, items))
        sides.append(of_seeds + of_difference + own_noise)
    return sides


def right_or_wrong(seed, accuracy, *, ratio, seeds=3):
    generator = np.random.default_rng(seed)
    shared = generator.standard_normal((STUDIES, 1, ITEMS))
    sd = np.sqrt(ratio * accuracy * (1 - accuracy) / ITEMS)
    size = accuracy * (1 - accuracy) / sd**2 - 1 if sd > 0 else None
    outcomes = []
    for _ in range(2):
        drawn = np.full((STUDIES, seeds), accuracy)
        if size is not None:
            drawn = generator.beta(accuracy * size, (1 - accuracy) * size, (STUDIES, seeds))
        noise = generator.standard_normal((STUDIES, seeds, ITEMS))
        right = np.sqrt(0.4) * shared + np.sqrt(0.6) * noise < stats.norm.ppf(drawn)[:, :, None]
        outcomes.append(right.astype(float))
    return outcomes


def test_the_parts_of_a_small_table():
    table = np.array([[1.0, 2.0, 6.0], [3.0, 4.0, 2.0]])
    parts = variance_parts(table)
    assert parts.value == pytest.approx(3.0)
    assert parts.seeds[0] == pytest.approx(0.0)  # both seeds have the mean 3
    assert parts.items == pytest.approx(np.var([2.0, 3.0, 4.0], ddof=1) / 3)
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + 3
    assert parts.noise * 6 == pytest.approx((rest**2).sum() / 2)


def test_each_side_has_its_own_variance_over_seeds_and_welchs_test_where_seeds_are_all():
    first, second = (np.repeat(np.array(values)[:, None], 5, axis=1) for values in ([0.1, 0.4, 0.7], [0.2, 0.3, 0.2]))
    parts = variance_parts(first, second)
    assert [float(part) for part in parts.seeds] == pytest.approx([0.03, 1 / 900])
    welch = stats.ttest_ind([0.1, 0.4, 0.7], [0.2, 0.3, 0.2], equal_var=False)
    assert float(p_value(parts)) == pytest.approx(welch.pvalue)
    low, high = welch.confidence_interval(0.95)
    assert 2 * float(interval_half(parts)) == pytest.approx(high - low)


def test_where_items_are_all_it_is_the_t_test_over_clusters():
    differences = np.random.default_rng(4).standard_normal(12) + 0.4
    first = np.repeat(differences[None], 3, axis=0)
    parts = variance_parts(first, np.zeros((3, 12)))
    seeds_vary = sum(parts.seeds)
    assert float(seeds_vary) == 0.0
    assert float(p_value(parts)) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    assert float(error_of_parts(parts)) == pytest.approx(differences.std(ddof=1) / np.sqrt(12))


def test_clusters_of_one_item_are_no_clusters():
    first, second = simulate(2, studies=4)
    plain, own = (variance_parts(first, second, clusters=codes) for codes in (None, np.arange(ITEMS)))
    for name in ("value", "items", "noise", "items_df"):
        np.testing.assert_allclose(getattr(plain, name), getattr(own, name))


def test_a_repeated_item_adds_nothing_where_the_cluster_is_known():
    """Every item four times over: known clusters give the interval of the distinct items, unknown ones half of it."""
    first, second = simulate(3, studies=3)
    codes = np.repeat(np.arange(ITEMS), 4)
    four = [side.repeat(4, axis=-1) for side in (first, second)]
    alone, known, unknown = variance_parts(first, second), variance_parts(*four, clusters=codes), variance_parts(*four)
    np.testing.assert_allclose(known.items, alone.items)
    np.testing.assert_allclose(known.noise, alone.noise)
    np.testing.assert_allclose(known.items_df, alone.items_df)
    assert (unknown.items < 0.3 * known.items).all()


def test_unequal_clusters_count_as_fewer():
    codes = np.repeat(np.arange(4), (97, 1, 1, 1))
    parts = variance_parts(np.random.default_rng(0).random((3, 100)), clusters=codes)
    assert float(parts.items_df) == pytest.approx(max(100**2 / (97**2 + 3) - 1, 1.0))


def test_sums_over_clusters_come_with_their_sizes():
    sums, sizes = cluster_sums(np.array([[1.0, 2.0, 4.0], [10.0, 20.0, 40.0]]), np.array([5, 1, 5]))
    assert sums.tolist() == [[2.0, 5.0], [20.0, 50.0]]
    assert sizes.tolist() == [1.0, 2.0]


def test_the_variance_of_the_mean_is_estimated_without_bias():
    parts = variance_parts(*simulate(0, studies=4000, ratio=1.0, items=50))
    estimated = (sum(parts.seeds) + parts.items - parts.noise).mean()
    assert estimated == pytest.approx(parts.value.var(), rel=0.06)


def test_two_items_differ_at_least_where_outcomes_are_right_or_wrong():
    table = np.zeros((3, 10))
    assert variance_parts(table).items == 0
    assert variance_parts(table, right_or_wrong=True).items == pytest.approx(2 / 9 / 10)


@pytest.mark.parametrize("ratio", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_covers_the_truth(seeds, ratio):
    parts = variance_parts(*simulate(int(10 * ratio) + seeds, seeds=seeds, ratio=ratio))
    half = interval_half(parts)
    assert 0.92 <= (np.abs(parts.value) <= half).mean() <= 0.985


@pytest.mark.parametrize("accuracy", [0.04, 0.5, 0.96])
@pytest.mark.parametrize("ratio", [0.0, 1.0, 10.0])
def test_the_interval_covers_the_truth_of_right_and_wrong(accuracy, ratio):
    parts = variance_parts(*right_or_wrong(3, accuracy, ratio=ratio), right_or_wrong=True)
    half = interval_half(parts)
    assert 0.92 <= (np.abs(parts.value) <= half).mean() <= 0.985


def test_items_alone_would_not_cover_other_seeds():
    first, second = simulate(1, ratio=10.0)
    by_item = (first - second).mean(axis=1)
    half = 1.96 * by_item.std(axis=1, ddof=1) / np.sqrt(ITEMS)
    assert (np.abs(by_item.mean(axis=1)) <= half).mean() < 0.6


@pytest.mark.parametrize("ratio", [0.0, 3.0, 100.0])
def test_p_errs_no_more_often_than_it_says(ratio):
    p = p_value(variance_parts(*simulate(5, studies=3000, ratio=ratio, items=60)))
    assert (p < 0.05).mean() <= 0.05 + 0.01
    assert (p < 0.005).mean() <= 0.005 + 0.004


@pytest.mark.parametrize("ratio", [0.0, 1.0, 30.0])
def tesinterval_half_and_p_always_agree(ratio):
    parts = variance_parts(*simulate(6, ratio=ratio))
    half = interval_half(parts)
    assert ((np.abs(parts.value) > half) == (p_value(parts) < 0.05)).all()


def test_a_family_of_true_nulls_errs_in_at_most_a_twentieth():
    p = np.stack([p_value(variance_parts(*simulate(20 + task, items=60, ratio=3.0))) for task in range(8)], axis=1)
    assert (holm(p).min(axis=1) < 0.05).mean() <= 0.05


def test_p_falls_as_the_difference_grows_and_finds_a_large_one():
    first, second = simulate(7, studies=1, ratio=0.0)
    found = [float(p_value(variance_parts(first + shift, second))[0]) for shift in (0.2, 0.5, 1.0, 3.0)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.01


def test_nothing_differs_gives_p_of_one():
    assert float(p_value(variance_parts(np.zeros((3, 20)), np.zeros((3, 20))))) == 1.0


def test_a_difference_that_never_varies_is_sure():
    parts = variance_parts(np.ones((3, 20)), np.zeros((3, 20)))
    assert float(interval_half(parts)) == float(error_of_parts(parts)) == 0.0
    assert float(p_value(parts)) < 1e-100


def test_the_average_adds_items_and_takes_seeds_together():
    generator = np.random.default_rng(8)
    seeds = generator.standard_normal(4)  # one model does both tasks
    tasks = [seeds[:, None] + generator.standard_normal((1, 30)) for _ in range(2)]
    parts = [variance_parts(task) for task in tasks]
    average = average_parts(parts, np.stack([task.mean(axis=1)[None] for task in tasks]))
    assert float(average.seeds[0]) == pytest.approx(seeds.var(ddof=1) / 4)
    assert float(average.items) == pytest.approx(float(parts[0].items + parts[1].items) / 4)
    assert 29 < float(average.items_df) < 58


def test_tables_without_two_seeds_items_or_clusters_are_refused():
    with pytest.raises(ValueError, match=r"two seeds and two items at least are needed, got the shape \(1, 9\)"):
        variance_parts(np.zeros((1, 9)))
    with pytest.raises(ValueError, match="two clusters at least"):
        variance_parts(np.zeros((3, 9)), clusters=np.zeros(9, dtype=np.int64))
    with pytest.raises(ValueError, match="same seeds"):
        average_parts([], np.zeros((0, 1, 3)))


def test_leading_axes_are_studies():
    first, second = simulate(9, studies=5)
    together, alone = variance_parts(first, second), variance_parts(first[2], second[2])
    assert [float(part[2]) for part in together.seeds] == pytest.approx([float(part) for part in alone.seeds])
    assert float(p_value(together)[2]) == pytest.approx(float(p_value(alone)))


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
