"""One member's training as figures: loss with the learning rate below it, and loss on held-out text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from seqpair.report.collect import HeldOutPoint, TrainPoint
from seqpair.report.figures import (
    DASHES,
    Drawing,
    Palette,
    canvas,
    figure_id,
    label_text,
    plain_axes,
    smoothed,
    thinned,
)

_SIZE_INCHES = (5.0, 3.7)
_MOST_LOOKS, _MOST_MARKERS = 100, 40


def train_drawing(points: Sequence[TrainPoint], name: str, colour: int = 0, most_points: int = 400) -> Drawing:
    """Return a member's training loss and learning rate over content tokens, with the borders of its phases.

    Each step is faint and a running mean strong.
    """
    tokens = np.array([point.tokens for point in points], dtype=np.float64)
    loss, rate = np.array([point.loss for point in points]), np.array([point.lr for point in points])
    borders = phase_borders(points)
    keep = thinned(len(points), most_points)

    def draw(palette: Palette) -> Figure:
        figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
        figure.patch.set_alpha(0.0)
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        plain_axes(upper, "training loss, nats per predicted token", "", palette)
        plain_axes(lower, "learning rate", "content tokens", palette)
        upper.plot(tokens[keep], loss[keep], color=palette.line, linewidth=0.8, alpha=0.35)
        upper.plot(tokens[keep], smoothed(loss)[keep], color=palette.line, linewidth=1.8)
        lower.plot(tokens[keep], rate[keep], color=palette.line, linewidth=1.4)
        lower.set_ylim(bottom=0)
        lower.yaxis.get_offset_text().set(color=palette.quiet, fontsize=8)
        lower.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
        _fit(upper, loss)
        _draw_borders(upper, lower, borders, palette)
        return figure

    words = "; ".join(f"{phase} from {start:,} tokens" for start, phase in borders)
    told = f"from {loss[0]:.2f} to {loss[-1]:.2f}" + (f"; phases: {words}" if len(borders) > 1 else "")
    return Drawing(figure_id("train", name), f"Training loss of the {name}", told, "training", draw, colour)


def phase_borders(points: Sequence[TrainPoint]) -> list[tuple[int, str]]:
    """Return where each phase begins: content tokens read before its first step, and its name."""
    borders: list[tuple[int, str]] = []
    before = 0
    for point in points:
        if not borders or borders[-1][1] != point.phase:
            borders.append((before, point.phase))
        before = point.tokens
    return borders


def _draw_borders(upper: Axes, lower: Axes, borders: Sequence[tuple[int, str]], palette: Palette) -> None:
    if len(borders) < 2:
        return
    for start, phase in borders:
        for axes in (upper, lower):
            axes.axvline(start, color=palette.quiet, linewidth=0.8, linestyle=(0, (3, 3)))
        upper.annotate(
            label_text(phase, 14),
            (start, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -9),
            textcoords="offset points",
            color=palette.quiet,
            fontsize=8,
        )


def held_out_drawing(points: Sequence[HeldOutPoint], name: str, colour: int = 0) -> Drawing:
    """Return a member's held-out bits per byte over content tokens, one line a source."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for source in dict.fromkeys(point.source for point in points):
        looks = [(point.tokens, point.bits_per_byte) for point in points if point.source == source]
        lines[source] = [looks[index] for index in thinned(len(looks), _MOST_LOOKS)]

    def draw(palette: Palette) -> Figure:
        figure, axes = canvas("held-out text, bits per byte", palette=palette, size=_SIZE_INCHES)
        for index, (source, line) in enumerate(lines.items()):
            axes.plot(
                [tokens for tokens, _ in line],
                [bits for _, bits in line],
                color=palette.line,
                alpha=1.0 if index < len(DASHES) else 0.55,
                linewidth=1.6,
                linestyle=DASHES[index % len(DASHES)],
                marker="o" if len(line) <= _MOST_MARKERS else "",
                markersize=2.4,
                label=label_text(source, 16),
            )
        axes.set_ylim(bottom=0)
        figure.legend(
            loc="outside lower left", ncols=3, frameon=False, labelcolor=palette.ink, fontsize=9, handlelength=2.6
        )
        return figure

    ends = ", ".join(f"{source} {line[-1][1]:.2f}" for source, line in lines.items())
    title = f"Held-out bits per byte of the {name}"
    return Drawing(figure_id("held-out", name), title, f"at the end: {ends}", "held-out text", draw, colour)


def _fit(axes: Axes, loss: npt.NDArray[np.float64]) -> None:
    """Show all of the loss but a few wild steps."""
    low, high = float(loss.min()), float(np.percentile(loss, 99.5))
    room = 0.06 * max(high - low, 1e-3)
    axes.set_ylim(low - room, high + 2.5 * room)
    axes.set_xlim(left=0)
