"""Fixtures shared by the tests that need real stores or a trained member."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import settings
from tiny import TinyStudy, write_tiny_study

from seqpair.cli import app as cli

settings.register_profile("patient", deadline=None)  # a busy machine makes any example late
settings.load_profile("patient")


@pytest.fixture
def tiny_study(tmp_path: Path) -> TinyStudy:
    """A fresh tiny study: sources and recipe, nothing prepared."""
    return write_tiny_study(tmp_path)


@pytest.fixture(scope="session")
def prepared_study(tmp_path_factory: pytest.TempPathFactory) -> TinyStudy:
    """A tiny study whose stores are prepared; tests must not change them."""
    from seqpair.data.prepare.preparation import prepare
    from seqpair.recipe.load import load_recipe

    study = write_tiny_study(tmp_path_factory.mktemp("prepared"))
    recipe = load_recipe(str(study.recipe))
    prepare(recipe.data.sources, recipe.data.tokenizer, Path(recipe.data.stores))
    return study


@pytest.fixture
def seqpair(monkeypatch, capsys):
    """Run the command line in this process; return its exit code, output and messages."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["seqpair", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return run


@pytest.fixture(scope="session")
def four_members(tmp_path_factory):
    """A trained study of four members, nothing of it exported; tests must not change it."""
    from released_study import train_four_members

    return train_four_members(tmp_path_factory.mktemp("four"))


@pytest.fixture(scope="session")
def released(four_members, tmp_path_factory):
    """The folder of that study's release; tests must not change it."""
    from released_study import STATEMENT

    from seqpair.suite.release import release_study

    out = tmp_path_factory.mktemp("released") / "release"
    release_study(four_members.place, out, statement=STATEMENT)
    return out


@pytest.fixture(scope="session")
def random_exports(tmp_path_factory):
    """The folder of an export of each objective."""
    from checkpointed_run import real_texts, write_run

    from seqpair.hub.export import export_checkpoint

    folders = {}
    for name in ("mlm", "clm", "mntp"):
        folder = tmp_path_factory.mktemp(f"export-{name}")
        export_checkpoint(write_run(folder, name), folder / "export", real_texts()[:2])
        folders[name] = folder / "export"
    return folders


@pytest.fixture(scope="session")
def models(random_exports):
    """The loaded model of each objective."""
    from seqpair.models.open import open_model

    return {name: open_model(folder) for name, folder in random_exports.items()}
