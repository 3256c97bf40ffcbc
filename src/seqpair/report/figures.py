"""Loss curves as inline SVG that takes its colours from the page.

Owns the drawing. Must not know files, and never opens a display. Entry points: `train_figure`,
`held_out_figure`; `canvas` and `svg` for figures of other kinds.

The colours in a figure are place holders that become CSS variables of the page, so that one drawing
reads in light, in dark and in print.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from seqpair.report.collect import HeldOutPoint, TrainPoint

INK, QUIET, LINE = "#010101", "#020202", "#030303"
_VARIABLES = {INK: "var(--ink)", QUIET: "var(--quiet)", LINE: "var(--figure-line)"}
DASHES = ("-", (0, (5, 1.6)), (0, (1.2, 1.4)), (0, (7, 1.5, 1.5, 1.5)))
_SIZE_INCHES = (5.0, 2.9)
_MOST_POINTS = 400
_SMOOTHED_OVER = 0.05


def train_figure(points: Sequence[TrainPoint], name: str) -> str:
    """Return a member's training loss over content tokens, each step faint and a running mean strong."""
    tokens = np.array([point.tokens for point in points], dtype=np.float64)
    loss = np.array([point.loss for point in points])
    figure, axes = canvas("nats per predicted token")
    keep = _thinned(len(points))
    axes.plot(tokens[keep], loss[keep], color=LINE, linewidth=0.8, alpha=0.35)
    axes.plot(tokens[keep], smoothed(loss)[keep], color=LINE, linewidth=1.8)
    _fit(axes, loss)
    return svg(figure, f"train-{name}", f"Training loss of the {name}", f"from {loss[0]:.2f} to {loss[-1]:.2f}")


def held_out_figure(points: Sequence[HeldOutPoint], name: str) -> str:
    """Return a member's held-out bits per byte over content tokens, one line a source."""
    figure, axes = canvas("bits per byte")
    ends = []
    for index, source in enumerate(dict.fromkeys(point.source for point in points)):
        line = [point for point in points if point.source == source]
        tokens, bits = [point.tokens for point in line], [point.bits_per_byte for point in line]
        dash = DASHES[index % len(DASHES)]
        axes.plot(tokens, bits, color=LINE, linewidth=1.8, linestyle=dash, marker="o", markersize=2.6, label=source)
        ends.append(f"{source} {bits[-1]:.2f}")
    axes.set_ylim(bottom=0)
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 0.98),
        ncols=4,
        borderaxespad=0.0,
        frameon=False,
        labelcolor=INK,
        fontsize=10,
        handlelength=2.6,
    )
    return svg(figure, f"held-out-{name}", f"Held-out bits per byte of the {name}", "at the end: " + ", ".join(ends))


def smoothed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the centred running mean over a twentieth of the series; shorter at both ends."""
    half = max(1, round(len(values) * _SMOOTHED_OVER / 2))
    sums = np.concatenate(([0.0], np.cumsum(values)))
    index = np.arange(len(values))
    low, high = np.maximum(0, index - half), np.minimum(len(values), index + half + 1)
    return np.asarray((sums[high] - sums[low]) / (high - low), dtype=np.float64)


def _thinned(count: int) -> npt.NDArray[np.int64]:
    """Return at most `_MOST_POINTS` evenly spaced indices, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_POINTS)).round().astype(np.int64))


def canvas(label: str, horizontal: str = "content tokens") -> tuple[Figure, Axes]:
    """Return an empty figure and its axes, in the page's manner; the horizontal axis counts."""
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    figure.patch.set_alpha(0.0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0.0)
    axes.set_xlabel(horizontal, color=QUIET, fontsize=10)
    axes.set_title(label, color=QUIET, fontsize=10, loc="left")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short_count(value)))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.tick_params(colors=QUIET, labelsize=10, length=3)
    axes.grid(axis="y", color=QUIET, alpha=0.22, linewidth=0.6)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)
    return figure, axes


def _short_count(value: float) -> str:
    """Return an axis label: 500k, 1.5M."""
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:g}{letter}"
    return f"{value:g}"


def _fit(axes: Axes, loss: npt.NDArray[np.float64]) -> None:
    """Show all of the loss but a few wild steps."""
    low, high = float(loss.min()), float(np.percentile(loss, 99.5))
    room = 0.06 * max(high - low, 1e-3)
    axes.set_ylim(low - room, high + room)
    axes.set_xlim(left=0)


def svg(figure: Figure, salt: str, title: str, description: str) -> str:
    """Return an SVG element that scales with the page and says what it shows."""
    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        FigureCanvasSVG(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<svg [^>]*viewBox=\"([^\"]*)\"[^>]*>", r'<svg viewBox="\1" role="img" aria-label="">', text)
    text = re.sub(r"font: [^;\"]*?([0-9.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    title, description = escape(title), escape(description)
    text = text.replace('aria-label="">', f'aria-label="{title}, {description}"><title>{title}</title>', 1)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    prefix = re.sub(r"[^A-Za-z0-9]", "-", salt)
    text = text.replace("xlink:href", "href").replace(' id="', f' id="{prefix}-')
    return text.replace('href="#', f'href="#{prefix}-').replace("url(#", f"url(#{prefix}-").strip()
