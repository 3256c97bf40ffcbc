"""Which runs a command means: a run's folder, a study's folder, or a recipe's members.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from seqpair.errors import CheckpointError, RecipeError
from seqpair.paths import CHECKPOINTS_FOLDER, PLAN_FILE, study_folder
from seqpair.recipe.load import load_recipe
from seqpair.recipe.plan import Plan
from seqpair.text import nearest

if TYPE_CHECKING:
    from seqpair.recipe.schema import Recipe


@dataclass(frozen=True)
class RunFolder:
    """A member's run; the folder need not be there yet if it is a recipe's.

    Attributes:
        member: The member's name.
        path: `<runs>/<study>/<member>`.
        recipe: The recipe that names it, if one was given.
    """

    member: str
    path: Path
    recipe: Recipe | None = None

    def plan(self) -> Plan:
        """Return the plan that the run was started with, or that its recipe gives if it was not started.

        Raises:
            CheckpointError: The run's plan cannot be read.
        """
        from seqpair.data.store.planning import plan_member

        path = self.path / PLAN_FILE
        if self.recipe is not None and not path.is_file():
            return plan_member(self.recipe, self.member)
        try:
            return Plan.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            raise CheckpointError(
                f"the plan of the run {self.path} cannot be read",
                seen=str(error).splitlines()[0],
                allowed="the plan.json that `seqpair train` wrote",
                fix="name the recipe instead of the run's folder, or put the file back",
            ) from error


def find_runs(target: str, member: str = "", overrides: Sequence[str] = ()) -> list[RunFolder]:
    """Return the runs that an argument means.

    Args:
        target: A run's folder, a study's folder, a recipe file or a preset's name.
        member: Only this one.
        overrides: `--set` assignments; they belong to a recipe.

    Raises:
        RecipeError: It is none of these, or has no such member.
    """
    found = _in_folder(Path(target)) if not overrides else []
    if not found and Path(target).is_dir() and "/" in target:
        raise RecipeError(
            "there is no run in this folder",
            seen=target,
            allowed=f"a run's folder (with {CHECKPOINTS_FOLDER}/ in it), a study's folder, or a recipe",
            fix="`seqpair train` makes runs in <runs>/<study>/<member>",
        )
    if not found:
        recipe = load_recipe(target, overrides)
        study = study_folder(recipe)
        found = [RunFolder(name, study / name, recipe) for name in recipe.members]
    chosen = [run for run in found if member in ("", run.member)]
    if not chosen:
        names = [run.member for run in found]
        raise RecipeError(
            f"there is no such member{nearest(member, names)}",
            seen=member,
            allowed=", ".join(names),
            fix="mend --member",
        )
    return chosen


def _in_folder(folder: Path) -> list[RunFolder]:
    """Return the run that a folder is, or the runs that lie in it."""
    if (folder / CHECKPOINTS_FOLDER).is_dir():
        return [RunFolder(folder.resolve().name, folder)]
    inside = sorted(folder.iterdir()) if folder.is_dir() else []
    return [RunFolder(path.name, path) for path in inside if (path / CHECKPOINTS_FOLDER).is_dir()]
