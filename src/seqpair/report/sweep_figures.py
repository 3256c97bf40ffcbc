"""A member's curve over a sweep as inline SVG."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from seqpair.report.figures import DASHES, LINE, QUIET, canvas, svg
from seqpair.report.sweep_curves import MemberCurve, Setting
from seqpair.report.sweep_record import AxisRecord

_LOG_FROM_RATIO = 4.0
_MARKED = 7.0


def curve_figure(curve: MemberCurve) -> str:
    """Return a member's metric over its first numeric axis, a line for each combination of the others.

    Bars span the seeds; the filled dot is the best, the ring the recipe's own setting.
    """
    across = next((axis for axis in curve.axes if None not in axis.numbers), curve.axes[0])
    figure, axes = canvas(f"{curve.unit}, held-out, lower is better", across.name)
    places = _scale(axes, across)
    drawn = [setting for setting in curve.settings if setting.value is not None]
    for index, (label, line) in enumerate(_lines(drawn, across).items()):
        points = [(places[setting.values[across.name]], setting) for setting in line]
        across_values = [place for place, _ in points]
        means = [setting.value or 0.0 for _, setting in points]
        low = [mean - min(setting.by_seed.values()) for mean, (_, setting) in zip(means, points, strict=True)]
        high = [max(setting.by_seed.values()) - mean for mean, (_, setting) in zip(means, points, strict=True)]
        dash = DASHES[index % len(DASHES)] if None not in across.numbers else "none"
        axes.errorbar(
            across_values, means, yerr=[low, high], color=LINE, linewidth=1.8, linestyle=dash, capsize=3, label=label
        )
        axes.plot(across_values, means, color=LINE, linestyle="none", marker="o", markersize=3.2)
        for place, setting in points:
            _mark(axes, place, setting, best=setting is curve.best)
    if len(_lines(drawn, across)) > 1:
        axes.legend(frameon=False, labelcolor=QUIET, fontsize=9, handlelength=2.6)
    told = "no run is finished" if curve.best is None else f"the best is {curve.best.label}, {curve.best.value:.3f}"
    return svg(figure, f"sweep-{curve.member}", f"{curve.unit} of the {curve.member} over {across.name}", told)


def _lines(settings: Sequence[Setting], across: AxisRecord) -> dict[str, list[Setting]]:
    lines: dict[str, list[Setting]] = {}
    for setting in settings:
        others = ", ".join(f"{name} {value}" for name, value in setting.values.items() if name != across.name)
        lines.setdefault(others, []).append(setting)
    return lines


def _mark(axes: Axes, place: float, setting: Setting, *, best: bool) -> None:
    value = setting.value or 0.0
    if best:
        axes.plot([place], [value], color=LINE, marker="o", markersize=_MARKED, linestyle="none")
    if setting.own:
        axes.plot([place], [value], marker="o", markersize=_MARKED + 4, linestyle="none", fillstyle="none", color=LINE)


def _scale(axes: Axes, across: AxisRecord) -> dict[str, float]:
    """Label the horizontal axis with the axis's own values, evenly in logarithm where they span enough."""
    numbers = [number for number in across.numbers if number is not None]
    numeric = len(numbers) == len(across.numbers)
    places = numbers if numeric else [float(index) for index in range(len(across.values))]
    if numeric and min(places) > 0 and max(places) / min(places) >= _LOG_FROM_RATIO:
        axes.set_xscale("log")
        axes.margins(x=0.08)
    elif not numeric:
        axes.set_xlim(-0.5, len(places) - 0.5)
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(places, list(across.values))
    return dict(zip(across.values, places, strict=True))
