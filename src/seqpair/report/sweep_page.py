"""A sweep as a page, as tables and as JSON, with the pair stated at the shared setting and at each member's best.

The tables of a statement are the study's own: the same tasks, the same items, the same questions. At their own best two
members may differ in more than the objective, which is what the statement is about: so they are compared as no pair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from seqpair import __version__
from seqpair.compare.questions import Options, answers_of
from seqpair.compare.values import Comparison
from seqpair.files import write_text
from seqpair.report.collect import FIRST_MEMBERS, scores_of_members
from seqpair.report.comparison import comparison_as_json, differences_table, values_table
from seqpair.report.comparison_figures import Line, lines_drawing
from seqpair.report.data_table import Cell, Column, DataTable, attention_mark, number_cell
from seqpair.report.figures import Drawing, figure_id
from seqpair.report.member import MemberRun, member_views
from seqpair.report.page import PAGE_NAME, drawn, environment, page_style
from seqpair.report.sweep import BITS, AxisRecord, MemberCurve, Setting, SweepRecord, SweepRuns, sweep_remarks

_LOG_FROM_RATIO = 4.0


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
    shared = _choice(record, "At the shared setting, the recipe's own", {curve.member: curve.own for curve in curves})
    best = _choice(record, "Each member at its own best", {curve.member: curve.best for curve in curves})
    if any(curve.own is None for curve in curves):
        keys = ", ".join(axis.name for axis in record.axes if not axis.is_seed)
        why = f"The recipe's own setting ({keys}) is not in the grid. Add it to compare the members at it."
        shared = PairChoice(shared.title, {}, {}, why)
    elif shared.runs and shared.runs == best.runs:
        at = "" if record.eval_seed is None else f" Both are compared at seed {record.eval_seed}."
        best = PairChoice(
            best.title, best.settings, best.runs, f"This is also the shared setting, so one table shows both.{at}"
        )
    return [shared, best]


def _choice(record: SweepRecord, title: str, settings: dict[str, Setting | None]) -> PairChoice:
    found = {name: setting for name, setting in settings.items() if setting is not None and setting.value is not None}
    if len(found) < len(settings):
        lacking = [
            f"{member} ({setting.failed})" if setting is not None else member
            for member, setting in settings.items()
            if member not in found
        ]
        return PairChoice(title, {}, {}, f"There is no value of {'; '.join(lacking)}, so this comparison is missing.")
    return PairChoice(
        title,
        {member: setting.label for member, setting in found.items()},
        {member: setting.runs[record.eval_seed or ""] for member, setting in found.items()},
        "" if record.eval_seed is None else f"Compared at seed {record.eval_seed}.",
    )


def pair_answers(runs: SweepRuns, choice: PairChoice) -> tuple[list[MemberRun], list[Comparison]]:
    """Return a statement's members, encoder and decoder first, and the answers about them."""
    names = sorted(choice.runs, key=lambda name: (*FIRST_MEMBERS, name).index(name))
    found = [runs.runs[choice.runs[name], name] for name in names if (choice.runs[name], name) in runs.runs]
    members = [view for run in found for view in member_views(run)]
    return members, answers_of(scores_of_members(members), Options(unpaired=True))


def curve_table(curve: MemberCurve) -> DataTable:
    """Return one member's curve: a row for each setting, with its loss and what is read beside it."""
    seeds = max((len(setting.runs) for setting in curve.settings), default=1)
    beside = "loss, nats per token" if curve.unit == BITS else "masked accuracy"
    columns = [Column(axis.name, True) for axis in curve.axes] or [Column("setting")]
    columns.append(Column(curve.unit if curve.unit == BITS else f"loss, {curve.unit}", True))
    columns += [Column(f"over {seeds} seeds", True)] if seeds > 1 else []
    columns += [Column(beside, True), Column("")]
    rows = []
    for setting in curve.settings:
        ends, values = list(setting.endings.values()), setting.by_seed.values()
        other = [end.loss if curve.unit == BITS else end.accuracy for end in ends]
        row = [Cell(text) for text in (setting.values.values() or [setting.label])]
        if setting.value is None:
            row += [Cell("-")] * (len(columns) - len(row) - 1)
        else:
            row.append(number_cell(setting.value))
            row += [Cell(f"{min(values):.3f} to {max(values):.3f}")] if seeds > 1 else []
            row.append(number_cell(sum(other) / len(other)))
        marks = ("best" if setting is curve.best else "", "the recipe's own" if setting.own else "", setting.failed)
        rows.append([*row, Cell(", ".join(filter(None, marks)))])
    caption = f"{curve.member}: held-out text at the end of training"
    return DataTable(figure_id("curve", curve.member), caption, columns, rows, filters=False)


def curve_drawing(curve: MemberCurve, colour: int = 0) -> Drawing | None:
    """Return a member's metric over its first numeric axis, a line for each combination of the others.

    Bands span the seeds; the best and the recipe's own setting are marked. None if nothing is to be drawn.
    """
    best = curve.best
    if not curve.axes or best is None:
        return None
    across = next((axis for axis in curve.axes if None not in axis.numbers), curve.axes[0])
    places = _places(across)
    groups: dict[str, list[Setting]] = {}
    for setting in (setting for setting in curve.settings if setting.value is not None):
        others = ", ".join(f"{name} {value}" for name, value in setting.values.items() if name != across.name)
        groups.setdefault(others or curve.member, []).append(setting)
    lines = [_line(label, group, across, places, colour, dash) for dash, (label, group) in enumerate(groups.items())]
    for label, marked in (("best", best), ("the recipe's own", curve.own)):
        if marked is not None and marked.value is not None:
            x = [places[marked.values[across.name]]]
            lines.append(Line(label, colour + 1, 0, x, [marked.value], is_reference=marked is not best, is_mark=True))
    title = f"{curve.unit} of the {curve.member} over {across.name}: the best is {best.label}, {best.value:.3f}"
    xs = list(places.values())
    is_log = None not in across.numbers and min(xs) > 0 and max(xs) / min(xs) >= _LOG_FROM_RATIO
    unit = f"{curve.unit}, held-out, lower is better"
    ticks = {place: text for text, place in places.items()}
    return lines_drawing(figure_id("sweep", curve.member), title, unit, across.name, lines, is_log=is_log, ticks=ticks)


def _places(axis: AxisRecord) -> dict[str, float]:
    """Return where each value of an axis stands: at its number, or where one has none side by side."""
    numbers = [number for number in axis.numbers if number is not None]
    return dict(zip(axis.values, numbers if len(numbers) == len(axis.values) else range(len(axis.values)), strict=True))


def _line(
    label: str, group: Sequence[Setting], across: AxisRecord, places: dict[str, float], colour: int, dash: int
) -> Line:
    points = sorted((places[setting.values[across.name]], setting) for setting in group)
    xs, ys = [x for x, _ in points], [setting.value or 0.0 for _, setting in points]
    if all(len(setting.by_seed) < 2 for setting in group):
        return Line(label, colour, dash, xs, ys)
    spans = [setting.by_seed.values() for _, setting in points]
    return Line(label, colour, dash, xs, ys, [min(span) for span in spans], [max(span) for span in spans])


def write_sweep_page(runs: SweepRuns, curves: Sequence[MemberCurve], pairs: Sequence[PairChoice]) -> Path:
    """Write `<sweep>/index.html`, one file that opens with no network and no script, and return its path.

    Raises:
        DiskFullError: The disk is full; an earlier page is untouched.
    """
    same = len(pairs) > 1 and bool(pairs[0].runs) and pairs[0].runs == pairs[1].runs
    statements = []
    for choice in pairs[:1] if same else pairs:
        members, answers = pair_answers(runs, choice) if choice.runs else ([], [])
        statements.append((choice, values_table(members), differences_table(answers)))
    figures = [curve_drawing(curve, colour) for colour, curve in enumerate(curves)]
    drawn_curves = [
        (curve, curve_table(curve), figure and drawn(figure), Markup(attention_mark(curve.direction)))
        for curve, figure in zip(curves, figures, strict=True)
    ]
    template = environment().get_template("sweep.html.jinja")
    page = template.render(
        record=runs.record,
        style=page_style(),
        remarks=sweep_remarks(runs),
        curves=drawn_curves,
        statements=statements,
        same=same,
        version=__version__,
    )
    path = runs.folder / PAGE_NAME
    write_text(path, page)
    return path


def sweep_as_json(
    runs: SweepRuns, curves: Sequence[MemberCurve], pairs: Sequence[PairChoice], remarks: Sequence[str]
) -> dict[str, Any]:
    """Return a sweep's record, curves and statements as JSON values."""
    return {
        **runs.record.model_dump(mode="json"),
        "held_out_sources": list(runs.sources),
        "remarks": list(remarks),
        "curves": [_curve_as_json(curve) for curve in curves],
        "pairs": [{**asdict(choice), "rows": comparison_as_json(*pair_answers(runs, choice))} for choice in pairs],
    }


def _curve_as_json(curve: MemberCurve) -> dict[str, Any]:
    settings = [
        {
            **asdict(setting),
            "value": setting.value,
            "standard_deviation": setting.spread,
            "best": setting is curve.best,
        }
        for setting in curve.settings
    ]
    kept = {"member": curve.member, "direction": curve.direction, "unit": curve.unit}
    return {**kept, "settings": _finite(settings), "remarks": list(curve.remarks)}


def _finite(value: Any) -> Any:
    """Return JSON values with null for what is not finite, such as the means where no source is in all runs."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
