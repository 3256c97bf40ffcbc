"""Several members in one figure: lines over tokens or size with bands, values by task, and shares as bars."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from seqpair.report.figures import DASHES, Drawing, Palette, canvas, label_text, short_count
from seqpair.text import format_count

_LONGEST_OF_TWO = 22
_MOST_WHISKERS = 8
_MARKS = "osD^v"
_LONGEST_LINE = 30
_MOST_MARKED = 5
_APART = 1.3
"""Marks that are closer on a logarithmic axis would cover each other."""
_MOST_TOLD = 12


@dataclass(frozen=True)
class Line:
    """A line with a band.

    Attributes:
        label: Its name.
        colour, dash: The numbers of its colour and of its pattern.
        xs, ys: Its points, by ascending x.
        lows, highs: The band's edges, as long as `ys`; empty for no band.
        is_reference: Whether it is not a member's own: a published value, drawn in grey.
        is_mark: Whether it is a single point to be pointed out on another line.
    """

    label: str
    colour: int
    dash: int
    xs: Sequence[float]
    ys: Sequence[float]
    lows: Sequence[float] = ()
    highs: Sequence[float] = ()
    is_reference: bool = False
    is_mark: bool = False


@dataclass(frozen=True)
class ValueRow:
    """One run's value on one task, with its interval, and what guessing gives.

    Attributes:
        task: The task.
        member: The member, with its size where there are several; the runs of several seeds have one name.
        colour, mark: The numbers of its colour and of its mark.
        value, low, high: The value and its interval.
        chance: What guessing gives, or None.
    """

    task: str
    member: str
    colour: int
    mark: int
    value: float
    low: float
    high: float
    chance: float | None


@dataclass(frozen=True)
class ShareRow:
    """One member's shares, which sum to one."""

    member: str
    shares: Sequence[float]


def lines_drawing(
    name: str,
    title: str,
    unit: str,
    horizontal: str,
    lines: Sequence[Line],
    *,
    is_log: bool = False,
    chance: float | None = None,
    ticks: Mapping[float, str] | None = None,
) -> Drawing:
    """Return lines over tokens or size; a line of one point is a dot with a whisker.

    Args:
        name: The figure's id.
        title: What it shows.
        unit: What is upwards.
        horizontal: What is to the right.
        lines: The lines.
        is_log: Whether the horizontal axis is logarithmic.
        chance: What guessing gives, or None.
        ticks: The names of the places on the horizontal axis, where it is not one of numbers.
    """
    columns = 1 if max(len(line.label) for line in lines) > _LONGEST_OF_TWO else 2
    height = 2.9 + 0.17 * -(-(len(lines) + (chance is not None)) // columns)

    def draw(palette: Palette) -> Figure:
        figure, axes = canvas(label_text(unit, 60), horizontal, palette, (5.0, height))
        if is_log:
            _log_axis(axes, sorted({x for line in lines for x in line.xs}))
        if ticks is not None:
            axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
            axes.set_xticks(list(ticks), [label_text(text) for text in ticks.values()])
        for line in lines:
            _draw_line(axes, line, palette)
        if chance is not None:
            axes.axhline(chance, color=palette.quiet, linewidth=0.9, linestyle=(0, (2, 2)), label="chance")
        figure.legend(
            loc="outside lower left", ncols=columns, frameon=False, labelcolor=palette.ink, fontsize=9,
            handlelength=2.8,
        )  # fmt: skip
        return figure

    told = "; ".join(f"{line.label} {line.ys[-1]:.3g} at {short_count(line.xs[-1])}" for line in lines[:_MOST_TOLD])
    return Drawing(name, title, f"at the end: {told}", title, draw)


def _draw_line(axes: Axes, line: Line, palette: Palette) -> None:
    colour = palette.quiet if line.is_reference else palette.of(line.colour)
    if line.lows and len(line.xs) > 1:
        axes.fill_between(line.xs, line.lows, line.highs, color=colour, alpha=0.16, linewidth=0)
    elif line.lows:
        axes.vlines(line.xs, line.lows, line.highs, color=colour, linewidth=1.4)
    many = len(line.xs) > 30
    axes.plot(
        line.xs,
        line.ys,
        color=colour,
        linestyle=DASHES[line.dash % len(DASHES)],
        linewidth=1.1 if line.is_reference else 1.7,
        marker="" if many else "s" if line.is_reference else "o",
        markersize=7.0 if line.is_mark else 3.0,
        label=label_text(line.label),
    )


def _log_axis(axes: Axes, xs: Sequence[float]) -> None:
    """Make the horizontal axis logarithmic; few sizes are marked themselves, many by round numbers."""
    axes.set_xscale("log")
    few = len(xs) <= _MOST_MARKED and all(large > _APART * small for small, large in pairwise(xs))
    axes.xaxis.set_major_locator(FixedLocator(xs) if few else LogLocator(10, subs=(1.0, 2.0, 5.0), numticks=6))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_count(value)))
    axes.margins(x=0.08)


def values_drawing(name: str, title: str, unit: str, rows: Sequence[ValueRow]) -> Drawing:
    """Return tasks from top to bottom, on each line a dot with a whisker for each member and a tick for chance.

    The seeds of a member stand on one line, without whiskers: how they scatter says more.
    """
    tasks = list(dict.fromkeys(row.task for row in rows))
    looks = {row.member: row for row in rows}
    members = list(looks)
    with_whiskers = len(members) <= _MOST_WHISKERS and len({(row.task, row.member) for row in rows}) == len(rows)
    step = 0.72 / max(1, len(members))
    each = 0.22 + 0.1 * min(len(members), 6)
    height = 1.0 + each * len(tasks) + 0.17 * -(-len(members) // 2)

    def draw(palette: Palette) -> Figure:
        figure, axes = canvas(label_text(unit, 60), "", palette, (5.0, max(2.0, height)))
        for row in rows:
            place = tasks.index(row.task) - 0.36 + step * (members.index(row.member) + 0.5)
            colour = palette.of(row.colour)
            if with_whiskers:
                axes.hlines(place, row.low, row.high, color=colour, linewidth=1.5)
            axes.plot([row.value], [place], _mark(row), color=colour, markersize=4 if with_whiskers else 3)
        for index, task in enumerate(tasks):
            chance = next((row.chance for row in rows if row.task == task and row.chance is not None), None)
            if chance is not None:
                axes.vlines(chance, index - 0.42, index + 0.42, color=palette.quiet, linewidth=1, linestyle=(0, (2, 2)))
        axes.set_yticks(range(len(tasks)), [_in_lines(task) for task in tasks])
        axes.set_ylim(len(tasks) - 0.45, -0.55)
        axes.grid(False)
        axes.grid(axis="x", color=palette.quiet, alpha=0.22, linewidth=0.6)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        for member, row in looks.items():
            axes.plot([], [], _mark(row), color=palette.of(row.colour), label=label_text(member), markersize=4)
        if any(row.chance is not None for row in rows):
            axes.plot([], [], color=palette.quiet, linewidth=1, linestyle=(0, (2, 2)), label="chance")
        figure.legend(loc="outside lower left", ncols=2, frameon=False, labelcolor=palette.ink, fontsize=9)
        return figure

    told = "; ".join(f"{row.task}, {row.member}: {row.value:.3f}" for row in rows[:_MOST_TOLD])
    return Drawing(name, title, told, title, draw)


def _mark(row: ValueRow) -> str:
    return _MARKS[row.mark % len(_MARKS)]


def _in_lines(text: str) -> str:
    """Return a name in at most three lines; what does not fit is left out in the middle: names differ at their end."""
    lines = textwrap.wrap(text, _LONGEST_LINE) or [""]
    return "\n".join(label_text(line, _LONGEST_LINE) for line in (lines if len(lines) < 4 else [*lines[:2], lines[-1]]))


def shares_drawing(name: str, title: str, parts: Sequence[str], rows: Sequence[ShareRow]) -> Drawing:
    """Return one bar a member, divided by its shares."""
    height = 1.1 + 0.34 * len(rows) + 0.17 * -(-len(parts) // 3)

    def draw(palette: Palette) -> Figure:
        figure, axes = canvas("share", "", palette, (5.0, max(1.8, height)))
        left = [0.0] * len(rows)
        for index, part in enumerate(parts):
            widths = [row.shares[index] for row in rows]
            places = range(len(rows))
            axes.barh(places, widths, left=left, height=0.62, color=palette.of(index), label=label_text(part, 20))
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.set_yticks(range(len(rows)), [label_text(row.member) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.grid(False)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        figure.legend(loc="outside lower left", ncols=3, frameon=False, labelcolor=palette.ink, fontsize=9)
        return figure

    told = "; ".join(
        f"{row.member}: " + ", ".join(f"{part} {share:.2f}" for part, share in zip(parts, row.shares, strict=True))
        for row in rows[:_MOST_TOLD]
    )
    return Drawing(name, title, told, title, draw)
