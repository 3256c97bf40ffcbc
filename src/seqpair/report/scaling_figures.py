"""A power law over tokens: what was measured, the law within the data, and the law beyond it, told apart in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from seqpair.compare.values import Interval
from seqpair.report.figures import DASHES, Drawing, Palette, canvas, label_text, short_count

_LONGEST_LABEL = 24


@dataclass(frozen=True)
class FittedLine:
    """A law at one size.

    Attributes:
        label: Of what.
        measured: (content tokens, loss) that it was fitted to; empty for a size that was not trained.
        xs: Content tokens, ascending, within the data and beyond.
        band: The law's loss at each of them, with its interval.
    """

    label: str
    measured: Sequence[tuple[float, float]]
    xs: Sequence[float]
    band: Sequence[Interval]


def law_drawing(name: str, title: str, told: str, lines: Sequence[FittedLine], last: float, colour: int = 0) -> Drawing:
    """Return a law as lines over tokens; beyond the data they are dashed, and the figure says so.

    Args:
        name: The figure's id.
        title: What it shows.
        told: What is to be seen.
        lines: The law at each size.
        last: The most content tokens in the data.
        colour: The number of the first line's colour.
    """
    height = 3.1 + 0.17 * (2 * len(lines) + 1)

    def draw(palette: Palette) -> Figure:
        figure, axes = canvas("held-out bits per byte, lower is better", "content tokens", palette, (5.0, height))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0), numticks=7))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
        for index, line in enumerate(lines):
            _draw(axes, line, last, palette.of(colour + index), palette)
        axes.axvline(last, color=palette.quiet, linewidth=0.9, linestyle=(0, (2, 2)))
        axes.text(
            last, 0.98, " extrapolated", color=palette.quiet, fontsize=9, ha="left", va="top",
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
        figure.legend(
            loc="outside lower left", ncols=1, frameon=False, labelcolor=palette.ink, fontsize=9, handlelength=2.8
        )
        return figure

    caption = f"{title}. Right of the dotted line there is no data: the dashed line is an extrapolation."
    return Drawing(name, title, told, caption, draw, colour)


def _draw(axes: Axes, line: FittedLine, last: float, colour: str, palette: Palette) -> None:
    label = label_text(line.label, _LONGEST_LABEL)
    lows, highs = [one.low for one in line.band], [one.high for one in line.band]
    axes.fill_between(line.xs, lows, highs, color=colour, alpha=0.14, linewidth=0)
    if not line.measured:
        values = [one.value for one in line.band]
        axes.plot(line.xs, values, color=colour, linestyle=DASHES[1], label=f"{label}: never trained, extrapolated")
        return
    inside = [(x, one.value) for x, one in zip(line.xs, line.band, strict=True) if x <= last * (1 + 1e-9)]
    beyond = [inside[-1], *((x, one.value) for x, one in zip(line.xs, line.band, strict=True) if x > last * (1 + 1e-9))]
    tokens, losses = zip(*line.measured, strict=True)
    axes.plot(
        tokens, losses, "o", color=palette.ink, markersize=3.2, markerfacecolor="none", label=f"{label}: measured"
    )
    axes.plot(*zip(*inside, strict=True), color=colour, linewidth=1.7, label=f"{label}: the law within the data, 95 %")
    axes.plot(*zip(*beyond, strict=True), color=colour, linewidth=1.4, linestyle=DASHES[1], label=f"{label}: beyond it")
