"""The table of keys in docs/recipe.md against the schema: no key is missing, none is invented, defaults agree."""

import re
import types
import typing
from pathlib import Path

from pydantic import BaseModel, TypeAdapter

from seqpair.recipe.schema import Recipe
from seqpair.recipe.sizes import Count

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipe.md"
WHOLE = {"size", "mixture", "starts_from"}
"""Keys that the page explains as a whole, with what may stand in them."""
ELSEWHERE = (
    "data.sources[].cleaning",
    "data.cleaning.skip",
    "members.<name>.mask_frac",
    "phases[].mask_frac",
    "extends",
)
"""Sections that stand in two places and are described once, and a key that is gone before the schema is applied."""


def sections_of(annotation):
    """Return the models that a key's type contains, and whether they stand in a list or a mapping."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [(annotation, "")]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is dict:
        return [(model, ".<name>") for model, _ in sections_of(arguments[1])]
    if origin in (tuple, list):
        return [(model, "[]") for model, _ in sections_of(arguments[0])]
    if origin in (typing.Union, types.UnionType, typing.Annotated):
        return [found for argument in arguments for found in sections_of(argument)]
    return []


def keys_of(model, prefix=""):
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        below = [] if name in WHOLE else sections_of(field.annotation)
        if not below:
            yield key, field
        for section, mark in below:
            yield from keys_of(section, f"{key}{mark}.")


def rows_of_the_page():
    """Return (keys, default) for each row; `a.b`, `.c` stands for two keys."""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if not line.startswith("| `") or len(cells) < 3:
            continue
        keys = re.findall(r"`([^`]+)`", cells[0])
        yield [keys[0].rpartition(".")[0] + key if key.startswith(".") else key for key in keys], cells[2]


def test_the_page_has_every_key_and_no_other():
    described = {key for keys, _ in rows_of_the_page() for key in keys}
    known = {key for key, _ in keys_of(Recipe)}
    assert {key for key in known - described if not key.startswith(ELSEWHERE)} == set()
    assert {key for key in described - known if not key.startswith(ELSEWHERE)} == set()


def test_the_page_has_the_defaults_of_the_schema():
    fields = dict(keys_of(Recipe))
    wrong, compared = [], 0
    for keys, text in rows_of_the_page():
        if len(keys) > 1 or keys[0] not in fields:
            continue
        (key,), field = keys, fields[keys[0]]
        if field.is_required() != text.startswith("required") and not key.startswith(("members.", *ELSEWHERE)):
            wrong.append((key, text))
        if re.fullmatch(r"[\d.e+-]+[kMB]?", text):
            compared += 1
            written = TypeAdapter(Count).validate_python(text) if text[-1] in "kMB" else float(text)
            if not field.is_required() and field.default != written:
                wrong.append((key, text))
    assert wrong == []
    assert compared > 15
