"""Power laws of the loss over sizes and tokens, with intervals, and what they say beyond the data.

    L = E + A / N^a + B / D^b        `("parameters", "tokens")`
    L = E + A / x^a                  one variable
    L = A / x^a                      one variable, `floor=False`

The fit minimises Huber's loss of log L by L-BFGS from many starts, then once more with the loss turning where the
first fit's residuals say. The intervals are of a wild cluster bootstrap: a run's residuals keep their sizes and take a
random sign and scale together, since points of one run move together. They are widened for the few runs there are: by
sqrt(G / (G - k)) and by the t to the normal quantile for G - k degrees of freedom, for G runs and k numbers of the law
that only the differences between runs can tell.

Source: J. Hoffmann et al., arXiv 2203.15556, section 3.3, for the form and the loss; M. Webb, Queen's Economics
Department working paper 1315, for the six weights, made for few clusters.
Differs: variables are divided by their geometric mean while fitting, so that coefficients and exponents are not tied;
the published 1e-3 is only where the loss turns at first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from seqpair.compare.values import Floats, Interval
from seqpair.errors import EvaluationError

HUBER_DELTA = 1e-3
RESAMPLES = 200
SEED = 2507
_WEBB = np.sqrt(np.array([0.5, 1.0, 1.5]))
_START_EXPONENTS = (0.1, 0.3, 0.6, 1.0)
_START_FLOORS = (0.2, 0.6, 0.9, 0.98)
_LOWEST_LOG = -15.0
_MOST_EXPONENT = 4.0
_MOST_STARTS = 16
_FEWEST_SPARE_POINTS = 2
_FEWEST_RUNS, _FEW_RUNS = 3, 8
_SAME = 1e-9
_TUNING = 1.345 * 1.4826
"""Of Huber's loss: 95 % efficient for normal residuals, whose scale is their median size times 1.4826."""


@dataclass(frozen=True)
class LossPoint:
    """One loss.

    Attributes:
        x: The variables' values by name, such as `parameters` (without embedding) and `tokens`; above zero.
        loss: Above zero; of one kind for all points, and comparable: bits per byte, or one objective's nats.
        run: What it belongs to: points of one run, at several moments, are not independent.
    """

    x: Mapping[str, float]
    loss: float
    run: str


@dataclass(frozen=True)
class Extrapolation:
    """A predicted loss.

    Attributes:
        loss: With its interval.
        factor_outside: How many times beyond the data it lies, of the variable furthest out; 1 inside.
        words: The same in words.
    """

    loss: Interval
    factor_outside: float
    words: str

    @property
    def is_outside(self) -> bool:
        """Return whether the data does not reach there."""
        return self.factor_outside > 1.0


@dataclass(frozen=True, eq=False)
class PowerLaw:
    """A fitted law.

    Attributes:
        names: The variables.
        floor: E with its interval; None for the form without.
        coefficients, exponents: By variable, with intervals.
        ranges: By variable, the least and the greatest value in the data.
        points, runs: What it was fitted to.
        rms_log: Root mean square of the residuals of log L.
        level: Of the intervals.
        cautions: What a reader must know.
    """

    names: tuple[str, ...]
    floor: Interval | None
    coefficients: Mapping[str, Interval]
    exponents: Mapping[str, Interval]
    ranges: Mapping[str, tuple[float, float]]
    points: int
    runs: int
    rms_log: float
    level: float
    cautions: tuple[str, ...]
    _thetas: Floats
    _centres: Floats

    def predict(self, x: Mapping[str, float]) -> Extrapolation:
        """Return the loss at a point, with how far outside the data it lies.

        The interval is of the law if its form is right; beyond the data nothing checks the form, so the interval
        there is a lower bound of what is not known.

        Raises:
            EvaluationError: A variable is missing, unknown or not above zero.
        """
        if set(x) != set(self.names) or any(not math.isfinite(value) or value <= 0 for value in x.values()):
            raise EvaluationError("the law has other variables", seen=dict(x), allowed=f"{', '.join(self.names)} > 0")
        logs = np.log([[x[name] for name in self.names]]) - self._centres
        losses = np.exp([_log_loss(theta, logs)[0] for theta in self._thetas])
        interval = _interval(losses, self.level)
        factors = {
            name: max(x[name] / self.ranges[name][1], self.ranges[name][0] / x[name], 1.0) for name in self.names
        }
        furthest = max(factors, key=lambda name: factors[name])
        factor = factors[furthest]
        if factor <= 1.0:
            return Extrapolation(interval, 1.0, "inside the data")
        way = "above the most" if x[furthest] > self.ranges[furthest][1] else "below the fewest"
        return Extrapolation(interval, factor, f"{factor:.3g} times {way} {furthest} in the data")


def fit_power_law(
    points: Sequence[LossPoint],
    names: Sequence[str],
    *,
    floor: bool = True,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> PowerLaw:
    """Fit a law to losses.

    Args:
        points: The losses.
        names: The variables of the law, one or two, each in every point's `x`.
        floor: Whether there is an irreducible loss E.
        resamples: Of the bootstrap.
        level: Of the intervals.

    Raises:
        EvaluationError: There are too few points, runs or distinct values of a variable; or a number is not above zero.
    """
    names = tuple(names)
    logs, target, runs = _columns(points, names)
    _require_enough(logs, len(runs), names, floor)
    # About their mean the logarithms are nearly uncorrelated with the coefficients, which L-BFGS needs.
    centres = logs.mean(axis=0)
    logs = logs - centres
    best = _best_fit(logs, target, _starts(logs, target, floor), floor, HUBER_DELTA)
    # The published turn of 1e-3 is right for one team's losses; here the spread of the first fit says where noise ends.
    delta = max(HUBER_DELTA, _TUNING * float(np.median(np.abs(target - _log_loss(best, logs)))))
    best = _best_fit(logs, target, [best], floor, delta)
    fitted = _log_loss(best, logs)
    groups = _clusters(runs)
    scale = _widening(logs, groups, floor, level)
    thetas = [best]
    generator = np.random.default_rng(SEED)
    for _ in range(resamples):
        # Webb's six weights: with few runs the two signs alone give too few distinct resamples.
        weights = generator.choice(_WEBB, groups.max() + 1) * generator.choice([-1.0, 1.0], groups.max() + 1)
        drawn = fitted + scale * (target - fitted) * weights[groups]
        thetas.append(_best_fit(logs, drawn, [best], floor, scale * delta))
    return _law(names, np.array(thetas), centres, points, target - fitted, groups, floor, level)


def _clusters(runs: Sequence[str]) -> npt.NDArray[np.intp]:
    """Return each point's cluster: its run; with fewer than three runs every point is its own."""
    _, groups = np.unique(np.array(runs), return_inverse=True)
    return np.arange(len(runs)) if groups.max() + 1 < _FEWEST_RUNS else groups


def _widening(logs: Floats, groups: npt.NDArray[np.intp], floor: bool, level: float) -> float:
    """Return the factor by which residuals are scaled, for how few clusters they come from."""
    clusters = int(groups.max()) + 1
    of_clusters = [
        axis
        for axis in range(logs.shape[1])
        if all(np.ptp(logs[groups == group, axis]) < _SAME for group in range(clusters))
    ]
    numbers = int(floor) + 2 * len(of_clusters)
    # What varies within a run (tokens) is estimated from its own points; only the other numbers use up runs.
    spare = max(clusters - numbers, 1)
    quantile = 0.5 + level / 2
    return math.sqrt(clusters / spare) * float(stats.t.ppf(quantile, spare) / stats.norm.ppf(quantile))


def _columns(points: Sequence[LossPoint], names: tuple[str, ...]) -> tuple[Floats, Floats, list[str]]:
    """Return log x (n, variables), log L (n,) and the runs."""
    if not 1 <= len(names) <= 2 or len(set(names)) != len(names):
        raise EvaluationError(
            "the law does not have one variable or two",
            seen=", ".join(names) or "none",
            fix="name `parameters`, `tokens` or both",
        )
    for point in points:
        numbers = [point.x.get(name, math.nan) for name in names] + [point.loss]
        if any(not math.isfinite(number) or number <= 0 for number in numbers):
            raise EvaluationError(
                "a point of a scaling fit is not above zero or lacks a variable",
                seen=f"{dict(point.x)}, loss {point.loss}",
                allowed=f"{', '.join(names)} and loss above zero",
            )
    logs = np.array([[math.log(point.x[name]) for name in names] for point in points]).reshape(-1, len(names))
    return logs, np.array([math.log(point.loss) for point in points]), [point.run for point in points]


def _require_enough(logs: Floats, count: int, names: tuple[str, ...], floor: bool) -> None:
    parameters = 2 * len(names) + floor
    distinct = {name: len(np.unique(logs[:, axis].round(9))) for axis, name in enumerate(names)} if count else {}
    fewest = 3 + (floor and len(names) == 1)
    short = [f"{number} distinct {name}" for name, number in distinct.items() if number < fewest]
    if count < parameters + _FEWEST_SPARE_POINTS or short:
        raise EvaluationError(
            f"too few losses for a law with {parameters} numbers",
            seen=", ".join([f"{count} points", *short]),
            allowed=f"{parameters + _FEWEST_SPARE_POINTS} points or more, {fewest} distinct values of each variable",
            fix="train more sizes or keep more checkpoints, or fit a simpler form (one variable, no floor)",
        )


def _log_loss(theta: Floats, logs: Floats) -> Floats:
    """Return log L, (n,): theta is log E, then log A and a for each variable."""
    terms = [np.full(len(logs), theta[0])]
    terms += [theta[1 + 2 * axis] - theta[2 + 2 * axis] * logs[:, axis] for axis in range(logs.shape[1])]
    return np.asarray(np.logaddexp.reduce(terms, axis=0))


def _objective(theta: Floats, logs: Floats, target: Floats, delta: float) -> tuple[float, Floats]:
    """Return the sum of Huber's losses by delta^2, and its gradient."""
    terms = np.stack(
        [
            np.full(len(logs), theta[0]),
            *(theta[1 + 2 * axis] - theta[2 + 2 * axis] * logs[:, axis] for axis in range(logs.shape[1])),
        ]
    )
    fitted = np.logaddexp.reduce(terms, axis=0)
    # d log(sum exp(term)) / d term is the term's share of the sum.
    shares = np.exp(terms - fitted)
    residual = (fitted - target) / delta
    slope = np.clip(residual, -1.0, 1.0) / delta
    gradient = [float(slope @ shares[0])]
    for axis in range(logs.shape[1]):
        gradient += [float(slope @ shares[1 + axis]), float(-(slope * shares[1 + axis]) @ logs[:, axis])]
    return float(special.huber(1.0, residual).sum()), np.array(gradient)


def _starts(logs: Floats, target: Floats, floor: bool) -> list[Floats]:
    """Return points to start from, the best of a grid of exponents and floors; coefficients give each term its part."""
    losses = np.exp(target)
    variables = logs.shape[1]
    starts = []
    for share in _START_FLOORS if floor else (0.0,):
        rest = losses - share * losses.min()
        for exponents in product(_START_EXPONENTS, repeat=variables):
            theta = [math.log(share * losses.min()) if floor else _LOWEST_LOG]
            for axis, exponent in enumerate(exponents):
                theta += [float(np.median(np.log(rest / variables) + exponent * logs[:, axis])), exponent]
            starts.append(np.array(theta))
    return sorted(starts, key=lambda theta: _objective(theta, logs, target, HUBER_DELTA)[0])[:_MOST_STARTS]


def _best_fit(
    logs: Floats, target: Floats, starts: Sequence[Floats], floor: bool, delta: float
) -> npt.NDArray[np.float64]:
    top = float(target.min())  # a floor above the least loss would make its term negative
    bounds = [(_LOWEST_LOG, top if floor else _LOWEST_LOG)]
    bounds += [(_LOWEST_LOG, top + 15.0), (0.0, _MOST_EXPONENT)] * logs.shape[1]
    low, high = np.array(bounds).T
    found = [
        optimize.minimize(
            _objective,
            np.clip(start, low, high),
            args=(logs, target, delta),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": 500, "ftol": 1e-10},
        )
        for start in starts
    ]
    return np.asarray(min(found, key=lambda one: float(one.fun)).x)


def _law(
    names: tuple[str, ...],
    thetas: Floats,
    centres: Floats,
    points: Sequence[LossPoint],
    residuals: Floats,
    groups: npt.NDArray[np.intp],
    floor: bool,
    level: float,
) -> PowerLaw:
    exponents = {name: thetas[:, 2 + 2 * axis] for axis, name in enumerate(names)}
    coefficients = {
        name: np.exp(thetas[:, 1 + 2 * axis] + exponents[name] * centres[axis]) for axis, name in enumerate(names)
    }
    ranges = {name: (min(p.x[name] for p in points), max(p.x[name] for p in points)) for name in names}
    cautions = []
    if floor and thetas[0, 0] <= _LOWEST_LOG + 1:
        cautions.append("The data shows no floor: E was driven to zero.")
    for name in names:
        if exponents[name][0] <= 1e-6 or exponents[name][0] >= _MOST_EXPONENT - 1e-6:
            cautions.append(f"The exponent of {name} lies at the edge of what is allowed: the form does not fit.")
        if math.isclose(ranges[name][1] / ranges[name][0], 1.0) or ranges[name][1] / ranges[name][0] < 10:
            cautions.append(f"The data spans less than a factor of ten in {name}.")
    runs = len({point.run for point in points})
    if runs < _FEWEST_RUNS:
        cautions.append(f"Points of {runs} run{'s' if runs > 1 else ''} are taken as independent, which they are not.")
    elif runs < _FEW_RUNS:
        cautions.append(f"The intervals are based on {runs} runs.")
    return PowerLaw(
        names=names,
        floor=_interval(np.exp(thetas[:, 0]), level) if floor else None,
        coefficients={name: _interval(values, level) for name, values in coefficients.items()},
        exponents={name: _interval(values, level) for name, values in exponents.items()},
        ranges=ranges,
        points=len(points),
        runs=runs,
        rms_log=float(np.sqrt((residuals**2).mean())),
        level=level,
        cautions=tuple(cautions),
        _thetas=thetas,
        _centres=centres,
    )


def _interval(values: Floats, level: float) -> Interval:
    """Return the first value with the percentile interval of the others, widened to hold it."""
    tail = 50 * (1 - level)
    rest = values[1:] if len(values) > 1 else values
    low, high = np.percentile(rest, [tail, 100 - tail])
    return Interval(float(values[0]), min(float(low), float(values[0])), max(float(high), float(values[0])))
