"""Power laws of held-out text on the page: which losses are fitted, what came out, what was refused and why.

A law takes looks of the first phase between warm-up and the fall of the learning rate, of members from scratch that
keep one objective. A law over sizes and tokens is a member's at all sizes; a law over tokens alone is of one size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from seqpair.compare.scaling import LossPoint, PowerLaw, fit_power_law
from seqpair.compare.values import Interval
from seqpair.errors import EvaluationError
from seqpair.recipe.sizes import parameter_count
from seqpair.report.data_table import Cell, Column, DataTable, estimate_cell, number_cell
from seqpair.report.figures import DASHES, Drawing, Palette, canvas, figure_id, label_text, short_count
from seqpair.report.member import HeldOutPoint, MemberRun
from seqpair.report.shared_figures import common_sources
from seqpair.report.study_tables import base_name, held_out_means, member_colours
from seqpair.text import format_count

FURTHER = 10.0
"""How many times the tokens of the last look a law is drawn to and its loss is predicted for."""
MOST_LAWS = 6
RESAMPLES = 100
_MOST_LOOKS = 24
_LARGER = 4.0
_INSIDE, _OUTSIDE = 12, 6
_LONGEST_LABEL = 24
BY_TOKENS, BY_SIZE = ("tokens",), ("parameters", "tokens")
Row = tuple[float, float, float, str]
"""Parameters without the embedding, content tokens, bits per byte, the run."""


@dataclass(frozen=True)
class Law:
    """A law that was asked for.

    Attributes:
        label: Of which member, at which size.
        names: Its variables.
        colour: The number of the member's colour.
        rows: The losses.
        fitted: The law; None if it was refused.
        reason: Why it was refused, or empty.
    """

    label: str
    names: tuple[str, ...]
    colour: int
    rows: tuple[Row, ...]
    fitted: PowerLaw | None = None
    reason: str = ""

    @property
    def title(self) -> str:
        """Return it in words: `4m encoder, by tokens`."""
        return f"{self.label}, by {'size and tokens' if self.names == BY_SIZE else 'tokens'}"


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


def scaling_laws(members: Sequence[MemberRun]) -> tuple[DataTable | None, list[Drawing]]:
    """Return the table of all laws, refused ones with their reason, and a figure of each fitted one."""
    asked = _asked(members)
    laws: list[Law] = []
    for law in asked:
        enough = sum(one.fitted is not None for one in laws) < MOST_LAWS
        laws.append(_tried(law) if enough and not law.reason else law if law.reason else _left_out(law))
    return _table(laws), [_drawing(law, law.fitted) for law in laws if law.fitted is not None]


def _asked(members: Sequence[MemberRun]) -> list[Law]:
    """Return the laws over size and tokens, a member each, then those over tokens, a member and size each."""
    colours = member_colours(members)
    by_size: dict[str, list[MemberRun]] = {}
    by_tokens: dict[str, list[MemberRun]] = {}
    for member in members:
        if member.plan is not None and member.second_of is None and member.held_out:
            by_size.setdefault(base_name(member), []).append(member)
            by_tokens.setdefault(f"{member.plan.size} {base_name(member)}", []).append(member)
    return [
        Law(label, names, colours[runs[0].name], _rows(runs), reason=_unfit(runs))
        for names, groups in ((BY_SIZE, by_size), (BY_TOKENS, by_tokens))
        for label, runs in groups.items()
    ]


def _unfit(runs: Sequence[MemberRun]) -> str:
    """Return why no law can be of these runs, whatever their losses; empty if one can."""
    plans = [run.plan for run in runs if run.plan is not None]
    if any(plan.start is not None for plan in plans):
        return "it continues another member, so its tokens do not start at zero"
    if any(len({span.objective for phase in plan.phases for span in phase.objectives}) > 1 for plan in plans):
        return "its objective changes during training, so one law does not describe its losses"
    return ""


def _rows(runs: Sequence[MemberRun]) -> tuple[Row, ...]:
    used = [replace(run, held_out=_steady(run)) for run in runs]
    sources = common_sources(used)
    rows: list[Row] = []
    for run in used:
        if run.plan is None or not sources:
            continue
        parameters = float(parameter_count(run.plan.model.shape, run.plan.model.vocab_size).non_embedding)
        looks = held_out_means(run, sources)
        picked = sorted(set(np.linspace(0, len(looks) - 1, min(len(looks), _MOST_LOOKS)).round().astype(int).tolist()))
        rows += [(parameters, float(looks[at][0]), looks[at][1], run.name) for at in picked]
    return tuple(rows)


def _steady(run: MemberRun) -> list[HeldOutPoint]:
    """Return a run's looks of its first phase after warm-up and before the learning rate falls."""
    if run.plan is None:
        return []
    first = run.plan.phases[0]
    ends = [point.tokens for point in run.train if point.phase == first.name]
    stop = max([first.budget_tokens, *ends]) - first.lr.decay_tokens
    return [point for point in run.held_out if max(0, first.lr.warmup_tokens) < point.tokens <= stop]


def _tried(law: Law) -> Law:
    try:
        return replace(law, fitted=_fitted(law.rows, law.names))
    except EvaluationError as fault:
        seen = f": {fault.seen}" if fault.seen else ""
        needed = f"; it needs {fault.allowed}" if fault.allowed else ""
        return replace(law, reason=f"{fault.what}{seen}{needed}")


def _left_out(law: Law) -> Law:
    return replace(law, reason=f"the page fits {MOST_LAWS} laws at most; `compare.scaling.fit_power_law` fits any")


@lru_cache(maxsize=64)
def _fitted(rows: tuple[Row, ...], names: tuple[str, ...]) -> PowerLaw:
    """Return the fit; a page that is made again while a run trains has most of its fits already."""
    points = [LossPoint({"parameters": size, "tokens": tokens}, loss, run) for size, tokens, loss, run in rows]
    return fit_power_law(points, names, resamples=RESAMPLES)


def _at(law: PowerLaw, parameters: float, tokens: float) -> tuple[Interval, str]:
    x = {"parameters": parameters, "tokens": tokens}
    found = law.predict({name: x[name] for name in law.names})
    return found.loss, found.words


def _table(laws: Sequence[Law]) -> DataTable | None:
    columns = [
        Column("Law"), Column("Exponent of tokens", True), Column("Exponent of parameters", True),
        Column("Floor", True), Column(f"At {FURTHER:g} times the tokens (extrapolated)", True),
        Column("Measurements", True), Column("Runs", True), Column("Residual, log", True), Column("Notes"),
    ]  # fmt: skip
    caption = (
        "Power laws of held-out bits per byte, L = E + A / N^a + B / D^b for N parameters without the embedding and D "
        "content tokens, or without the term of N, with 95 % bootstrap intervals. The losses were measured during "
        "one run, before its learning rate falls; runs planned for that many tokens would end lower. Beyond the last "
        "measurement nothing checks the form, so the true uncertainty is larger than the interval."
    )
    return DataTable("scaling-laws", caption, columns, [_row(law) for law in laws]) if laws else None


def _row(law: Law) -> list[Cell]:
    found = law.fitted
    if found is None:
        return [Cell(law.title), Cell("not fitted"), *[Cell("")] * 6, Cell(f"Not fitted: {law.reason}.")]
    largest = max(size for size, *_ in law.rows)
    beyond, words = _at(found, largest, FURTHER * found.ranges["tokens"][1])
    exponents = [_interval_cell(found.exponents.get(name)) for name in ("tokens", "parameters")]
    return [
        Cell(law.title),
        *exponents,
        _interval_cell(found.floor),
        replace(_interval_cell(beyond), tag="extrapolated"),
        Cell(str(found.points), found.points),
        Cell(str(found.runs), found.runs),
        number_cell(found.rms_log, 4),
        Cell(" ".join([f"The extrapolation lies {words}.", *found.cautions])),
    ]


def _interval_cell(interval: Interval | None) -> Cell:
    return Cell("") if interval is None else estimate_cell(interval.value, interval.low, interval.high)


def _drawing(law: Law, found: PowerLaw) -> Drawing:
    sizes = sorted({size for size, *_ in law.rows})
    first, last = found.ranges["tokens"]
    lines = [_line(law, found, size, first, last) for size in sizes]
    if law.names == BY_SIZE:
        unseen = _LARGER * sizes[-1]
        lines.append(_line(law, found, unseen, first, last))
    name = figure_id("law", "size" if law.names == BY_SIZE else "tokens", law.label)
    beyond, words = _at(found, sizes[-1], FURTHER * last)
    told = f"extrapolated to {beyond.value:.3g} ({beyond.low:.3g} to {beyond.high:.3g}), {words}"
    return law_drawing(name, f"Power law of held-out text: {law.title}", told, lines, last, law.colour)


def _line(law: Law, found: PowerLaw, size: float, first: float, last: float) -> FittedLine:
    measured = [(tokens, loss) for own, tokens, loss, _ in law.rows if math.isclose(own, size)]
    inside = np.geomspace(first, last, _INSIDE) if first < last else np.array([first])
    xs = [*inside.tolist(), *np.geomspace(last, FURTHER * last, _OUTSIDE + 1)[1:].tolist()]
    band = [_at(found, size, x)[0] for x in xs]
    words = f"{format_count(size)} parameters" if law.names == BY_SIZE else law.label
    return FittedLine(words, measured, xs, band)


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
