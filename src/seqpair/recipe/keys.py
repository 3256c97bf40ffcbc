"""Every key that a recipe can have, read from the schema, so that the reference of keys cannot differ from it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from seqpair.recipe.schema import Recipe

_LIMITS = {
    **dict.fromkeys(("minimum", "ge"), "at least"),
    **dict.fromkeys(("exclusiveMinimum", "gt"), "above"),
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
_NAMES = {"string": "text", "boolean": "true or false", "object": "a mapping", "null": "null"}


class Key(NamedTuple):
    """A key of a recipe.

    Attributes:
        path: Its dotted path; `[]` stands for an item of a list and `<name>` for a name of your choice.
        values: Which values it takes, in words.
        default: Its default as YAML; `required` if it has none, and empty for a section.
        meaning: What it does.
    """

    path: str
    values: str
    default: str
    meaning: str


def recipe_keys() -> Iterator[Key]:
    """Yield every key of a recipe, each section before its keys; a section that stands in two places comes once."""
    schema = Recipe.model_json_schema()
    extends = "Presets or recipe files to start from; each is merged over the one before."
    yield Key("extends", "text or list of text", "null", extends)
    yield from _keys_of(schema, "", schema["$defs"], {})


def _keys_of(section: dict[str, Any], prefix: str, sections: dict[str, Any], seen: dict[str, str]) -> Iterator[Key]:
    meanings = _meanings(section["description"])
    for name, field in section["properties"].items():
        path = prefix + name
        found = list(_sections_in(field))
        values = _values(field)
        for below, _ in found:
            if below in seen:
                values = f"{values}, as `{seen[below]}`"
        default = "required" if name in section.get("required", ()) else _as_yaml(field.get("default"))
        yield Key(path, values, default, meanings.get(name, ""))
        for below, mark in found:
            if below not in seen:
                seen[below] = path
                yield from _keys_of(sections[below], f"{path}{mark}.", sections, seen)


def _meanings(docstring: str) -> dict[str, str]:
    """Return what the part `Attributes:` of a docstring says about each name."""
    lines = docstring.partition("Attributes:\n")[2]
    entries = re.findall(r"^    (\S.*?): (.*(?:\n {8}.*)*)", lines, re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def _sections_in(field: dict[str, Any], mark: str = "") -> Iterator[tuple[str, str]]:
    """Yield each section that a field can hold, with what stands between its path and theirs."""
    if "$ref" in field:
        yield field["$ref"].rpartition("/")[2], mark
    for part in (*field.get("anyOf", ()), *field.get("oneOf", ())):
        yield from _sections_in(part, mark)
    if "items" in field:
        yield from _sections_in(field["items"], "[]")
    for part in (field.get("additionalProperties"), *field.get("patternProperties", {}).values()):
        if isinstance(part, dict):
            yield from _sections_in(part, ".<name>")


def _values(field: dict[str, Any]) -> str:
    parts = [part for part in (*field.get("anyOf", ()), *field.get("oneOf", ())) if part.get("type") != "null"]
    if parts:
        return " or ".join(_values(part) for part in parts)
    if "$ref" in field:
        return "a section"
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field["type"] == "array":
        words = f"list of {_values(field['items'])}" if "items" in field else "a list"
        return words.replace("of a section", "of sections")
    limits = [f"{words} {_as_yaml(field[name])}" for name, words in _LIMITS.items() if name in field]
    return " ".join((_NAMES.get(field["type"], field["type"]), *([" and ".join(limits)] if limits else [])))


def _as_yaml(value: object) -> str:
    if isinstance(value, dict):
        return "" if value else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_as_yaml, value))}]"
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return f"{int(value):_}" if value >= 10_000 else f"{value:g}"
    return str(value)
