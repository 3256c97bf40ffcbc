"""Loading a recipe: presets and files, `extends`, `--set`, validation.

Owns where recipes are found and in which order their layers are merged. Must not know step counts.
Entry points: `load_recipe`, `PRESETS_FOLDER`, `preset_names`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from seqpair.errors import RecipeError
from seqpair.recipe.faults import recipe_error
from seqpair.recipe.merge import apply_set, merge_trees, nearest, strip
from seqpair.recipe.schema import Recipe
from seqpair.recipe.yaml_text import Leaf, Tree, read_tree

PRESETS_FOLDER = Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """Return the names of all presets."""
    return sorted(path.stem for path in PRESETS_FOLDER.glob("[!_]*.yaml"))


def load_recipe(path_or_preset: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe from a file or a preset's name, with `--set` assignments on top.

    Relative paths of sources and of the tokenizer are taken from the folder of the file that states
    them (those of `--set` from the current folder) and come out absolute.

    Raises:
        RecipeError: A file that is missing or not YAML, a cycle of `extends`, an unknown key, a wrong
            value, a path of `--set` that leads nowhere.
    """
    path = _find(path_or_preset, Path.cwd(), "the command line")
    tree = _load_chain(path, ())
    for assignment in overrides:
        tree = _absolute_paths(apply_set(tree, assignment), Path.cwd())
    origins: dict[str, str] = {}
    raw = strip(tree, origins=origins)
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise recipe_error(error, raw, Recipe, origins) from error
    for leaf in _leaf_paths(recipe.model_dump(mode="json")):
        origins.setdefault(leaf, "default")
    recipe._origins = origins
    recipe._folder = Path.cwd() if path.parent == PRESETS_FOLDER else path.parent
    return recipe


def _find(name: str, folder: Path, asked_by: str) -> Path:
    path = Path(name).expanduser()
    path = path if path.is_absolute() else folder / path
    if path.is_file():
        return path.resolve()
    if "/" not in name and (preset := PRESETS_FOLDER / f"{name}.yaml").is_file():
        return preset
    raise RecipeError(
        f"there is no recipe '{name}'{nearest(name, preset_names())}",
        seen=f"{path} (asked for by {asked_by})",
        allowed=f"a YAML file, or a preset: {', '.join(preset_names())}",
        fix="give the path of a recipe file, or the name of a preset",
    )


def _load_chain(path: Path, above: tuple[Path, ...]) -> Tree:
    """Read a recipe file and everything it extends."""
    is_preset = path.parent == PRESETS_FOLDER
    label = f"preset {path.stem}" if is_preset else f"file {path.name}"
    if path in above:
        chain = " -> ".join(item.name for item in (*above[above.index(path) :], path))
        raise RecipeError("recipes extend each other in a circle", seen=chain, fix="remove one of the `extends` keys")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{label} is not UTF-8 text", seen=error, fix="save the file as UTF-8") from error
    tree = read_tree(text, label, with_lines=not is_preset)
    if not isinstance(tree, dict):
        raise RecipeError(f"{label} is not a recipe", seen="no keys at its top level", allowed="`key: value` lines")
    tree = dict(tree)
    base = tree.pop("extends", None)
    if not is_preset:
        tree = _absolute_paths(tree, path.parent)
    if base is None:
        return merge_trees({}, tree)
    if not isinstance(base, Leaf) or not isinstance(base.value, (str, int)):
        raise RecipeError(f"'extends' in {label} must be one name", allowed="a preset's name or a path")
    folder = Path.cwd() if is_preset else path.parent
    return merge_trees(_load_chain(_find(str(base.value), folder, label), (*above, path)), tree)


def _absolute_paths(tree: Any, folder: Path) -> Any:
    """Return the tree with the paths of sources and of the tokenizer made absolute."""
    data = tree.get("data")
    if not isinstance(data, dict):
        return tree
    changed = dict(data)
    sources = data.get("sources")
    if isinstance(sources, list):
        changed["sources"] = [_with_paths(source, "paths", folder) for source in sources]
    elif isinstance(sources, dict):
        changed["sources"] = {name: _with_paths(source, "paths", folder) for name, source in sources.items()}
    if "tokenizer" in data:
        changed["tokenizer"] = _with_paths(data["tokenizer"], "path", folder)
    return {**tree, "data": changed}


def _with_paths(section: Any, key: str, folder: Path) -> Any:
    if not isinstance(section, dict) or key not in section:
        return section
    value = section[key]
    return {**section, key: [_joined(v, folder) for v in value] if isinstance(value, list) else _joined(value, folder)}


def _joined(leaf: Any, folder: Path) -> Any:
    if isinstance(leaf, Leaf) and isinstance(leaf.value, str):
        return Leaf(str(folder / Path(leaf.value).expanduser()), leaf.origin)
    return leaf


def _leaf_paths(value: object, path: str = "") -> list[str]:
    prefix = f"{path}." if path else ""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in _leaf_paths(item, f"{prefix}{key}")]
    if isinstance(value, list):
        return [leaf for index, item in enumerate(value) for leaf in _leaf_paths(item, f"{prefix}{index}")]
    return [path]
