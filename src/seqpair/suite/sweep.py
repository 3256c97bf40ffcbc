"""A whole sweep: plan its grid, train every run, compare, and state the pair twice; finished runs are skipped.

A point is an ordinary study with a few keys set. A key that changes nothing of what a member learns does not give that
member another run: the points that differ in such keys only share its one run.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seqpair.checkpoint.catalog import latest_valid
from seqpair.data.prepared import Prepared
from seqpair.data.store.counts import plan_members
from seqpair.errors import NotFiniteError, RecipeError, without_secrets
from seqpair.files import write_json, write_text
from seqpair.paths import SWEEPS_FOLDER, run_folder, study_folder
from seqpair.recipe.axes import SEED_KEY, Axis, AxisValue, read_axes, require_label, require_not_set, require_reached
from seqpair.recipe.diff import diff_plans, plan_digest, require_declared
from seqpair.recipe.load import load_recipe
from seqpair.recipe.phases import training_order
from seqpair.recipe.plan import Plan
from seqpair.recipe.schema import Recipe
from seqpair.report.sweep import (
    RECORD_NAME,
    AxisRecord,
    PointRecord,
    SweepRecord,
    collect_sweep,
    member_curves,
    sweep_remarks,
)
from seqpair.report.sweep_page import PairChoice, choose_pairs, sweep_as_json, write_sweep_page
from seqpair.suite.starts import start_finder
from seqpair.suite.study import evaluate_part, export_part, prepare_part, require_same_order
from seqpair.suite.training import is_trained, train_runs
from seqpair.text import format_count, format_seconds, note

RESULTS_NAME = "results.json"
UNTOUCHED = "base"
"""The folder of runs that no axis touches."""

_Found = tuple[tuple[AxisValue, ...], dict[str, Plan], bool]
"""A point: its values, each member's plan, and whether they learn what the recipe itself says, seed apart."""


@dataclass(frozen=True)
class SweepRequest:
    """What a command asks for.

    Attributes:
        recipe: A recipe file or a preset's name.
        overrides: `--set` assignments for all points.
        over, variants: What is varied; see `read_axes`.
        members: Only these members and those they start from; all of the recipe's if empty.
        name: The sweep's name; if empty, the axes' names.
    """

    recipe: str
    overrides: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    name: str = ""

    @property
    def command(self) -> str:
        """Return the command that asks for the same."""
        words = ["seqpair", "sweep", self.recipe]
        for option, values in (("--over", self.over), ("--variants", self.variants), ("--set", self.overrides)):
            words += [word for value in values for word in (option, value)]
        words += ["--members", ",".join(self.members)] if self.members else []
        return without_secrets(shlex.join([*words, "--name", self.name] if self.name else words))


@dataclass(frozen=True)
class Sweep:
    """A planned sweep.

    Attributes:
        folder: `<runs>/<study>/sweeps/<name>`.
        recipe: The recipe without any swept value.
        record: What will be written of it; what only its runs can tell is empty.
        plans: Every member's plan for each point; its `study` is the folder of the run, which points may share.
    """

    folder: Path
    recipe: Recipe
    record: SweepRecord
    plans: tuple[dict[str, Plan], ...]

    @property
    def runs(self) -> list[Plan]:
        """Return the plans of all runs, each once, point after point, a member after the one it starts from."""
        return list({(plan.study, plan.member): plan for point in self.plans for plan in point.values()}.values())


@dataclass
class SweepOutcome:
    """How a sweep ended.

    Attributes:
        folder: Its folder.
        page: The page, if it was written.
        failed: Runs that diverged, as `slug/member`, with the reason.
        signal_number: The signal that stopped it, if one did.
    """

    folder: Path
    page: Path | None
    failed: dict[str, str]
    signal_number: int | None = None


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep before it is trained: its folder, its tokens, and how far it is."""

    folder: Path
    member: str
    tokens: float
    state: str


def plan_sweep(request: SweepRequest) -> Sweep:
    """Resolve every point of a sweep and check what the points must share.

    Raises:
        RecipeError: What is varied is not of the right form; a point is no valid recipe; a point differs from the
            recipe in more than what is swept; its members differ in more than their objective; two points would
            train the same.
    """
    axes = read_axes(request.over, request.variants)
    require_not_set(axes, request.overrides)
    name = request.name or "-".join(axis.name for axis in axes)
    require_label(name, "a sweep's name")
    recipe = load_recipe(request.recipe, request.overrides)
    members = tuple(training_order(recipe, request.members))
    base = plan_members(recipe, members)
    folder = study_folder(recipe) / SWEEPS_FOLDER / name
    own = {None: base}
    found: list[_Found] = []
    for values in itertools.product(*(axis.values for axis in axes)):
        slug = _slug(axes, values, axes)
        assignments = [text for value in values for text in value.assignments]
        place = [f"name={slug}", f'runs="{folder}"']
        point = load_recipe(request.recipe, [*request.overrides, *assignments, *place])
        plans = plan_members(point, members)
        for member, plan in plans.items():
            require_reached(diff_plans(base[member], plan), [k for axis in axes for k in axis.keys], recipe, slug)
            require_declared(diff_plans(plans[members[0]], plan), (f"{slug}/{members[0]}", f"{slug}/{member}"))
        seed = next((value.text for axis, value in zip(axes, values, strict=True) if axis.is_seed), None)
        if seed not in own:  # with another seed the recipe's own setting is the recipe with that seed
            own[seed] = plan_members(load_recipe(request.recipe, [*request.overrides, f"{SEED_KEY}={seed}"]), members)
        alike = all(plan_digest(own[seed][member]) == plan_digest(plan) for member, plan in plans.items())
        found.append((values, plans, alike))
    _require_different(axes, found, members)
    touched = {axis.name: _touched(index, found, members) for index, axis in enumerate(axes)}
    placed = tuple(_in_their_folders(axes, touched, values, plans) for values, plans, _ in found)
    record = SweepRecord(
        study=recipe.name,
        sweep=name,
        command=request.command,
        members=members,
        axes=tuple(_axis_record(axis, touched[axis.name]) for axis in axes),
        points=tuple(
            PointRecord(
                slug=_slug(axes, values, axes),
                values=tuple(value.text for value in values),
                runs={member: plan.study for member, plan in plans.items()},
                own=alike,
            )
            for (values, _, alike), plans in zip(found, placed, strict=True)
        ),
        eval_seed=_eval_seed(axes, recipe),
    )
    return Sweep(folder, recipe, record, placed)


def planned_tokens(plan: Plan) -> float:
    """Return the content tokens that a plan reads."""
    return math.fsum(phase.planned_tokens(phase.steps) for phase in plan.phases)


def _axis_record(axis: Axis, touches: tuple[str, ...]) -> AxisRecord:
    return AxisRecord(
        name=axis.name,
        keys=axis.keys,
        values=tuple(value.text for value in axis.values),
        numbers=tuple(value.number for value in axis.values),
        touches=touches,
        is_seed=axis.is_seed,
    )


def _eval_seed(axes: Sequence[Axis], recipe: Recipe) -> str | None:
    """Return the seed at which settings are compared: the recipe's own where it is in the grid, else the first."""
    seeds = next(([value.text for value in axis.values] for axis in axes if axis.is_seed), None)
    return None if seeds is None else str(recipe.seed) if str(recipe.seed) in seeds else seeds[0]


def _slug(axes: Sequence[Axis], values: Sequence[AxisValue], chosen: Sequence[Axis]) -> str:
    """Return the folder's name of a combination, by the chosen axes only."""
    pairs = [f"{axis.name}-{value.slug}" for axis, value in zip(axes, values, strict=True) if axis in chosen]
    return "__".join(pairs) or UNTOUCHED


def _in_their_folders(
    axes: Sequence[Axis], touched: dict[str, tuple[str, ...]], values: Sequence[AxisValue], plans: dict[str, Plan]
) -> dict[str, Plan]:
    """Return the plans with the study's name, that is the folder, of the run that each of them shares."""
    placed = {}
    for member, plan in plans.items():
        slug = _slug(axes, values, [axis for axis in axes if member in touched[axis.name]])
        placed[member] = plan.model_copy(update={"study": slug})
    return placed


def _touched(index: int, found: Sequence[_Found], members: Sequence[str]) -> tuple[str, ...]:
    """Return the members whose plan changes along an axis, all other values being equal."""
    touched = []
    for member in members:
        digests: dict[tuple[str, ...], set[str]] = {}
        for values, plans, _ in found:
            others = tuple(value.text for place, value in enumerate(values) if place != index)
            digests.setdefault(others, set()).add(plan_digest(plans[member]))
        if any(len(several) > 1 for several in digests.values()):
            touched.append(member)
    return tuple(touched)


def _require_different(
    axes: Sequence[Axis],
    found: Sequence[_Found],
    members: Sequence[str],
) -> None:
    """Check that no two points train the same.

    Raises:
        RecipeError: Two do: the key changes nothing that is learned, or two values mean the same.
    """
    seen: dict[tuple[str, ...], str] = {}
    for values, plans, _ in found:
        slug = _slug(axes, values, axes)
        digests = tuple(plan_digest(plans[member]) for member in members)
        if digests in seen:
            raise RecipeError(
                "two points of the sweep would train the same",
                seen=f"{seen[digests]} and {slug}, members {', '.join(members)}",
                allowed="values that change what at least one of the members learns",
                fix="cadences, names and how a run is executed change nothing that is learned; a mask rate changes "
                "nothing for a causal member",
            )
        seen[digests] = slug


def link_shared_runs(sweep: Sweep) -> None:
    """Give every point's folder a link to each run that it shares, so that it is a whole study to look at.

    A member that starts from another one finds it there too.

    Raises:
        RecipeError: Something else is in a link's place.
    """
    wanted: dict[Path, Path] = {}
    for point, plans in zip(sweep.record.points, sweep.plans, strict=True):
        for place in dict.fromkeys((point.slug, *point.runs.values())):
            for member, plan in plans.items():
                whole = place == point.slug
                if plan.study != place and (whole or _needed_in(sweep.recipe, member, place, plans)):
                    wanted[sweep.folder / place / member] = Path("..") / plan.study / member
    for link, target in wanted.items():
        if link.is_symlink() and link.readlink() == target:
            continue
        if link.exists() or link.is_symlink():
            raise RecipeError(
                "something is in the place of a shared run",
                seen=link,
                allowed=f"a link to {target}",
                fix="move it away",
            )
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)


def _needed_in(recipe: Recipe, member: str, place: str, plans: Mapping[str, Plan]) -> bool:
    """Return whether a run in this folder starts, directly or not, from the member."""
    for other, plan in plans.items():
        here: str | None = recipe.members[other].source if plan.study == place else None
        while here is not None:
            if here == member:
                return True
            here = recipe.members[here].source
    return False


def planned_runs(sweep: Sweep) -> list[PlannedRun]:
    """Return every run of a sweep, each once, with what is there of it."""
    return [PlannedRun(run_folder(plan), plan.member, planned_tokens(plan), _state(plan)) for plan in sweep.runs]


def _state(plan: Plan) -> str:
    newest = latest_valid(run_folder(plan))
    if newest is None:
        return "to do"
    return "trained already" if is_trained(plan) else f"newest checkpoint {newest.name}"


def run_sweep(request: SweepRequest, *, workers: int = 1) -> SweepOutcome:
    """Run a sweep; repeating the call resumes it where it stopped.

    A run whose loss is no longer finite is recorded as diverged, and the sweep continues: for a learning rate that is
    too high that is a result. Only the runs at the shared setting and at each member's best are exported and evaluated.

    Args:
        request: What is asked for.
        workers: Runs that train at the same time, as `train_runs` has it.

    Raises:
        RecipeError: As `plan_sweep`; nothing is read or trained then.
        SeqpairError: Whatever a part complains about; earlier parts stay done.
    """
    sweep = plan_sweep(request)
    prepared = prepare_part(sweep.recipe.data)
    sweep = plan_sweep(request)  # again: with the stores there, steps follow from counts and not from estimates
    link_shared_runs(sweep)
    outcome = SweepOutcome(sweep.folder, None, {})
    outcome.signal_number = _train(sweep, prepared, outcome.failed, workers)
    if outcome.signal_number is not None:
        return outcome
    newest = [found for plan in sweep.runs if (found := latest_valid(run_folder(plan))) is not None]
    record = sweep.record.model_copy(
        update={
            "failed": outcome.failed,
            "order": _order(sweep, outcome.failed),
            "versions": newest[0].manifest.versions if newest else {},
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
    )
    write_text(sweep.folder / RECORD_NAME, record.model_dump_json(indent=1) + "\n")
    pairs = choose_pairs(record, member_curves(collect_sweep(sweep.folder)))
    _evaluate(sweep, pairs)
    runs = collect_sweep(sweep.folder)
    curves = member_curves(runs)
    write_json(sweep.folder / RESULTS_NAME, sweep_as_json(runs, curves, pairs, sweep_remarks(runs)))
    outcome.page = write_sweep_page(runs, curves, pairs)
    return outcome


def _train(sweep: Sweep, prepared: Prepared, failed: dict[str, str], workers: int) -> int | None:
    """Train what is not trained yet; return the signal that stopped it, if one did, and fill in what failed."""
    plans = sweep.runs
    to_do = {_name(plan): planned_tokens(plan) for plan in plans if not is_trained(plan)}
    began, left, done = time.monotonic(), sum(to_do.values()), 0.0

    def announce(plan: Plan) -> None:
        rate = done / (time.monotonic() - began) if done else 0.0
        ahead = f", about {format_seconds((left - done) / rate)} left" if rate and left > done else ""
        number = f"run {plans.index(plan) + 1} of {len(plans)}, {_name(plan)}"
        note(f"sweep {sweep.record.sweep}: {number}; {format_count(left - done)} tokens to go{ahead}")

    find_start = start_finder(prepared, plans)
    runs = train_runs(plans, sweep.recipe.data, prepared, find_start, workers=workers, announce=announce)
    with contextlib.closing(runs):
        for plan, trained in runs:
            name, source = _name(plan), sweep.recipe.members[plan.member].source
            done += to_do.get(name, 0.0)
            if isinstance(trained, NotFiniteError):
                of_its_start = source is not None and f"{plan.study}/{source}" in failed
                failed[name] = (
                    f"{source}, which it starts from, diverged" if of_its_start else f"diverged: {trained.what}"
                )
                note(f"{name} {failed[name]}; the sweep continues without it")
            elif not trained.finished:
                return trained.signal_number
    return None


def _name(plan: Plan) -> str:
    return f"{plan.study}/{plan.member}"


def _order(sweep: Sweep, failed: Mapping[str, str]) -> tuple[str, ...]:
    """Return what the ledgers prove of the runs that did not fail."""
    plans = [plan for plan in sweep.runs if _name(plan) not in failed]
    groups = require_same_order(plans)
    if len(plans) < 2:
        return ()
    if groups == 1:
        return (
            f"The ledgers of all {len(plans)} runs agree at every common step: the same sequences, the same order.",
        )
    return (
        f"By what is varied, or by their phases, the {len(plans)} runs fall into {groups} groups that read "
        "different sequences or cut them into other steps; within a group the ledgers agree at every common step.",
    )


def _evaluate(sweep: Sweep, pairs: Sequence[PairChoice]) -> None:
    wanted = {(folder, member) for choice in pairs for member, folder in choice.runs.items()}
    for plan in sweep.runs:
        if (plan.study, plan.member) in wanted:
            note(f"sweep {sweep.record.sweep}: evaluating {_name(plan)}")
            export_part(plan)
            evaluate_part(plan)
