"""The grid of a sweep: its points as recipes and plans, which runs they need, and what must hold between them.

A key that moves nothing of what a member learns does not give that member another run: the points that
differ in such keys only share its one run.
"""

from __future__ import annotations

import itertools
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seqpair.data.store.counts import plan_members
from seqpair.errors import RecipeError
from seqpair.paths import SWEEPS_FOLDER, study_folder
from seqpair.recipe.axes import SEED_KEY, Axis, AxisValue, read_axes, require_label, require_reached
from seqpair.recipe.diff import diff_plans, plan_digest, require_declared
from seqpair.recipe.load import load_recipe
from seqpair.recipe.phases import training_order
from seqpair.recipe.plan import Plan
from seqpair.recipe.schema import Recipe

UNTOUCHED = "base"
"""The folder of runs that no axis touches."""


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
        return shlex.join([*words, "--name", self.name] if self.name else words)


@dataclass(frozen=True)
class GridPoint:
    """One combination of values.

    Attributes:
        slug: Its folder's name.
        values: Its value on each axis.
        plans: Each member's plan; its `study` is the folder of the run, which points may share.
        own: Whether the members learn what the recipe itself says, seed apart.
    """

    slug: str
    values: tuple[AxisValue, ...]
    plans: dict[str, Plan]
    own: bool


@dataclass(frozen=True)
class Sweep:
    """A planned sweep.

    Attributes:
        name: Its name.
        folder: `<runs>/<study>/sweeps/<name>`.
        recipe: The recipe without any swept value.
        members: The members in training order.
        axes: What is varied.
        touched: For each axis, the members that learn something else along it.
        points: All combinations, the last axis running fastest.
    """

    name: str
    folder: Path
    recipe: Recipe
    members: tuple[str, ...]
    axes: tuple[Axis, ...]
    touched: dict[str, tuple[str, ...]]
    points: tuple[GridPoint, ...]

    @property
    def runs(self) -> list[Plan]:
        """Return the plans of all runs, each once, point after point, a member after the one it starts from."""
        plans = {(plan.study, plan.member): plan for point in self.points for plan in point.plans.values()}
        return list(plans.values())

    @property
    def eval_seed(self) -> str | None:
        """Return the value of the seed axis at which settings are compared; None without such an axis."""
        for axis in self.axes:
            if axis.is_seed:
                texts = [value.text for value in axis.values]
                return str(self.recipe.seed) if str(self.recipe.seed) in texts else texts[0]
        return None


def planned_tokens(plan: Plan) -> float:
    """Return the content tokens that a plan reads."""
    return math.fsum(phase.planned_tokens(phase.steps) for phase in plan.phases)


def plan_sweep(request: SweepRequest) -> Sweep:
    """Resolve every point of a sweep and check what the points must share.

    Raises:
        RecipeError: What is varied is not of the right form; a point is no valid recipe; a point differs from the
            recipe in more than what is swept; its members differ in more than their objective; two points would
            train the same.
    """
    axes = read_axes(request.over, request.variants)
    name = request.name or "-".join(axis.name for axis in axes)
    require_label(name, "a sweep's name")
    recipe = load_recipe(request.recipe, request.overrides)
    members = tuple(training_order(recipe, request.members))
    base = plan_members(recipe, members)
    folder = study_folder(recipe) / SWEEPS_FOLDER / name
    own = {None: base}
    found: list[tuple[tuple[AxisValue, ...], dict[str, Plan], bool]] = []
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
        if seed not in own:
            own[seed] = plan_members(load_recipe(request.recipe, [*request.overrides, f"{SEED_KEY}={seed}"]), members)
        alike = all(plan_digest(own[seed][member]) == plan_digest(plan) for member, plan in plans.items())
        found.append((values, plans, alike))
    _require_different(axes, found, members)
    touched = {axis.name: _touched(index, found, members) for index, axis in enumerate(axes)}
    points = tuple(
        GridPoint(_slug(axes, values, axes), values, _in_their_folders(axes, touched, values, plans), alike)
        for values, plans, alike in found
    )
    return Sweep(name, folder, recipe, members, tuple(axes), touched, points)


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


def _touched(
    index: int, found: Sequence[tuple[tuple[AxisValue, ...], dict[str, Plan], bool]], members: Sequence[str]
) -> tuple[str, ...]:
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
    found: Sequence[tuple[tuple[AxisValue, ...], dict[str, Plan], bool]],
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
    for point in sweep.points:
        for place in dict.fromkeys((point.slug, *(plan.study for plan in point.plans.values()))):
            for member, plan in point.plans.items():
                whole = place == point.slug
                if plan.study != place and (whole or _needed_in(sweep.recipe, member, place, point)):
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


def _needed_in(recipe: Recipe, member: str, place: str, point: GridPoint) -> bool:
    """Return whether a run in this folder starts, directly or not, from the member."""
    for other, plan in point.plans.items():
        here: str | None = recipe.members[other].source if plan.study == place else None
        while here is not None:
            if here == member:
                return True
            here = recipe.members[here].source
    return False
