"""docs/recipe.md, the recipe's reference, holds every key, and its examples are recipes."""

import re
import typing
from pathlib import Path

import pytest
from pydantic import BaseModel

from seqpair.recipe.load import load_recipe
from seqpair.recipe.resolve import resolve_plan
from seqpair.recipe.schema import Recipe
from seqpair.recipe.sizes import Shape

REFERENCE = (Path(__file__).parents[3] / "docs" / "recipe.md").read_text(encoding="utf-8")
EXAMPLES = [text for text in re.findall(r"```yaml\n(.*?)```", REFERENCE, re.DOTALL) if "name:" in text]


def keys_of(annotation: object, path: str) -> set[str]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation is not Shape:
        return {
            key
            for name, field in annotation.model_fields.items()
            for key in keys_of(field.annotation, f"{path}.{field.alias or name}")
        }
    below = {key for part in typing.get_args(annotation) for key in keys_of(part, path)} - {path}
    return below or {path}


def documented_keys() -> set[str]:
    keys: set[str] = set()
    for row in re.findall(r"^\| (`.*?) \|", REFERENCE, re.MULTILINE):
        last = ""
        for key in re.findall(r"`([^`]+)`", row):
            last = last.rpartition(".")[0] + key if key.startswith(".") else key
            keys.add("." + last.replace("[]", "").replace(".<name>", ""))
    return keys


def test_the_reference_has_every_key_and_no_other() -> None:
    elsewhere = (".phases.mixture.", ".data.sources.cleaning.", ".data.cleaning.skip", ".members.mask_frac.")
    real = {path for path in keys_of(Recipe, "") if not path.startswith(elsewhere)}
    assert documented_keys() == real | {
        *(".extends", ".phases.mixture", ".data.sources.cleaning", ".phases.mask_frac", ".members.mask_frac")
    }


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_examples_are_recipes(text: str, tmp_path: Path) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(text, encoding="utf-8")
    recipe = load_recipe(str(path))
    for member in recipe.members:
        assert resolve_plan(recipe, member).phases[0].steps > 0


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 3
