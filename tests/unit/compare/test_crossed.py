"""The crossed analysis against hand-made mean squares, and by simulation: coverage, and the error of p."""

import numpy as np
import pytest
from scipy import stats

from seqpair.compare.crossed import CrossedParts, average_parts, crossed_interval, crossed_p, crossed_parts
from seqpair.compare.families import holm

STUDIES, ITEMS = 400, 200


def simulate(seed, *, studies=STUDIES, seeds=3, ratio=1.0, items=ITEMS, noise=1.0):
    """Return differences with mean zero whose seeds add `ratio` times the rest's variance to the mean."""
    generator = np.random.default_rng(seed)
    rest = 1 / items + noise**2 / (seeds * items)
    of_seeds = np.sqrt(ratio * rest * seeds) * generator.standard_normal((studies, seeds, 1))
    of_items = generator.standard_normal((studies, 1, items))
    return of_seeds + of_items + noise * generator.standard_normal((studies, seeds, items))


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
        outcomes.append(np.sqrt(0.4) * shared + np.sqrt(0.6) * noise < stats.norm.ppf(drawn)[:, :, None])
    return outcomes[0].astype(float) - outcomes[1]


def test_the_mean_squares_of_a_small_table():
    table = np.array([[1.0, 2.0, 6.0], [3.0, 4.0, 2.0]])
    parts = crossed_parts(table)
    assert parts.value == pytest.approx(3.0)
    assert parts.seeds * 6 == pytest.approx(0.0)  # both seeds have the mean 3
    item_means = np.array([2.0, 3.0, 4.0])
    assert parts.items * 6 == pytest.approx(2 * ((item_means - 3) ** 2).sum() / 2)
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + 3
    assert parts.noise * 6 == pytest.approx((rest**2).sum() / 2)


def test_the_variance_of_the_mean_is_estimated_without_bias():
    parts = crossed_parts(simulate(0, studies=4000, ratio=1.0, items=50))
    estimated = (parts.seeds + parts.items - parts.noise).mean()
    assert estimated == pytest.approx(parts.value.var(), rel=0.06)


def test_two_items_differ_at_least_where_outcomes_are_right_or_wrong():
    table = np.zeros((3, 10))
    assert crossed_parts(table).items == 0
    assert crossed_parts(table, right_or_wrong=True).items * 30 == pytest.approx(3 * 2 / 9)


@pytest.mark.parametrize("ratio", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_covers_the_truth(seeds, ratio):
    parts = crossed_parts(simulate(int(10 * ratio) + seeds, seeds=seeds, ratio=ratio))
    half, _, _ = crossed_interval(parts)
    assert 0.92 <= (np.abs(parts.value) <= half).mean() <= 0.985


@pytest.mark.parametrize("accuracy", [0.04, 0.5, 0.96])
@pytest.mark.parametrize("ratio", [0.0, 1.0, 10.0])
def test_the_interval_covers_the_truth_of_right_and_wrong(accuracy, ratio):
    parts = crossed_parts(right_or_wrong(3, accuracy, ratio=ratio), right_or_wrong=True)
    half, _, _ = crossed_interval(parts)
    assert 0.92 <= (np.abs(parts.value) <= half).mean() <= 0.985


def test_items_alone_would_not_cover_other_seeds():
    differences = simulate(1, ratio=10.0)
    by_item = differences.mean(axis=1)
    half = 1.96 * by_item.std(axis=1, ddof=1) / np.sqrt(ITEMS)
    assert (np.abs(by_item.mean(axis=1)) <= half).mean() < 0.6


@pytest.mark.parametrize("ratio", [0.0, 3.0, 100.0])
def test_p_errs_no_more_often_than_it_says(ratio):
    p = crossed_p(crossed_parts(simulate(5, studies=3000, ratio=ratio, items=60)))
    assert (p < 0.05).mean() <= 0.05 + 0.01
    assert (p < 0.005).mean() <= 0.005 + 0.004


def test_a_family_of_true_nulls_errs_in_at_most_a_twentieth():
    p = np.stack([crossed_p(crossed_parts(simulate(20 + task, items=60, ratio=3.0))) for task in range(8)], axis=1)
    assert (holm(p).min(axis=1) < 0.05).mean() <= 0.05


def test_p_falls_as_the_difference_grows_and_finds_a_large_one():
    differences = simulate(7, studies=1, ratio=0.0)
    found = [float(crossed_p(crossed_parts(differences + shift))[0]) for shift in (0.2, 0.5, 1.0, 3.0)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.01


def test_p_is_that_of_the_t_test_over_seeds_where_seeds_are_all():
    per_seed = np.array([0.3, 0.5, 0.1, 0.2])
    parts = crossed_parts(np.repeat(per_seed[:, None], 6, axis=1))
    assert float(crossed_p(parts)) == pytest.approx(stats.ttest_1samp(per_seed, 0).pvalue, rel=1e-6)
    half, _, df = crossed_interval(parts)
    assert float(df) == pytest.approx(3.0)
    assert float(half) == pytest.approx(stats.t.ppf(0.975, 3) * per_seed.std(ddof=1) / 2)


def test_nothing_differs_gives_p_of_one():
    assert float(crossed_p(crossed_parts(np.zeros((3, 20))))) == 1.0


def test_a_difference_that_never_varies_is_sure():
    half, error, _ = crossed_interval(crossed_parts(np.ones((3, 20))))
    assert float(half) == float(error) == 0.0
    assert float(crossed_p(crossed_parts(np.ones((3, 20))))) < 1e-100


def test_the_average_adds_items_and_takes_seeds_together():
    generator = np.random.default_rng(8)
    seeds = generator.standard_normal(4)  # one model does both tasks
    tasks = [seeds[:, None] + generator.standard_normal((1, 30)) for _ in range(2)]
    parts = [crossed_parts(task) for task in tasks]
    average = average_parts(parts, np.stack([task.mean(axis=1) for task in tasks]))
    assert float(average.seeds) == pytest.approx(seeds.var(ddof=1) / 4)
    assert float(average.items) == pytest.approx(float(parts[0].items + parts[1].items) / 4)


def test_tables_without_two_seeds_or_items_are_refused():
    with pytest.raises(ValueError, match=r"two seeds and two items at least are needed, got the shape \(1, 9\)"):
        crossed_parts(np.zeros((1, 9)))
    with pytest.raises(ValueError, match="same seeds"):
        average_parts([], np.zeros((0, 3)))


def test_leading_axes_are_studies():
    differences = simulate(9, studies=5)
    together = crossed_parts(differences)
    alone = crossed_parts(differences[2])
    assert isinstance(together, CrossedParts)
    assert float(together.seeds[2]) == pytest.approx(float(alone.seeds))
    assert float(crossed_p(together)[2]) == pytest.approx(float(crossed_p(alone)))
