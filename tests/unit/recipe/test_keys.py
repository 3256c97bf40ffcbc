"""The reference of keys: it has every key of a loaded recipe with its default, and says what each key does."""

import re

import pytest

from seqpair.recipe.keys import recipe_keys
from seqpair.recipe.load import load_recipe
from seqpair.recipe.tree import plain_scalar

KEYS = {key.path: key for key in recipe_keys()}


def reference_path(leaf):
    """Return a leaf's path as the reference writes it: list items without numbers, names of your choice as <name>."""
    path = re.sub(r"\.\d+", "[]", leaf)
    path = re.sub(r"^members\.[^.]+", "members.<name>", path)
    path = re.sub(r"mixture\.[^.]+", "mixture.<name>", path)
    path = re.sub(r"objective\[\].*", "objective", path)
    path = re.sub(r"^data\.sources\[\]\.cleaning\.", "data.cleaning.", path)
    return path if path in KEYS else path.removesuffix("[]")


@pytest.mark.parametrize("name", ["1m", "demo", "ettin-17m", "study-1m"])
def test_every_key_of_a_recipe_is_in_the_reference(name):
    assert {reference_path(leaf) for leaf in load_recipe(name).origins} - set(KEYS) == set()


def test_a_default_is_that_of_the_schema():
    recipe = load_recipe("1m")
    values = recipe.model_dump(mode="json", by_alias=True)
    defaults = {leaf for leaf, origin in recipe.origins.items() if origin == "default"}
    for leaf in defaults:
        found = values
        for part in leaf.split("."):
            found = found[int(part)] if isinstance(found, list) else found[part]
        key = KEYS[reference_path(leaf)]
        assert plain_scalar(key.default.strip("[]")) == (found or None if key.default == "[]" else found), leaf
    assert len(defaults) > 20


def test_every_key_says_what_it_does_and_what_it_takes():
    assert [key.path for key in KEYS.values() if not key.meaning.endswith((".", ")")) or not key.values] == []
    assert KEYS["data.sources[].kind"].values.startswith("`text`, `jsonl`")
    assert KEYS["members.<name>.mask_frac"].values.endswith("as `phases[].mask_frac`")
    assert KEYS["phases[].budget_tokens"].default == "required"
    assert KEYS["seed"].values == "integer at least 0 and below 4_294_967_296"
