"""What a sweep left on disk, and each member's curve over it: its best setting, the grid's edge, what is within noise.

A setting is a combination of all values but the seed; what several seeds gave of it is averaged, and compared with the
best setting seed by seed. Members are never compared with one another here: a decoder is judged by its bits per byte,
an encoder by its loss on masked tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

from pydantic import BaseModel, ConfigDict, ValidationError
from scipy import stats

from seqpair.errors import EvaluationError
from seqpair.paths import PLAN_FILE
from seqpair.report.member import HeldOutPoint, MemberRun, collect_member
from seqpair.report.words import listed
from seqpair.text import format_count

RECORD_NAME = "sweep.json"
BITS, NATS = "bits per byte", "nats per masked token"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AxisRecord(_Frozen):
    """One axis: its name and keys, its values as text and as numbers (null: none), and which members it touches."""

    name: str
    keys: tuple[str, ...]
    values: tuple[str, ...]
    numbers: tuple[float | None, ...]
    touches: tuple[str, ...]
    is_seed: bool


class PointRecord(_Frozen):
    """One point: its folder, its value on each axis, each member's run folder, and whether it is the recipe's own."""

    slug: str
    values: tuple[str, ...]
    runs: dict[str, str]
    own: bool


class SweepRecord(_Frozen):
    """A sweep as it was run.

    Attributes:
        format_version: 1.
        study, sweep: The recipe's name and the sweep's.
        command: The command that makes it again.
        members: The members, in training order.
        axes: What was varied.
        points: All combinations; runs are folders beside the record, `<slug>/<member>`.
        eval_seed: The seed at which settings are compared, where seeds are varied.
        failed: Runs that could not be trained to their end, as `slug/member`, with the reason.
        order: What the ledgers prove, in sentences.
        versions: Of the packages, of this machine's Python.
        created: When, UTC.
    """

    format_version: int = 1
    study: str
    sweep: str
    command: str
    members: tuple[str, ...]
    axes: tuple[AxisRecord, ...]
    points: tuple[PointRecord, ...]
    eval_seed: str | None
    failed: dict[str, str] = {}
    order: tuple[str, ...] = ()
    versions: dict[str, str] = {}
    created: str = ""


@dataclass(frozen=True)
class Ending:
    """A run's held-out result at the end of training: plain means over the sources, and the same by source.

    `loss` is in nats per predicted token, `accuracy` a share of the predicted tokens, `tokens` the content tokens read;
    `sources` holds loss, bits per byte and accuracy.
    """

    loss: float
    bits_per_byte: float
    accuracy: float
    tokens: int
    sources: dict[str, tuple[float, float, float]]


@dataclass
class SweepRuns:
    """A sweep with what its runs reached.

    Attributes:
        folder: Its folder.
        record: Its record.
        runs: Every run that can be read, by (folder, member).
        endings: Their ends of training; a run that is not finished has none.
        sources: The sources in every ending, over which the means are taken.
        left_out: Sources that some run has and another has not.
    """

    folder: Path
    record: SweepRecord
    runs: dict[tuple[str, str], MemberRun] = field(default_factory=dict)
    endings: dict[tuple[str, str], Ending] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """One combination of values for one member, over the seeds.

    Attributes:
        values: The values of the axes that touch the member, seeds apart, by axis.
        by_seed: The member's metric for each seed (`""` without a seed axis); lower is better.
        endings: The whole ends of training, for each seed.
        runs: The folder of each seed's run.
        own: Whether it is what the recipe itself says.
        failed: Why it has no value, or empty.
    """

    values: dict[str, str]
    by_seed: dict[str, float]
    endings: dict[str, Ending]
    runs: dict[str, str]
    own: bool
    failed: str

    @property
    def label(self) -> str:
        """Return the setting in words: `lr 0.002, mixture prose-heavy`."""
        return ", ".join(f"{name} {value}" for name, value in self.values.items()) or "the recipe"

    @property
    def value(self) -> float | None:
        """Return the mean over the seeds; None if a run failed or is not finished."""
        return None if self.failed or not self.by_seed else mean(self.by_seed.values())

    @property
    def spread(self) -> float | None:
        """Return the standard deviation over the seeds; None for one seed."""
        return stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None


@dataclass(frozen=True)
class MemberCurve:
    """One member over its settings.

    Attributes:
        member, direction: Its name and attention direction.
        unit: What its metric is; lower is better.
        axes: The axes that touch it, seeds apart.
        settings: Its settings.
        best: The setting with the lowest value; None if there is no value.
        own: The recipe's own setting, if it is in the grid.
        remarks: The edge, the noise and what is missing, in sentences.
    """

    member: str
    direction: str
    unit: str
    axes: tuple[AxisRecord, ...]
    settings: tuple[Setting, ...]
    best: Setting | None
    own: Setting | None
    remarks: tuple[str, ...]


def read_record(folder: Path) -> SweepRecord:
    """Return the record of a sweep's folder.

    Raises:
        EvaluationError: There is none, or it is not of this version.
    """
    path = folder / RECORD_NAME
    try:
        return SweepRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise EvaluationError(
            "the sweep's record cannot be read",
            seen=f"{path}: {str(error).splitlines()[0]}",
            fix="repeat the `seqpair sweep` command; finished runs are not trained again",
        ) from error


def collect_sweep(folder: Path) -> SweepRuns:
    """Read a sweep's record and runs.

    Raises:
        EvaluationError: The record cannot be read.
    """
    found = SweepRuns(folder, read_record(folder))
    keys = dict.fromkeys((run, member) for point in found.record.points for member, run in point.runs.items())
    last: dict[tuple[str, str], list[HeldOutPoint]] = {}
    for key in (key for key in keys if (folder.joinpath(*key) / PLAN_FILE).is_file()):
        found.runs[key] = collect_member(folder.joinpath(*key))
        rows = _last_rows(found.runs[key])
        if rows and "/".join(key) not in found.record.failed:
            last[key] = rows
    everywhere = [{row.source for row in rows} for rows in last.values()]
    # A mean is of the same text at every point, or points could not be compared.
    common = set.intersection(*everywhere) if everywhere else set()
    found.sources = tuple(sorted(common))
    found.left_out = tuple(sorted(set().union(*everywhere) - common))
    found.endings = {key: _ending(rows, found.sources) for key, rows in last.items()}
    return found


def _last_rows(run: MemberRun) -> list[HeldOutPoint]:
    """Return the held-out rows after a run's last step; none if its plan is not trained to the end."""
    if run.plan is None or not run.held_out or len(run.train) < sum(phase.steps for phase in run.plan.phases):
        return []
    return [row for row in run.held_out if row.tokens == run.train[-1].tokens]


def _ending(rows: Sequence[HeldOutPoint], sources: Sequence[str]) -> Ending:
    by_source = {row.source: (row.loss, row.bits_per_byte, row.accuracy) for row in rows}
    columns = zip(*(by_source[source] for source in sources), strict=True) if sources else [()] * 3
    means = [math.fsum(column) / len(column) if column else math.nan for column in columns]
    return Ending(means[0], means[1], means[2], rows[0].tokens, by_source)


def member_curves(runs: SweepRuns) -> list[MemberCurve]:
    """Return each member's curve, in the sweep's order of members."""
    return [_curve(runs, member) for member in runs.record.members]


def _curve(runs: SweepRuns, member: str) -> MemberCurve:
    direction = next((run.direction for (_, name), run in runs.runs.items() if name == member), "unknown")
    axes = tuple(axis for axis in runs.record.axes if member in axis.touches and not axis.is_seed)
    unit = BITS if direction == "causal" else NATS
    places = [runs.record.axes.index(axis) for axis in axes]
    # Points that differ in the seed, or in what does not touch this member, fall together.
    groups: dict[tuple[str, ...], list[PointRecord]] = {}
    for point in runs.record.points:
        groups.setdefault(tuple(point.values[place] for place in places), []).append(point)
    settings = tuple(
        _setting(runs, member, dict(zip((axis.name for axis in axes), values, strict=True)), points, unit)
        for values, points in groups.items()
    )
    valued = [setting for setting in settings if setting.value is not None]
    best = min(valued, key=lambda setting: setting.value or 0.0, default=None)
    own = next((setting for setting in settings if setting.own), None)
    remarks = [f"{setting.label}: {setting.failed}" for setting in settings if setting.failed]
    if best is not None:
        edges = edge_remarks(axes, best) if len(settings) > 1 else []
        remarks = [*edges, *noise_remarks(best, valued, unit), *remarks]
    return MemberCurve(member, direction, unit, axes, settings, best, own, tuple(remarks))


def _setting(runs: SweepRuns, member: str, values: dict[str, str], points: Sequence[PointRecord], unit: str) -> Setting:
    seed_place = next((place for place, axis in enumerate(runs.record.axes) if axis.is_seed), None)
    folders = {"" if seed_place is None else point.values[seed_place]: point.runs[member] for point in points}
    keys = {seed: (folder, member) for seed, folder in folders.items()}
    endings = {seed: runs.endings[key] for seed, key in keys.items() if key in runs.endings}
    by_seed = {seed: end.bits_per_byte if unit == BITS else end.loss for seed, end in endings.items()}
    failed = next((runs.record.failed[name] for name in map("/".join, keys.values()) if name in runs.record.failed), "")
    if not failed and len(endings) < len(folders):
        failed = f"{len(folders) - len(endings)} of {len(folders)} runs are not finished"
    elif not failed and not runs.sources:
        failed = "not comparable: no source is in the mixture of every point"
    elif not failed and not all(map(math.isfinite, by_seed.values())):
        failed = "its held-out loss is not finite"
    return Setting(values, by_seed, endings, folders, any(point.own for point in points), failed)


def edge_remarks(axes: Sequence[AxisRecord], best: Setting) -> list[str]:
    """Return a sentence for each numeric axis on which the best setting is the first or the last value."""
    remarks = []
    for axis in axes:
        numbers = sorted(number for number in axis.numbers if number is not None)
        here = axis.numbers[axis.values.index(best.values[axis.name])]
        if len(numbers) < len(axis.numbers) or here not in (numbers[0], numbers[-1]):
            continue
        below = here == numbers[0]
        end, next_to_it = numbers[:2] if below else numbers[:-3:-1]
        # The next value of a geometric grid; there is none beyond zero.
        hint = f": add {end * end / next_to_it:.3g}" if min(end, next_to_it) > 0 else ""
        remarks.append(
            f"Its best {axis.name}, {best.values[axis.name]}, is the {'lowest' if below else 'highest'} of the grid: "
            f"a better one may lie {'below' if below else 'above'}{hint}."
        )
    return remarks


def noise_remarks(best: Setting, settings: Sequence[Setting], unit: str) -> list[str]:
    """Return what can be said of the differences between a member's settings, in sentences.

    With several seeds each setting is compared with the best one seed by seed (one seed fixes the order, the initial
    weights and the held-out sequences of both): it is within noise where the 95 % interval of the mean difference,
    by Student's t, includes zero.
    """
    others = [setting for setting in settings if setting is not best]
    if len(best.by_seed) < 2:
        if not others:
            return ["This is one seed. Another seed gives another value, and one seed cannot show by how much."]
        gaps = sorted((setting.value or 0.0) - (best.value or 0.0) for setting in others)
        return [
            f"One seed: the best is {gaps[0]:.3f} {unit} ahead of the next, and the curve spans {gaps[-1]:.3f}, but "
            "one seed cannot show how much of that is noise. Add --over seed=1,2,3."
        ]
    spread = f"{best.spread:.3f} {unit} (standard deviation over {len(best.by_seed)} seeds)"
    if not others:
        return [f"It varies by {spread}."]
    within = [setting.label for setting in others if not _is_worse(setting, best)]
    told = f"{'; '.join(within)} {'is' if len(within) == 1 else 'are'}" if within else "none of the other settings is"
    return [
        f"The best varies by {spread}. Compared seed by seed, {told} within noise of the best (95 %, Student's t). The "
        "best was chosen from the same runs, so its value is optimistic."
    ]


def _is_worse(other: Setting, best: Setting) -> bool:
    """Return whether another setting is worse than the best beyond what seeds explain."""
    differences = [other.by_seed[seed] - best.by_seed[seed] for seed in best.by_seed]
    half = stats.t.ppf(0.975, len(differences) - 1) * stdev(differences) / math.sqrt(len(differences))
    return bool(mean(differences) > half)


def sweep_remarks(runs: SweepRuns) -> list[str]:
    """Return what holds for the whole sweep: what each axis touches, what was read, on which text it was measured."""
    record, remarks = runs.record, []
    for axis in record.axes:
        others = [member for member in record.members if member not in axis.touches]
        if others:
            remarks.append(
                f"{', '.join(axis.keys)} affects only {listed(axis.touches)}, so {listed(others)} "
                f"{'is' if len(others) == 1 else 'are'} not trained again for its values."
            )
    remarks += record.order
    plans = [run.plan for run in runs.runs.values() if run.plan is not None]
    if plans:
        asked = {sum(phase.budget_tokens for phase in plan.phases) for plan in plans}
        read = {round(sum(phase.planned_tokens(phase.steps) for phase in plan.phases)) for plan in plans}
        least, most = format_count(min(read)), format_count(max(read))
        span = f"{least} content tokens" if least == most else f"between {least} and {most} content tokens"
        same = f"Every run has the same budget, {format_count(min(asked))}, which is {span} in whole steps."
        remarks.append(same if len(asked) == 1 else f"The runs do not have one budget: they read {span}.")
    lengths = sorted({plan.phases[-1].seq_len for plan in plans})
    if len(lengths) > 1:
        shown = ", ".join(map(str, lengths))
        remarks.append(
            f"The held-out text is cut into sequences of {shown} tokens, so points are not measured on the same items."
        )
    if any(axis.is_seed for axis in record.axes):
        remarks.append("Each seed has its own order, initial weights, held-out sequences and held-out masks.")
    if runs.left_out:
        remarks.append(
            f"Held-out values are means over {listed(runs.sources) if runs.sources else 'no source'}; "
            f"{listed(runs.left_out)} {'is' if len(runs.left_out) == 1 else 'are'} not in every point's mixture and "
            "left out."
        )
    elif len(runs.sources) > 1:
        remarks.append(f"Held-out values are plain means over the sources {listed(runs.sources)}.")
    return remarks
