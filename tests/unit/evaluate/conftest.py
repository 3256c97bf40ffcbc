"""Exports of random weights, made once."""

from __future__ import annotations

import pytest
from checkpointed_run import real_texts, write_run

from seqpair.hub.export import export_checkpoint
from seqpair.models.open import open_model


@pytest.fixture(scope="session")
def random_exports(tmp_path_factory):
    """The folder of an export of each objective."""
    folders = {}
    for name in ("mlm", "clm", "mntp"):
        folder = tmp_path_factory.mktemp(f"export-{name}")
        export_checkpoint(write_run(folder, name), folder / "export", real_texts()[:2])
        folders[name] = folder / "export"
    return folders


@pytest.fixture(scope="session")
def models(random_exports):
    """The loaded model of each objective."""
    return {name: open_model(folder) for name, folder in random_exports.items()}
