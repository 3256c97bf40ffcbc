"""Which study a word means: a recipe, a preset, a folder of runs, or a name below `runs/`.

Every verb and the Python API ask here, so that all of them take every form. A folder of runs needs no recipe file: the
plans in it hold the data, the phases and the objectives. Imports no torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from seqpair.errors import CheckpointError, RecipeError
from seqpair.paths import CHECKPOINTS_FOLDER, PLAN_FILE, run_folder, study_folder
from seqpair.recipe.data_spec import DataSpec
from seqpair.recipe.load import find_recipe, load_recipe, preset_names
from seqpair.recipe.phases import training_order
from seqpair.recipe.plan import Plan
from seqpair.recipe.schema import Recipe
from seqpair.text import nearest

if TYPE_CHECKING:
    from seqpair.data.prepared import Prepared
    from seqpair.data.store.counts import PreparedStats

RUNS_FOLDER = Path(str(Recipe.model_fields["runs"].default))
STUDY_FORMS = f"a recipe file, a preset's name, a study's or a run's folder, or a name below {RUNS_FOLDER}/"
_FIRST_MEMBERS = ("encoder", "decoder")


@dataclass(frozen=True)
class RunPlace:
    """A member's run; the folder need not exist yet if a recipe names the run.

    Attributes:
        member: The member's name.
        path: `<runs>/<study>/<member>`.
        recipe: The recipe that names it, if one was given.
    """

    member: str
    path: Path
    recipe: Recipe | None = None

    def plan(self) -> Plan:
        """Return the plan that the run was started with, or the recipe's plan if the run was not started.

        A run that was moved to another folder gets a plan that names that folder.

        Raises:
            CheckpointError: The run's plan cannot be read.
        """
        from seqpair.data.store.counts import plan_member

        path = self.path / PLAN_FILE
        if self.recipe is not None and not path.is_file():
            return plan_member(self.recipe, self.member)
        try:
            plan = Plan.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            raise CheckpointError(
                f"the plan of the run {self.path} cannot be read",
                seen=str(error).splitlines()[0],
                allowed="the plan.json that `seqpair train` wrote",
                fix="name the recipe instead of the run's folder, or put the file back",
            ) from error
        if run_folder(plan).resolve() == self.path.resolve():
            return plan
        study = self.path.resolve().parent
        return plan.model_copy(update={"runs": str(study.parent), "study": study.name, "member": self.member})


@dataclass(frozen=True)
class StudyPlace:
    """A study that was found, and its runs.

    Attributes:
        name: Its name.
        folder: `<runs>/<study>`; it need not exist yet if a recipe was given.
        runs: The runs of its members; of a run's folder that run only.
        recipe: The recipe; None where a folder of runs was given.
    """

    name: str
    folder: Path
    runs: tuple[RunPlace, ...]
    recipe: Recipe | None = None

    @property
    def members(self) -> list[str]:
        """Return the members' names."""
        return [run.member for run in self.runs]

    def run(self, member: str = "") -> RunPlace:
        """Return a member's run; without a name the run of the only member.

        Raises:
            RecipeError: There is no such member, or there are several and none was named.
        """
        if not member and len(self.runs) > 1:
            raise RecipeError(
                f"the study '{self.name}' has {len(self.runs)} members, and one is needed",
                seen="no --member",
                allowed=", ".join(self.members),
                fix=f"add --member {self.members[0]}",
            )
        return self.chosen([member] if member else [])[0]

    def chosen(self, members: Sequence[str] = ()) -> list[RunPlace]:
        """Return the runs of these members, all if empty.

        Raises:
            RecipeError: There is no such member.
        """
        for name in members:
            if name not in self.members:
                raise RecipeError(
                    f"the study '{self.name}' has no member '{name}'{nearest(name, self.members)}",
                    seen=name,
                    allowed=", ".join(self.members),
                    fix="correct the member's name",
                )
        return [run for run in self.runs if not members or run.member in members]

    def plans(self, members: Sequence[str] = ()) -> dict[str, Plan]:
        """Return plans by member: what the recipe gives now, or what the runs of a folder were started with.

        Raises:
            RecipeError: There is no such member, or the recipe cannot be resolved.
            CheckpointError: A run's plan cannot be read.
            StoreError: A store's manifest is damaged.
        """
        from seqpair.data.store.counts import plan_members

        runs = self.chosen(members)
        if self.recipe is not None:
            return plan_members(self.recipe, [run.member for run in runs])
        return {run.member: run.plan() for run in runs}

    def plan(self, member: str = "") -> Plan:
        """Return one member's plan; see `run` and `plans`."""
        name = self.run(member).member
        return self.plans([name])[name]

    def training_order(self, members: Sequence[str] = ()) -> list[str]:
        """Return members so that each comes after the one it starts from.

        Args:
            members: Only these, and those that they start from; all if empty.
        """
        self.chosen(members)
        if self.recipe is not None:
            return training_order(self.recipe, members)
        starts = {name: plan.start.member if plan.start else None for name, plan in self.plans().items()}
        order: list[str] = []
        for name in members or self.members:
            chain: list[str] = []
            here: str | None = name
            while here in starts and here not in order:
                chain.append(here)
                here = starts[here]
            order += reversed(chain)
        return order

    @property
    def data(self) -> DataSpec:
        """Return the sources, the tokenizer and the folder of stores.

        Raises:
            RecipeError: The runs of a folder do not share them.
        """
        if self.recipe is not None:
            return self.recipe.data
        found = {
            name: DataSpec(sources=plan.sources, tokenizer=plan.tokenizer, stores=plan.store_folder)
            for name, plan in self.plans().items()
        }
        first = found[self.members[0]]
        others = [name for name, data in found.items() if data != first]
        if others:
            raise RecipeError(
                f"the runs in {self.folder} were not trained on the same data",
                seen=f"{self.members[0]} against {', '.join(others)}",
                fix=f"name one run, such as {self.runs[0].path}",
            )
        return first

    @property
    def source_folder(self) -> Path | None:
        """Return the folder that relative paths of sources start from; None is the current folder."""
        return None if self.recipe is None else self.recipe.folder

    def counts(self) -> PreparedStats | None:
        """Return the counts of the training stores at the phases' lengths; None if they are not prepared.

        Raises:
            StoreError: An index or a manifest is damaged.
        """
        from seqpair.data.store.counts import counts_of, stats_for

        if self.recipe is not None:
            return counts_of(self.recipe)
        lengths = {phase.seq_len for plan in self.plans().values() for phase in plan.phases}
        return stats_for(self.data.sources, self.data.tokenizer, Path(self.data.stores), lengths)

    def open_data(self, *, verify: bool = False) -> Prepared:
        """Open the prepared stores and the tokenizer; with `verify`, compare the SHA-256 of every file.

        Raises:
            StoreError: They are not prepared, or damaged.
        """
        from seqpair.data.prepared import open_prepared

        return open_prepared(self.data.sources, self.data.tokenizer, Path(self.data.stores), verify=verify)

    def require_recipe(self, purpose: str) -> Recipe:
        """Return the recipe.

        Args:
            purpose: Why the plans of a folder do not suffice, as a sentence without a final stop.

        Raises:
            RecipeError: A folder of runs was given.
        """
        if self.recipe is not None:
            return self.recipe
        origins = {origin.split(":")[0] for origin in self.runs[0].plan().origins.values()}
        named = sorted(
            origin for origin in origins if origin.startswith(("file ", "preset ")) and "preset _" not in origin
        )
        raise RecipeError(
            purpose,
            seen=f"{self.folder}, a folder of runs",
            allowed="a recipe file or a preset's name",
            fix=f"name the recipe; these plans were made from {', '.join(named) or 'a recipe that is not named'}",
        )


def find_study(given: str | Path, overrides: Sequence[str] = ()) -> StudyPlace:
    """Return the study that a word means.

    A recipe file comes first, then a folder that contains runs, then a preset, then a name below `runs/`.

    Args:
        given: A recipe file, a preset's name, a study's folder, a run's folder, or a name below `runs/`.
        overrides: `--set` assignments; they need a recipe.

    Raises:
        RecipeError: There is no such study, the recipe is not valid, or `overrides` meet a folder.
    """
    name = str(given)
    if not name.strip():
        raise RecipeError("the name of a study is empty", seen=repr(name), allowed=STUDY_FORMS)
    folder = Path(name).expanduser()
    is_plan = folder.name == PLAN_FILE
    folder, recipe_path = (folder.parent, None) if is_plan else (folder, find_recipe(name))
    for place in (folder, *(() if recipe_path else (RUNS_FOLDER / name,))):
        if runs := _runs_in(place):
            if overrides and recipe_path is None:
                raise RecipeError(
                    "--set changes a recipe, and the plans of runs do not change",
                    seen=f"--set {overrides[0]} with the folder {place}",
                    fix="leave --set out, or name the recipe",
                )
            if not overrides:
                study = runs[0].path.resolve().parent if _is_run(place) else place
                return StudyPlace(study.resolve().name, study, runs)
    if recipe_path is None:
        raise _not_found(name, folder)
    recipe = load_recipe(name, overrides)
    study = study_folder(recipe)
    return StudyPlace(recipe.name, study, tuple(RunPlace(one, study / one, recipe) for one in recipe.members), recipe)


def find_study_folder(given: str | Path, overrides: Sequence[str] = ()) -> Path:
    """Return the folder of a study, also where nothing has run in it yet, or a folder of several studies.

    Raises:
        RecipeError: As `find_study`, where it is no folder.
    """
    folder = Path(given).expanduser()
    if folder.is_dir() and not overrides and not _is_run(folder) and find_recipe(str(given)) is None:
        return folder
    return find_study(given, overrides).folder


def _is_run(folder: Path) -> bool:
    return (folder / PLAN_FILE).is_file() or (folder / CHECKPOINTS_FOLDER).is_dir()


def _runs_in(folder: Path) -> tuple[RunPlace, ...]:
    """Return the run that a folder is, or the runs that lie in it, encoder and decoder first."""
    if _is_run(folder):
        return (RunPlace(folder.resolve().name, folder),)
    inside = [path for path in folder.iterdir() if _is_run(path)] if folder.is_dir() else []
    order = {name: place for place, name in enumerate(_FIRST_MEMBERS)}
    inside.sort(key=lambda path: (order.get(path.name, len(order)), path.name))
    return tuple(RunPlace(path.name, path) for path in inside)


def _not_found(name: str, folder: Path) -> RecipeError:
    """Return the error for a word that means no study, with the nearest word that does."""
    if folder.is_dir():
        near = next(_studies_near(folder), None)
        return RecipeError(
            "there is no run in this folder" + (f" (did you mean '{near}'?)" if near else ""),
            seen=name,
            allowed=STUDY_FORMS,
            fix="`seqpair train` makes runs in <runs>/<study>/<member>",
        )
    if folder.exists() or folder.is_symlink():
        what = "a link to nothing" if folder.is_symlink() else "a device, a pipe or a socket"
        return RecipeError("this is neither a file nor a folder", seen=f"{name}: {what}", allowed=STUDY_FORMS)
    below = [path.name for path in RUNS_FOLDER.iterdir() if _runs_in(path)] if RUNS_FOLDER.is_dir() else []
    beside = [path for path in folder.parent.iterdir()] if folder.parent.is_dir() else []
    files = [str(path) for path in beside if path.suffix in (".yaml", ".yml") or (path.is_dir() and _runs_in(path))]
    return RecipeError(
        f"there is no study '{name}'{nearest(name, [*preset_names(), *below, *files])}",
        seen=name,
        allowed=f"{STUDY_FORMS}; presets are {', '.join(preset_names())}",
        fix="check the spelling, or write a recipe with `seqpair init`",
    )


def _studies_near(folder: Path) -> Iterator[Path]:
    """Yield folders around this one that are studies or runs: those above it, then those below it."""
    above = (path for path in folder.parents if path.name and _runs_in(path))
    below = (path for path in sorted(folder.glob("*")) if path.is_dir() and _runs_in(path))
    return itertools.chain(above, below)
