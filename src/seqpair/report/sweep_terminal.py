"""A sweep in a terminal and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from seqpair.report.sweep_curves import MemberCurve, Setting
from seqpair.report.sweep_pairs import PairChoice, pair_rows
from seqpair.report.sweep_record import SweepRuns
from seqpair.report.terminal import rows_as_json


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
