"""Which figures a study has of several members: held-out text by tokens, quality by size, values, shares."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from seqpair.compare.progress import Curve, Gap, curves, gaps
from seqpair.compare.values import Scores, metric_words
from seqpair.report.comparison_figures import Line, ShareRow, ValueRow, lines_drawing, shares_drawing, values_drawing
from seqpair.report.figures import Drawing, figure_id
from seqpair.report.member import MemberOutcome, MemberRun
from seqpair.report.published import PublishedRow
from seqpair.report.study_tables import (
    base_name,
    held_out_means,
    held_out_remarks,
    member_colours,
    suite_name,
)

DIRECTIONS = {"causal": "from left to right", "bidirectional": "masked tokens"}
_MOST_TASKS = 30
_SUM_TOLERANCE = 0.01
_LARGEST_LOOKS = 200


def runs_by_line(members: Sequence[MemberRun]) -> dict[str, list[MemberRun]]:
    """Return the members by size and name: those that differ in nothing but the seed share a line."""
    lines: dict[str, list[MemberRun]] = {}
    several = len({member.plan.size for member in members if member.plan is not None}) > 1
    for member in members:
        size = "" if member.plan is None or not several else f"{member.plan.size} "
        lines.setdefault(f"{size}{base_name(member)}", []).append(member)
    return lines


def held_out_drawings(members: Sequence[MemberRun]) -> list[Drawing]:
    """Return, for each direction, held-out bits per byte over content tokens: a line a member, a band over seeds."""
    drawings = []
    colours = member_colours(members)
    for direction, words in DIRECTIONS.items():
        here = [m for m in members if m.direction == direction and m.held_out and m.second_of is None]
        sources = common_sources(here)
        lines: list[Line] = []
        seen: dict[int, int] = {}
        for label, runs in runs_by_line(here).items():
            colour = colours[runs[0].name]
            seen[colour] = seen.get(colour, -1) + 1
            means = [held_out_means(run, sources) for run in runs]
            grids = {tuple(tokens for tokens, _ in mean) for mean in means}
            if len(runs) > 1 and len(grids) == 1:
                columns = list(zip(*([bits for _, bits in mean] for mean in means), strict=True))
                middle = [sum(column) / len(column) for column in columns]
                low, high = [min(column) for column in columns], [max(column) for column in columns]
                lines.append(
                    thinned_line(f"{label}, {len(runs)} seeds", colour, seen[colour], grids.pop(), middle, low, high)
                )
                continue
            for run, mean in zip(runs, means, strict=True):
                own = label if len(runs) == 1 else run.name
                tokens, bits = zip(*mean, strict=True)
                lines.append(thinned_line(own, colour, seen[colour], tokens, bits))
        if lines:
            title = f"Held-out text by tokens, {words}, mean of {', '.join(sources) or 'the sources'}"
            name = figure_id("by-tokens", direction)
            drawing = lines_drawing(name, title, "bits per byte, lower is better", "content tokens", lines)
            remarks = held_out_remarks(here)
            drawings.append(replace(drawing, caption=". ".join([title, " ".join(remarks)])) if remarks else drawing)
    return drawings


def thinned_line(
    label: str,
    colour: int,
    dash: int,
    xs: Sequence[float],
    ys: Sequence[float],
    low: Sequence[float] = (),
    high: Sequence[float] = (),
    most: int = _LARGEST_LOOKS,
) -> Line:
    """Return a line of at most about `most` of its points, the last among them."""
    at = sorted({*range(0, len(xs), max(1, math.ceil(len(xs) / most))), len(xs) - 1})

    def picked(column: Sequence[float]) -> list[float]:
        return [column[i] for i in at] if column else []

    return Line(label, colour, dash, picked(xs), picked(ys), picked(low), picked(high))


def common_sources(members: Sequence[MemberRun]) -> list[str]:
    """Return the held-out sources that every look of these members has, so that a mean is of the same text throughout.

    Empty if there are none.
    """
    looks: dict[tuple[str, int], list[str]] = {}
    for member in members:
        for point in member.held_out:
            looks.setdefault((member.name, point.tokens), []).append(point.source)
    every = list(looks.values())
    return [source for source in every[0] if all(source in look for look in every)] if every else []


def curve_drawings(
    scores: Sequence[Scores], members: Sequence[MemberRun], references: Sequence[PublishedRow]
) -> list[Drawing]:
    """Return each task's value by tokens, from evaluated checkpoints, and by size, with bands over items and seeds.

    A task has a figure where some member has two points, or where there is a published value to stand beside.
    """
    colours = {base_name(member): colour for member, colour in _with_colours(members)}
    drawings = []
    for axis, words in (("tokens", "content tokens"), ("parameters", "parameters without the embedding")):
        by_task: dict[str, list[Curve]] = {}
        for curve in curves(scores, axis):
            by_task.setdefault(curve.task.name, []).append(curve)
        for key, found in sorted(by_task.items()):
            beside = [row for row in references if axis == "parameters" and key in row.tasks]
            if max(len(curve.points) for curve in found) > 1 or beside:
                drawings.append(_curve_drawing(axis, words, found, colours, beside))
    return drawings


def gap_drawings(scores: Sequence[Scores], members: Sequence[MemberRun]) -> list[Drawing]:
    """Return, for each task, the paired difference of the first two members along training, with its interval.

    Where the band leaves the line of no difference one is ahead; where the curve crosses it they pass each other.
    """
    names = list(dict.fromkeys(base_name(member) for member in members if member.plan is not None))[:2]
    drawings: list[Drawing] = []
    by_task: dict[str, list[Gap]] = {}
    for gap in gaps(scores):
        pair = [label.rpartition(" ")[2] for label in (gap.first, gap.second)]
        if len(gap.points) > 1 and sorted(pair) == sorted(names):
            by_task.setdefault(gap.task.name, []).append(gap)
    for key, found in sorted(by_task.items()):
        lines = []
        for index, gap in enumerate(found):
            xs, values = [point.x for point in gap.points], [point.value for point in gap.points]
            lows, highs = [value.low for value in values], [value.high for value in values]
            lines.append(Line(gap.label, 0, index, xs, [value.value for value in values], lows, highs))
        ends = [min(line.xs[0] for line in lines), max(line.xs[-1] for line in lines)]
        lines.append(Line("no difference", 0, len(lines), ends, [0.0, 0.0], is_reference=True))
        task = found[0].task
        title = f"{task.title}: paired difference by tokens"
        drawings.append(lines_drawing(figure_id("gap", key), title, task.measured, "content tokens", lines))
    return drawings


def layer_drawings(members: Sequence[MemberRun]) -> list[Drawing]:
    """Return, for each probed set, the value by layer: a line a member, the mean of its seeds with their range."""
    colours = member_colours(members)
    found: dict[str, list[Line]] = {}
    titles: dict[str, MemberOutcome] = {}
    for label, runs in runs_by_line(members).items():
        for key in dict.fromkeys(key for run in runs for key in run.outcomes):
            own = [_by_layer(run.outcomes[key]) for run in runs if key in run.outcomes]
            if not own[0] or len(set(map(len, own))) > 1:
                continue
            columns = list(zip(*own, strict=True))
            middle = [math.fsum(column) / len(column) for column in columns]
            band = ([min(c) for c in columns], [max(c) for c in columns]) if len(own) > 1 else ([], [])
            colour = colours[runs[0].name]
            dash = sum(line.colour == colour for line in found.get(key, []))
            found.setdefault(key, []).append(Line(label, colour, dash, range(len(middle)), middle, *band))
            titles[key] = next(run.outcomes[key] for run in runs if key in run.outcomes)
    return [
        lines_drawing(
            figure_id("by-layer", key),
            f"{titles[key].title}, by layer",
            titles[key].result.metric,
            "layer; 0 is the embedding",
            lines,
            chance=titles[key].result.chance,
        )
        for key, lines in sorted(found.items())
    ]


def _by_layer(outcome: MemberOutcome) -> list[float]:
    """Return a probe's value at each layer; empty for other tasks."""
    figures = outcome.result.figures
    found: list[float] = []
    while (value := figures.get(f"layer_{len(found)}")) is not None:
        found.append(value)
    return found


def _with_colours(members: Sequence[MemberRun]) -> list[tuple[MemberRun, int]]:
    colours = member_colours(members)
    return [(member, colours[member.name]) for member in members]


def curve_lines(found: Sequence[Curve], colours: Mapping[str, int]) -> list[Line]:
    """Return curves as lines with their intervals; those of one member's colour are told apart by their style."""
    seen: dict[int, int] = {}
    lines = []
    for curve in found:
        colour = colours.get(curve.member, 0)
        seen[colour] = seen.get(colour, -1) + 1
        values = [point.value for point in curve.points]
        xs, ys = [point.x for point in curve.points], [value.value for value in values]
        lows, highs = [value.low for value in values], [value.high for value in values]
        lines.append(Line(curve.label, colour, seen[colour], xs, ys, lows, highs))
    return lines


def _curve_drawing(
    axis: str, words: str, found: Sequence[Curve], colours: dict[str, int], beside: Sequence[PublishedRow]
) -> Drawing:
    task = found[0].task
    lines = curve_lines(found, colours)
    for index, row in enumerate(beside):
        sizes, published = [size for size, _ in row.points], [value for _, value in row.points]
        lines.append(Line(f"{row.family} (published)", 0, index + 1, sizes, published, is_reference=True))
    title = f"{task.title}, by {'size' if axis == 'parameters' else axis}"
    name = figure_id(f"by-{axis}", task.name)
    return lines_drawing(name, title, task.measured, words, lines, is_log=axis == "parameters", chance=task.chance)


def value_drawings(members: Sequence[MemberRun]) -> list[Drawing]:
    """Return a figure for each suite and metric with the values of all members."""
    groups: dict[tuple[str, str], list[ValueRow]] = {}
    colours = member_colours(members)
    lines = runs_by_line(members)
    labels = {run.name: label for label, runs in lines.items() for run in runs}
    of_colour: dict[int, list[str]] = {}
    for label, runs in lines.items():
        of_colour.setdefault(colours[runs[0].name], []).append(label)
    for member in members:
        label, colour = labels[member.name], colours[member.name]
        mark = of_colour[colour].index(label)
        for outcome in member.outcomes.values():
            result = outcome.result
            metric = metric_words(result.metric, higher_is_better=result.higher_is_better, is_lean=result.is_lean)
            row = ValueRow(outcome.title, label, colour, mark, result.value, *result.interval, result.chance)
            groups.setdefault((suite_name(result.suite), metric), []).append(row)
    drawings = []
    for (suite, metric), rows in sorted(groups.items()):
        tasks = list(dict.fromkeys(row.task for row in rows))
        for start in range(0, len(tasks), _MOST_TASKS):
            some = [row for row in rows if row.task in tasks[start : start + _MOST_TASKS]]
            name = figure_id("values", suite, metric, *([str(start)] if start else []))
            drawings.append(values_drawing(name, f"{suite}: {metric}", metric, some))
    return drawings


def share_drawings(members: Sequence[MemberRun]) -> list[Drawing]:
    """Return a figure for each task whose `share_*` figures sum to one: what a member chose, how often.

    Figures belong together if they have all of their name in common but its last word. Others may sum to one by chance.
    """
    found: dict[tuple[str, str, str], dict[str, dict[str, float]]] = {}
    for member in members:
        for key, outcome in member.outcomes.items():
            groups: dict[str, dict[str, float]] = {}
            for name, value in outcome.result.figures.items():
                head, _, last = name.rpartition("_")
                groups.setdefault(head, {})[last] = value
            for head, parts in groups.items():
                shares = parts.values()
                named = head.split("_")[0] == "share"
                if named and len(parts) > 1 and min(shares) >= 0 and abs(sum(shares) - 1) <= _SUM_TOLERANCE:
                    found.setdefault((key, outcome.title, head), {})[member.name] = parts
    drawings = []
    for (key, title, head), by_member in sorted(found.items()):
        parts_of = list(dict.fromkeys(part for parts in by_member.values() for part in parts))
        rows = [ShareRow(name, [parts.get(part, 0.0) for part in parts_of]) for name, parts in by_member.items()]
        words = f"{title}: {head.replace('_', ' ')}".rstrip(": ")
        drawings.append(shares_drawing(figure_id("shares", key, head), words, parts_of, rows))
    return drawings
