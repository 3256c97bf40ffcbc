"""Turning pydantic's faults into messages with a path, the value, what is allowed and its origin."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from seqpair.errors import RecipeError
from seqpair.recipe.merge import nearest


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
        fix="mend these keys; docs/recipe.md lists every key with its unit and default",
    )


def _path(loc: tuple[int | str, ...], raw: object) -> list[str]:
    """Return the keys of a location without the tags that pydantic adds for unions."""
    keys: list[str] = []
    here = raw
    for index, part in enumerate(loc):
        inside = (isinstance(here, dict) and part in here) or (isinstance(here, list) and isinstance(part, int))
        if inside:
            here = here[part]  # type: ignore[index]
        if inside or (index == len(loc) - 1 and isinstance(here, dict) and part not in ("label", "shape", "[key]")):
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
