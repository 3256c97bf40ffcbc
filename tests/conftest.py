"""Fixtures shared by the tests that need real stores or a trained member."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import TinyStudy, write_tiny_study


@pytest.fixture
def tiny_study(tmp_path: Path) -> TinyStudy:
    """A fresh tiny study: sources and recipe, nothing prepared."""
    return write_tiny_study(tmp_path)


@pytest.fixture(scope="session")
def prepared_study(tmp_path_factory: pytest.TempPathFactory) -> TinyStudy:
    """A tiny study whose stores are prepared; tests must not change them."""
    from seqpair.data.prepare import prepare
    from seqpair.recipe.load import load_recipe

    study = write_tiny_study(tmp_path_factory.mktemp("prepared"))
    recipe = load_recipe(str(study.recipe))
    prepare(recipe.data.sources, recipe.data.tokenizer, Path(recipe.data.stores))
    return study
