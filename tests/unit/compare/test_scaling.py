import numpy as np
import pytest

from seqpair.compare.scaling import LossPoint, fit_power_law
from seqpair.errors import EvaluationError

FLOOR, A, ALPHA, B, BETA = 1.7, 40.0, 0.3, 90.0, 0.26


def law(parameters, tokens):
    return FLOOR + A / parameters**ALPHA + B / tokens**BETA


def points(noise=0.003, sizes=(1e5, 4e5, 2e6, 1e7), tokens=(1e7, 5e7, 2e8, 1e9), seeds=2, outlier=None):
    generator = np.random.default_rng(0)
    found = []
    for size in sizes:
        for seed in range(seeds):
            shift = noise * generator.standard_normal()
            for amount in tokens:
                loss = law(size, amount) * np.exp(shift + 0.3 * noise * generator.standard_normal())
                found.append(LossPoint({"parameters": size, "tokens": amount}, loss, f"{size:g}-{seed}"))
    if outlier is not None:
        found[5] = LossPoint(found[5].x, found[5].loss * outlier, found[5].run)
    return found


def test_the_law_is_found_again_without_noise():
    found = fit_power_law(points(noise=0.0, seeds=1), ("parameters", "tokens"), resamples=2)
    assert found.floor.value == pytest.approx(FLOOR, rel=0.01)
    assert found.exponents["parameters"].value == pytest.approx(ALPHA, rel=0.01)
    assert found.exponents["tokens"].value == pytest.approx(BETA, rel=0.01)
    assert found.coefficients["tokens"].value == pytest.approx(B, rel=0.05)
    assert found.predict({"parameters": 1e8, "tokens": 1e10}).loss.value == pytest.approx(law(1e8, 1e10), rel=0.002)


def test_the_intervals_hold_the_truth_and_widen_outside():
    found = fit_power_law(points(), ("parameters", "tokens"), resamples=40)
    assert found.exponents["tokens"].contains(BETA)
    inside = found.predict({"parameters": 1e6, "tokens": 1e8})
    assert inside.loss.contains(law(1e6, 1e8))
    outside = found.predict({"parameters": 1e9, "tokens": 1e8})
    assert not inside.is_outside
    assert inside.words == "inside the data"
    assert outside.factor_outside == pytest.approx(100)
    assert outside.words == "100 times above the most parameters in the data"
    assert outside.loss.high - outside.loss.low > 2 * (inside.loss.high - inside.loss.low)
    below = found.predict({"parameters": 1e6, "tokens": 1e6})
    assert below.words == "10 times below the fewest tokens in the data"


def test_one_wild_loss_moves_little():
    clean, wild = (fit_power_law(points(outlier=o), ("parameters", "tokens"), resamples=2) for o in (None, 1.5))
    assert wild.predict({"parameters": 1e6, "tokens": 1e8}).loss.value == pytest.approx(
        clean.predict({"parameters": 1e6, "tokens": 1e8}).loss.value, rel=0.005
    )


def test_one_variable_with_and_without_a_floor():
    losses = [LossPoint({"tokens": x}, 2.0 + 30 / x**0.4, f"{x}") for x in np.geomspace(1e2, 1e6, 8)]
    with_floor = fit_power_law(losses, ("tokens",), resamples=5)
    assert with_floor.floor.value == pytest.approx(2.0, rel=1e-3)
    assert with_floor.exponents["tokens"].value == pytest.approx(0.4, rel=1e-2)
    plain = [LossPoint({"tokens": x}, 30 / x**0.1, f"{x}") for x in np.geomspace(1e2, 1e6, 5)]
    without = fit_power_law(plain, ("tokens",), floor=False, resamples=5)
    assert without.floor is None
    assert without.exponents["tokens"].value == pytest.approx(0.1, rel=1e-4)
    assert without.coefficients["tokens"].value == pytest.approx(30, rel=1e-3)


def test_the_same_data_gives_the_same_intervals():
    losses = points(sizes=(1e5, 1e6, 1e7), seeds=1)
    one, two = (fit_power_law(losses, ("tokens",), resamples=10) for _ in range(2))
    assert one.exponents == two.exponents


@pytest.mark.parametrize(
    ("losses", "names", "message"),
    [
        ([], ("tokens",), "too few losses"),
        (points(sizes=(1e5, 1e6)), ("parameters", "tokens"), "too few losses"),
        (points(sizes=(1e5,), tokens=(1e7, 1e8, 1e9), seeds=1), ("tokens",), "too few losses"),
        ([LossPoint({"tokens": 0.0}, 1.0, "a")], ("tokens",), "not above zero or lacks"),
        ([LossPoint({"tokens": 1.0}, float("nan"), "a")], ("tokens",), "not above zero or lacks"),
        ([LossPoint({"tokens": 1.0}, 1.0, "a")], ("parameters",), "not above zero or lacks"),
        (points(), ("a", "b", "c"), "one variable or two"),
    ],
)
def test_what_cannot_be_fitted_is_refused(losses, names, message):
    with pytest.raises(EvaluationError, match=message):
        fit_power_law(losses, names)


def test_a_point_of_other_variables_is_refused():
    found = fit_power_law(points(seeds=1), ("tokens",), resamples=2)
    with pytest.raises(EvaluationError, match="other variables"):
        found.predict({"parameters": 1e6})
    assert any("based on 4 runs" in caution for caution in found.cautions)
