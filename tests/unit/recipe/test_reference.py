"""The examples of docs/recipe.md are recipes."""

import re
from pathlib import Path

import pytest

from seqpair.recipe.load import load_recipe
from seqpair.recipe.resolve import resolve_plan

REFERENCE = (Path(__file__).parents[3] / "docs" / "recipe.md").read_text(encoding="utf-8")
EXAMPLES = [text for text in re.findall(r"```yaml\n(.*?)```", REFERENCE, re.DOTALL) if "name:" in text]


@pytest.mark.parametrize("text", EXAMPLES)
def test_the_examples_are_recipes(text: str, tmp_path: Path) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(text, encoding="utf-8")
    recipe = load_recipe(str(path))
    for member in recipe.members:
        assert resolve_plan(recipe, member).phases[0].steps > 0


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 3
