"""A sweep as a page, in a terminal and as JSON, with the pair stated at the shared setting and at each member's best.

The table of a statement is the study's own: the same tasks, the same items, the same questions. At their own best two
members may differ in more than the objective, which is what the statement is about: so they are compared as no pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator
from rich.markup import escape
from rich.table import Table

from seqpair import __version__
from seqpair.compare.questions import Options
from seqpair.files import write_text
from seqpair.report.collect import FIRST_MEMBERS
from seqpair.report.comparison import Row, rows_as_json, study_rows
from seqpair.report.data_table import attention_mark
from seqpair.report.figures import DASHES, LINE, QUIET, canvas, svg
from seqpair.report.member import MemberRun, member_views
from seqpair.report.page import environment, page_style
from seqpair.report.sweep import AxisRecord, MemberCurve, Setting, SweepRecord, SweepRuns, sweep_remarks
from seqpair.report.words import verdict_words

PAGE_NAME = "index.html"


def write_sweep_page(runs: SweepRuns, curves: Sequence[MemberCurve], pairs: Sequence[PairChoice]) -> Path:
    """Write `<sweep>/index.html` and return its path.

    Raises:
        DiskFullError: The disk is full; an earlier page is untouched.
    """
    path = runs.folder / PAGE_NAME
    write_text(path, render_sweep_page(runs, curves, pairs))
    return path


def render_sweep_page(runs: SweepRuns, curves: Sequence[MemberCurve], pairs: Sequence[PairChoice]) -> str:
    """Return the page of a sweep as HTML."""
    tables = [(choice, *pair_rows(runs, choice)) for choice in pairs]
    same = len(pairs) > 1 and bool(pairs[0].runs) and pairs[0].runs == pairs[1].runs
    return (
        environment()
        .get_template("sweep.html.jinja")
        .render(
            record=runs.record,
            style=page_style(),
            remarks=sweep_remarks(runs),
            curves=curves,
            figures={curve.member: _figure(curve) for curve in curves},
            marks={curve.member: Markup(attention_mark(curve.direction)) for curve in curves},
            figure_names=figure_names,
            figures_of=figures_of,
            marks_of=marks_of,
            tables=tables[:1] if same else tables,
            same=same,
            verdict_words=verdict_words,
            version=__version__,
        )
    )


def _figure(curve: MemberCurve) -> Markup | None:
    """Return a member's curve; None if nothing touches it or no run is finished."""
    return Markup(curve_figure(curve)) if curve.axes and curve.best is not None else None


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


@dataclass(frozen=True)
class PairChoice:
    """One statement of the pair.

    Attributes:
        title: What it holds equal, or not.
        settings: Each member's setting in words.
        runs: Each member's run folder; empty if the statement cannot be made.
        reason: Why it cannot be made, or what else to know; may be empty.
    """

    title: str
    settings: dict[str, str]
    runs: dict[str, str]
    reason: str


def choose_pairs(record: SweepRecord, curves: Sequence[MemberCurve]) -> list[PairChoice]:
    """Return the statement at the shared setting and the one at each member's best."""
    at = "" if record.eval_seed is None else f" Both are stated at seed {record.eval_seed}."
    shared = _choice(record, "At the shared setting, the recipe's own", curves, [curve.own for curve in curves])
    best = _choice(record, "Each member at its own best", curves, [curve.best for curve in curves])
    if not shared.runs and any(curve.own is None for curve in curves):
        keys = ", ".join(axis.name for axis in record.axes if not axis.is_seed)
        shared = PairChoice(
            shared.title,
            {},
            {},
            f"The recipe's own setting ({keys}) is not in the grid: add it for that statement.",
        )
    elif shared.runs and shared.runs == best.runs:
        best = PairChoice(best.title, best.settings, best.runs, f"That is the shared setting: one table says both.{at}")
    return [shared, best]


def _choice(
    record: SweepRecord, title: str, curves: Sequence[MemberCurve], settings: Sequence[Setting | None]
) -> PairChoice:
    named = [(curve.member, setting) for curve, setting in zip(curves, settings, strict=True)]
    lacking = [member for member, setting in named if setting is None or setting.value is None]
    if lacking:
        why = "; ".join(
            f"{member} ({setting.failed})" if setting else member for member, setting in named if member in lacking
        )
        return PairChoice(title, {}, {}, f"There is no value of {why} for this statement.")
    seed = record.eval_seed or ""
    return PairChoice(
        title,
        {member: setting.label for member, setting in named if setting is not None},
        {member: setting.runs[seed] for member, setting in named if setting is not None},
        "" if record.eval_seed is None else f"Stated at seed {record.eval_seed}.",
    )


def pair_rows(runs: SweepRuns, choice: PairChoice) -> tuple[list[Row], list[str]]:
    """Return a statement's comparison table and its columns; no rows if nothing was evaluated."""
    names = [name for name in FIRST_MEMBERS if name in choice.runs]
    names += [name for name in choice.runs if name not in FIRST_MEMBERS]
    found = [runs.runs[choice.runs[name], name] for name in names if (choice.runs[name], name) in runs.runs]
    members: list[MemberRun] = [view for run in found for view in member_views(run)]
    return study_rows(members, Options(unpaired=True)), [member.name for member in members]


def curve_table(curve: MemberCurve) -> Table:
    """Return one member's curve: a row for each setting."""
    table = Table(title=f"{escape(curve.member)}: held-out text at the end of training", title_justify="left")
    for axis in curve.axes:
        table.add_column(escape(axis.name), justify="right")
    if not curve.axes:
        table.add_column("setting")
    for column in figure_names(curve):
        table.add_column(column, justify="right")
    table.add_column("")
    for setting in curve.settings:
        names = list(setting.values.values()) or [setting.label]
        table.add_row(*map(escape, names), *map(escape, figures_of(curve, setting)), escape(marks_of(curve, setting)))
    return table


def figure_names(curve: MemberCurve) -> list[str]:
    """Return what is measured for a member; a causal member's loss and bits per byte, another's loss and accuracy."""
    seeds = len(curve.settings[0].runs) if curve.settings else 1
    spread = [f"over {seeds} seeds"] if seeds > 1 else []
    if curve.direction == "causal":
        return ["bits per byte", *spread, "loss, nats per token"]
    return ["loss, nats per masked token", *spread, "masked accuracy"]


def figures_of(curve: MemberCurve, setting: Setting) -> list[str]:
    """Return a setting's figures in the order of `figure_names`."""
    count = len(figure_names(curve))
    if setting.value is None:
        return ["-"] * count
    other = [end.loss if curve.direction == "causal" else end.accuracy for end in setting.endings.values()]
    low, high = min(setting.by_seed.values()), max(setting.by_seed.values())
    spread = [f"{low:.3f} to {high:.3f}"] if count > 2 else []
    return [f"{setting.value:.3f}", *spread, f"{sum(other) / len(other):.3f}"]


def marks_of(curve: MemberCurve, setting: Setting) -> str:
    """Return whether a setting is the best, the recipe's own, or has no value."""
    marks = ["best"] if setting is curve.best else []
    marks += ["the recipe's own"] if setting.own else []
    marks += [setting.failed] if setting.failed else []
    return ", ".join(marks)


def sweep_as_json(
    runs: SweepRuns, curves: Sequence[MemberCurve], pairs: Sequence[PairChoice], remarks: Sequence[str]
) -> dict[str, Any]:
    """Return a sweep's record, curves and statements as JSON values."""
    return {
        **runs.record.model_dump(mode="json"),
        "held_out_sources": list(runs.sources),
        "remarks": list(remarks),
        "curves": [_curve_as_json(curve) for curve in curves],
        "pairs": [{**asdict(choice), "rows": rows_as_json(pair_rows(runs, choice)[0])} for choice in pairs],
    }


def _curve_as_json(curve: MemberCurve) -> dict[str, Any]:
    settings = [
        {
            "values": setting.values,
            "value": setting.value,
            "standard_deviation": setting.spread,
            "by_seed": setting.by_seed,
            "endings": {seed: asdict(end) for seed, end in setting.endings.items()},
            "runs": setting.runs,
            "best": setting is curve.best,
            "own": setting.own,
            "failed": setting.failed,
        }
        for setting in curve.settings
    ]
    return {
        "member": curve.member,
        "direction": curve.direction,
        "unit": curve.unit,
        "settings": _finite(settings),
        "remarks": list(curve.remarks),
    }


def _finite(value: Any) -> Any:
    """Return JSON values with null for what is not finite, such as the means where no source is in all runs."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
