"""Loading a recipe: presets and files, `extends`, `--set`, validation.

All faults of a recipe are reported in one error, each with its path, value, allowed values and origin.
"""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from seqpair.errors import RecipeError
from seqpair.recipe.member_spec import is_model
from seqpair.recipe.schema import Recipe
from seqpair.recipe.tree import Leaf, Tree, apply_set, merge_trees, missed_deletions, read_set, read_tree, strip
from seqpair.text import MOST_COUNT, nearest

PRESETS_FOLDER = Path(__file__).parent / "presets"
_HUB_NAME = re.compile(r"(?![.~])[\w.-]+(/[\w.-]+)?(@\S+)?$")


def preset_names() -> list[str]:
    """Return the names of all presets."""
    return sorted(path.stem for path in PRESETS_FOLDER.glob("[!_]*.yaml"))


def load_recipe(path_or_preset: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe from a file or a preset's name, with `--set` assignments on top.

    Relative paths of sources and of the tokenizer are taken from the folder of the file that states
    them (those of `--set` from the current folder) and come out absolute; URLs stay as they are.

    Raises:
        RecipeError: A file that is missing or not YAML, a cycle of `extends`, an unknown key, a wrong
            value, a path of `--set` that leads nowhere.
    """
    path = _find(path_or_preset, Path.cwd(), "the command line")
    tree = _load_onto({}, path, ())
    # Paths of `--set` are relative to the current folder, those of a file to that file, so both are resolved here.
    for assignment in overrides:
        keys, value = read_set(assignment)
        over = reduce(lambda below, key: {key: below}, reversed(keys), value)
        _require_something_deleted(tree, over)
        tree = _absolute_paths(apply_set(tree, assignment), Path.cwd())
    folder = Path.cwd() if path.parent == PRESETS_FOLDER else path.parent
    tree = _absolute_starts(tree, folder)
    origins: dict[str, str] = {}
    raw = strip(tree, origins=origins)
    _require_numbers(raw, origins)
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        raise recipe_error(error, raw, Recipe, origins) from error
    _require_true_numbers(raw, recipe.model_dump(by_alias=True), origins)
    # Every leaf that nobody wrote is a default; reports show the origin of each value.
    for leaf in _leaf_paths(recipe.model_dump(mode="json", by_alias=True)):
        origins.setdefault(leaf, "default")
    recipe._origins = origins
    recipe._folder = folder
    return recipe


def _require_something_deleted(base: Tree, over: Tree) -> None:
    """Refuse a null for a key that neither the layers below nor the schema have: a misspelt key would pass in silence.

    Raises:
        RecipeError: There is such a key.
    """
    for keys, origin in missed_deletions(base, over).items():
        try:
            fields = _fields_at(Recipe, list(keys[:-1]))
        except StopIteration:
            continue  # a section that is not known is reported with all other faults
        if keys[-1] in fields:
            continue  # it has its default already
        path = ".".join(keys)
        kind = "unknown key" if fields else "nothing to delete:"
        raise RecipeError(
            f"{kind} '{path}'{nearest(keys[-1], fields)} ({origin})",
            allowed=", ".join(fields) or "a key that is there",
            fix="correct the key; a null, or `--set KEY=`, deletes it",
        )


def _require_numbers(value: object, origins: Mapping[str, str], path: str = "") -> None:
    """Refuse numbers that are none, and those beyond what any key can mean."""
    prefix = f"{path}." if path else ""
    if isinstance(value, (dict, list)):
        for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
            _require_numbers(inside, origins, f"{prefix}{key}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"'{path}' is no finite number{_origin(path, origins)}", seen=value, fix="write a number")
    elif isinstance(value, int | float) and abs(value) > MOST_COUNT:
        seen = f"{float(value):.3g}" if abs(value) < 1e300 else "more than 1e300"
        raise RecipeError(f"'{path}' is too large{_origin(path, origins)}", seen=seen, allowed="at most 10^18")


def _require_true_numbers(raw: object, read: object, origins: Mapping[str, str], path: str = "") -> None:
    """Refuse `true` and `false` where they were read as 1 and 0, and texts that were read as infinity."""
    prefix = f"{path}." if path else ""
    if isinstance(raw, dict) and isinstance(read, dict):
        pairs = [(str(key), value, read[key]) for key, value in raw.items() if key in read]
    elif isinstance(raw, list) and isinstance(read, list | tuple):
        pairs = [(str(index), *both) for index, both in enumerate(zip(raw, read, strict=False))]
    else:
        pairs = []
    for key, value, found in pairs:
        _require_true_numbers(value, found, origins, f"{prefix}{key}")
    if isinstance(read, float) and not math.isfinite(read):
        raise RecipeError(
            f"'{path}' is no finite number{_origin(path, origins)}", seen=str(raw)[:40], fix="give a number"
        )
    if isinstance(raw, bool) and isinstance(read, int | float) and not isinstance(read, bool):
        raise RecipeError(
            f"'{path}' is a number, not a switch{_origin(path, origins)}", seen=str(raw).lower(), allowed="a number"
        )


def find_recipe(name: str, folder: Path | None = None) -> Path | None:
    """Return the file of a recipe or a preset; None if there is none.

    Args:
        name: A path, or a preset's name.
        folder: What a relative path starts from; by default the current folder.
    """
    path = (folder or Path.cwd()) / Path(name).expanduser()
    if path.is_file():
        return path.resolve()
    preset = PRESETS_FOLDER / f"{name}.yaml"
    return preset if "/" not in name and preset.is_file() else None


def _find(name: str, folder: Path, asked_by: str) -> Path:
    path = find_recipe(name, folder)
    if path is not None:
        return path
    raise RecipeError(
        f"there is no recipe '{name}'{nearest(name, preset_names())}",
        seen=f"{folder / name} (asked for by {asked_by})",
        allowed=f"a YAML file, or a preset: {', '.join(preset_names())}",
        fix="give the path of a recipe file, or the name of a preset",
    )


def _load_onto(below: Tree, path: Path, above: tuple[Path, ...]) -> Tree:
    """Read a recipe file and everything it extends, and merge it all onto the layers below."""
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
    folder = Path.cwd() if is_preset else path.parent
    # Each base is laid over the ones before it and this file over all of them.
    for base in _bases(tree.pop("extends", None), label):
        below = _load_onto(below, _find(base, folder, label), (*above, path))
    _require_something_deleted(below, tree)
    return merge_trees(below, tree if is_preset else _absolute_paths(tree, path.parent))


def _bases(given: Tree | None, label: str) -> list[str]:
    """Return the recipes that a file extends: none, one, or several of which each is laid over the one before."""
    if given is None:
        return []
    leaves = given if isinstance(given, list) else [given]
    names = [leaf.value for leaf in leaves if isinstance(leaf, Leaf) and isinstance(leaf.value, (str, int))]
    if not names or len(names) < len(leaves):
        raise RecipeError(
            f"'extends' in {label} must be one name or a list of names", allowed="presets' names or paths"
        )
    return [str(name) for name in names]


def _absolute_paths(tree: Any, folder: Path) -> Any:
    """Return the tree with the paths of sources, of the tokenizer and of members' folders made absolute."""
    members = tree.get("members")
    if isinstance(members, dict):
        tree = {**tree, "members": {name: _with_start(member, folder) for name, member in members.items()}}
    data = tree.get("data")
    if not isinstance(data, dict):
        return tree
    changed = dict(data)
    if "cleaning" in data:
        changed["cleaning"] = _with_eval_paths(data["cleaning"], folder)
    sources = data.get("sources")
    if isinstance(sources, list):
        changed["sources"] = [_with_source_paths(source, folder) for source in sources]
    elif isinstance(sources, dict):
        changed["sources"] = {name: _with_source_paths(source, folder) for name, source in sources.items()}
    if "tokenizer" in data:
        changed["tokenizer"] = _with_paths(data["tokenizer"], "path", folder)
    return {**tree, "data": changed}


def _with_paths(section: Any, key: str, folder: Path) -> Any:
    if not isinstance(section, dict) or key not in section:
        return section
    value = section[key]
    return {**section, key: [_joined(v, folder) for v in value] if isinstance(value, list) else _joined(value, folder)}


def _with_source_paths(source: Any, folder: Path) -> Any:
    source = _with_paths(source, "paths", folder)
    if not isinstance(source, dict) or "cleaning" not in source:
        return source
    return {**source, "cleaning": _with_eval_paths(source["cleaning"], folder)}


def _with_eval_paths(cleaning: Any, folder: Path) -> Any:
    """Return a cleaning section with the paths of its evaluation sets made absolute."""
    rules: Any = cleaning.get("decontaminate") if isinstance(cleaning, dict) else None
    against = rules.get("against") if isinstance(rules, dict) else None
    if isinstance(against, list):
        joined: Any = [_with_paths(entry, "paths", folder) for entry in against]
    elif isinstance(against, dict):
        joined = {name: _with_paths(entry, "paths", folder) for name, entry in against.items()}
    else:
        return cleaning
    return {**cleaning, "decontaminate": {**rules, "against": joined}}


def _with_start(member: Any, folder: Path) -> Any:
    start = member.get("from") if isinstance(member, dict) else None
    if isinstance(start, dict) and "model" in start:
        return {**member, "from": {**start, "model": _joined_model(start["model"], folder)}}
    if not isinstance(start, Leaf) or not isinstance(start.value, str) or not is_model(start.value):
        return member
    return {**member, "from": _joined_model(start, folder)}


def _joined_model(leaf: Any, folder: Path) -> Any:
    """Return a model's place made absolute, unless it can only be a name on the hub: one that no folder has."""
    named = isinstance(leaf, Leaf) and isinstance(leaf.value, str) and _HUB_NAME.match(leaf.value)
    return leaf if named and not (folder / leaf.value).exists() else _joined(leaf, folder)


def _absolute_starts(tree: Any, folder: Path) -> Any:
    """Return the tree with a bare `from` that is no member but a folder beside the recipe made a path."""
    members = tree.get("members")
    if not isinstance(members, dict):
        return tree
    changed = dict(members)
    for name, member in members.items():
        start = member.get("from") if isinstance(member, dict) else None
        if isinstance(start, Leaf) and start.value not in members and (folder / str(start.value)).is_dir():
            changed[name] = {**member, "from": _joined(start, folder)}
    return {**tree, "members": changed}


def _joined(leaf: Any, folder: Path) -> Any:
    if isinstance(leaf, Leaf) and isinstance(leaf.value, str) and "://" not in leaf.value:
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


def recipe_error(
    error: ValidationError, raw: object, model: type[BaseModel], origins: Mapping[str, str]
) -> RecipeError:
    """Return one error that reports every fault of a validation at once.

    Args:
        error: What pydantic found.
        raw: The plain values that were validated.
        model: The model they were validated against.
        origins: Each leaf's origin by dotted path.
    """
    faults: dict[str, None] = {}
    allowed: set[str] = set()
    for fault in error.errors(include_url=False):
        keys = _path(fault["loc"], raw)
        path = ".".join(keys)
        if fault["type"] == "extra_forbidden":
            fields = _fields_at(model, keys[:-1])
            faults[f"unknown key '{path}'{nearest(keys[-1], fields)}{_origin(path, origins)}"] = None
            allowed.add(f"{'.'.join(keys[:-1]) or 'top level'}: {', '.join(fields)}")
        elif fault["type"] == "missing":
            faults[f"'{path}' is missing"] = None
        else:
            message = str(fault["msg"]).removeprefix("Value error, ")
            message = message[:1].lower() + message[1:]
            seen = "" if isinstance(fault["input"], (dict, list, BaseModel)) else f", but it is {fault['input']!r}"
            start = f"'{path}': " if path else ""
            faults[f"{start}{message}{seen}{_origin(path, origins)}"] = None
    count = f"{len(faults)} faults in the recipe" if len(faults) > 1 else "a fault in the recipe"
    return RecipeError(
        f"{count}:\n    " + "\n    ".join(faults),
        allowed="; ".join(sorted(allowed)) or None,
        fix="correct these keys; `seqpair init --keys` prints every key with its values, default and meaning",
    )


_TAGS = ("label", "shape", "[number]", "[curve]", "[key]", "[name]", "[model]")
"""What pydantic puts into a location beside keys."""


def _path(loc: tuple[int | str, ...], raw: object) -> list[str]:
    """Return the keys of a location without the tags that pydantic adds for unions."""
    keys: list[str] = []
    here = raw
    for index, part in enumerate(loc):
        inside = (isinstance(here, dict) and part in here) or (isinstance(here, list) and isinstance(part, int))
        if inside:
            here = here[part]  # type: ignore[index]
        if inside or (index == len(loc) - 1 and isinstance(here, dict) and part not in _TAGS):
            keys.append(str(part))
    return keys


def _origin(path: str, origins: Mapping[str, str]) -> str:
    found = origins.get(path) or next((origins[key] for key in origins if path and key.startswith(f"{path}.")), None)
    return f" ({found})" if found else ""


def _fields_at(model: type[BaseModel], keys: list[str]) -> list[str]:
    """Return the names of the fields that a section has."""
    here: Any = model
    for key in keys:
        if isinstance(here, type) and issubclass(here, BaseModel):
            here = next(field.annotation for name, field in here.model_fields.items() if key == (field.alias or name))
        else:
            here = typing.get_args(here)[-1 if typing.get_origin(here) is dict else 0]
        here = _model_in(here)
    if not (isinstance(here, type) and issubclass(here, BaseModel)):
        return []
    return [field.alias or name for name, field in here.model_fields.items()]


def _model_in(annotation: Any) -> Any:
    """Return the part of an annotation that can hold keys: a model, a mapping or a list of models."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (dict, tuple):
        return annotation
    for part in typing.get_args(annotation):
        found = _model_in(part)
        if found is not None:
            return found
    return None
