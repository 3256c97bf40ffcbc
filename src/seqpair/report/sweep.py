"""What a sweep left on disk, and each member's curve: its best setting, the grid's edge, and what is within noise.

A setting is a combination of all values but the seed; what several seeds gave of it is averaged, seed by seed compared
with the best setting. Members are never compared with one another here: a decoder is judged by its bits per byte, an
encoder by its loss on masked tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

from pydantic import BaseModel, ConfigDict, ValidationError

from seqpair.errors import EvaluationError
from seqpair.paths import PLAN_FILE
from seqpair.recipe.plan import Plan
from seqpair.report.member import HeldOutPoint, MemberRun, collect_member
from seqpair.text import format_count

RECORD_NAME = "sweep.json"


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
        study: The recipe's name.
        sweep: The sweep's name.
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
    failed: dict[str, str]
    order: tuple[str, ...]
    versions: dict[str, str]
    created: str


@dataclass(frozen=True)
class Ending:
    """A run's held-out result at the end of training, each the plain mean over the sources.

    Attributes:
        loss: Nats per predicted token.
        bits_per_byte: Of the predicted tokens.
        accuracy: Share of predicted tokens that are found.
        tokens: Content tokens read.
        sources: The same by source: loss, bits per byte, accuracy.
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

    def run_of(self, point: PointRecord, member: str) -> tuple[str, str]:
        """Return the name of a member's run at a point."""
        return point.runs[member], member


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
    last: dict[tuple[str, str], list[HeldOutPoint]] = {}
    for point in found.record.points:
        for member in found.record.members:
            key = found.run_of(point, member)
            if key in found.runs or not (folder / key[0] / member / PLAN_FILE).is_file():
                continue
            found.runs[key] = collect_member(folder / key[0] / member)
            rows = _last_rows(found.runs[key])
            if rows and "/".join(key) not in found.record.failed:
                last[key] = rows
    everywhere = [{row.source for row in rows} for rows in last.values()]
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
    means = [
        math.fsum(by_source[source][column] for source in sources) / len(sources) if sources else math.nan
        for column in range(3)
    ]
    return Ending(means[0], means[1], means[2], rows[0].tokens, by_source)


BITS, NATS = "bits per byte", "nats per masked token"
_T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Two-sided 95 % points of Student's t by degrees of freedom; from 10 on that of 10 is taken, which is wider."""
_T_95_OF_TEN = 2.228


@dataclass(frozen=True)
class Setting:
    """One combination of values for one member, over the seeds.

    Attributes:
        values: The values of the axes that touch the member, seeds apart, by axis.
        numbers: The same as numbers, null where they are none.
        by_seed: The member's metric for each seed (`""` without a seed axis); lower is better.
        endings: The whole ends of training, for each seed.
        runs: The folder of each seed's run.
        own: Whether it is what the recipe itself says.
        failed: Why it has no value, or empty.
    """

    values: dict[str, str]
    numbers: dict[str, float | None]
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
        member: Its name.
        direction: Its attention direction.
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


def member_curves(runs: SweepRuns) -> list[MemberCurve]:
    """Return each member's curve, in the sweep's order of members."""
    return [_curve(runs, member) for member in runs.record.members]


def _curve(runs: SweepRuns, member: str) -> MemberCurve:
    directions = [run.direction for (_, name), run in runs.runs.items() if name == member]
    direction = directions[0] if directions else "unknown"
    axes = tuple(axis for axis in runs.record.axes if member in axis.touches and not axis.is_seed)
    unit = BITS if direction == "causal" else NATS
    settings = _settings(runs, member, axes, unit)
    valued = [setting for setting in settings if setting.value is not None]
    best = min(valued, key=lambda setting: setting.value or 0.0, default=None)
    own = next((setting for setting in settings if setting.own), None)
    remarks = [f"{setting.label}: {setting.failed}" for setting in settings if setting.failed]
    if best is not None and len(settings) > 1:
        remarks = [*edge_remarks(axes, best), *noise_remarks(best, valued, unit), *remarks]
    elif best is not None:
        remarks = [*noise_remarks(best, valued, unit), *remarks]
    return MemberCurve(member, direction, unit, axes, tuple(settings), best, own, tuple(remarks))


def _settings(runs: SweepRuns, member: str, axes: Sequence[AxisRecord], unit: str) -> list[Setting]:
    """Return a member's settings in the order of the points; seeds and points that share a run fall together."""
    groups: dict[tuple[str, ...], list[PointRecord]] = {}
    places = [runs.record.axes.index(axis) for axis in axes]
    for point in runs.record.points:
        groups.setdefault(tuple(point.values[place] for place in places), []).append(point)
    return [_setting(runs, member, axes, values, points, unit) for values, points in groups.items()]


def _setting(
    runs: SweepRuns,
    member: str,
    axes: Sequence[AxisRecord],
    values: Sequence[str],
    points: Sequence[PointRecord],
    unit: str,
) -> Setting:
    seed_place = next((place for place, axis in enumerate(runs.record.axes) if axis.is_seed), None)
    folders = {"" if seed_place is None else point.values[seed_place]: point.runs[member] for point in points}
    endings = {
        seed: runs.endings[folder, member] for seed, folder in folders.items() if (folder, member) in runs.endings
    }
    reasons = [runs.record.failed.get(f"{folder}/{member}") for folder in folders.values()]
    failed = next((reason for reason in reasons if reason), "")
    if not failed and len(endings) < len(folders):
        failed = f"{len(folders) - len(endings)} of {len(folders)} runs are not finished"
    if not failed and not runs.sources:
        failed = "not comparable: no source is in the mixture of every point"
    by_seed = {seed: end.bits_per_byte if unit == BITS else end.loss for seed, end in endings.items()}
    if not failed and not all(map(math.isfinite, by_seed.values())):
        failed = "its held-out loss is not finite"
    return Setting(
        values={axis.name: value for axis, value in zip(axes, values, strict=True)},
        numbers={axis.name: axis.numbers[axis.values.index(value)] for axis, value in zip(axes, values, strict=True)},
        by_seed=by_seed,
        endings=endings,
        runs=folders,
        own=any(point.own for point in points),
        failed=failed,
    )


def edge_remarks(axes: Sequence[AxisRecord], best: Setting) -> list[str]:
    """Return a sentence for each numeric axis on which the best setting is the first or the last value."""
    remarks = []
    for axis in axes:
        numbers = [number for number in axis.numbers if number is not None]
        here = best.numbers[axis.name]
        if len(numbers) < len(axis.numbers) or here not in (min(numbers), max(numbers)):
            continue
        below = here == min(numbers)
        ends = sorted(numbers)[:2] if below else sorted(numbers)[::-1][:2]
        hint = f": add {ends[0] * ends[0] / ends[1]:.3g}" if min(ends) > 0 else ""
        remarks.append(
            f"Its best {axis.name}, {best.values[axis.name]}, is the {'lowest' if below else 'highest'} of the grid: "
            f"a better one may lie {'below' if below else 'above'}{hint}."
        )
    return remarks


def noise_remarks(best: Setting, settings: Sequence[Setting], unit: str) -> list[str]:
    """Return what can be said of the differences between a member's settings, in sentences.

    With several seeds each setting is held against the best one seed by seed (one seed fixes the order, the initial
    weights and the held-out sequences of both): it is within noise where the 95 % interval of the mean difference,
    by Student's t, includes zero.
    """
    others = [setting for setting in settings if setting is not best]
    if len(best.by_seed) < 2:
        if not others:
            return ["One seed: another one would give another value, and nothing here says how far away."]
        gaps = sorted((setting.value or 0.0) - (best.value or 0.0) for setting in others)
        return [
            f"One seed: the best is {gaps[0]:.3f} {unit} ahead of the next, and the curve spans {gaps[-1]:.3f}, but "
            "nothing here says how much of that another seed would change. Add --over seed=1,2,3."
        ]
    spread = f"{best.spread:.3f} {unit} (standard deviation over {len(best.by_seed)} seeds)"
    if not others:
        return [f"The seeds move it by {spread}."]
    within = [setting.label for setting in others if not _separated(best, setting)]
    told = (
        "none of the other settings is" if not within else f"{'; '.join(within)} {'is' if len(within) == 1 else 'are'}"
    )
    return [
        f"At its best the seeds move it by {spread}. Compared seed by seed, {told} within noise of the best (95 %, "
        "Student's t; the best was chosen from the same runs, which flatters it)."
    ]


def _separated(best: Setting, other: Setting) -> bool:
    """Return whether another setting is worse than the best beyond what seeds explain."""
    differences = [other.by_seed[seed] - best.by_seed[seed] for seed in best.by_seed]
    error = stdev(differences) / math.sqrt(len(differences))
    return mean(differences) - _T_95.get(len(differences) - 1, _T_95_OF_TEN) * error > 0


def sweep_remarks(runs: SweepRuns) -> list[str]:
    """Return the sentences: what each axis touches, what was read, on which text it was measured."""
    record = runs.record
    remarks = []
    for axis in record.axes:
        if len(axis.touches) < len(record.members):
            others = [member for member in record.members if member not in axis.touches]
            remarks.append(
                f"{', '.join(axis.keys)} touches {_listed(axis.touches)} only: {_listed(others)} "
                f"{'is' if len(others) == 1 else 'are'} not trained again along it."
            )
    remarks += record.order
    plans = [run.plan for run in runs.runs.values() if run.plan is not None]
    remarks += _budget(plans)
    lengths = {plan.phases[-1].seq_len for plan in plans}
    if len(lengths) > 1:
        shown = ", ".join(map(str, sorted(lengths)))
        remarks.append(
            f"The held-out text is cut into sequences of {shown} tokens: points do not answer the same items."
        )
    if any(axis.is_seed for axis in record.axes):
        remarks.append("Each seed has its own order, initial weights, held-out sequences and held-out masks.")
    if runs.left_out:
        remarks.append(
            f"Held-out values are means over {_listed(runs.sources) or 'no source'}; {_listed(runs.left_out)} "
            f"{'is' if len(runs.left_out) == 1 else 'are'} not in every point's mixture and left out."
        )
    elif len(runs.sources) > 1:
        remarks.append(f"Held-out values are plain means over the sources {_listed(runs.sources)}.")
    return remarks


def _budget(plans: Sequence[Plan]) -> list[str]:
    if not plans:
        return []
    asked = {sum(phase.budget_tokens for phase in plan.phases) for plan in plans}
    read = {round(sum(phase.planned_tokens(phase.steps) for phase in plan.phases)) for plan in plans}
    least, most = format_count(min(read)), format_count(max(read))
    span = f"{least} content tokens" if least == most else f"between {least} and {most} content tokens"
    if len(asked) == 1:
        return [f"Every run has the same budget, {format_count(asked.pop())}, which is {span} in whole steps."]
    return [f"The runs do not have one budget: they read {span}."]


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else list(names))
