"""The published data, from a set of the same form behind a URL: ids as they are, the tokenizer from there."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import pytest
from checkpointed_run import real_texts, small_tokenizer
from mds_writer import write_mds

from seqpair.data.prepare.preparation import prepare
from seqpair.data.store.counts import plan_members
from seqpair.errors import DataError
from seqpair.recipe.load import load_recipe

COLUMNS = {"input_ids": "ndarray:uint32", "id": "str"}


@pytest.fixture
def published(tmp_path):
    """The three sets and the tokenizer in a file system behind `memory://`; its content and the overrides."""
    memory = fsspec.filesystem("memory")
    tokenizer = small_tokenizer()
    small_tokenizer().save(tmp_path / "tokenizer")
    ids, ends = tokenizer.encode(real_texts()), (tokenizer.specials.cls, tokenizer.specials.sep)
    rows = [
        {"input_ids": np.array([ends[0], *own, ends[1]], dtype=np.uint32), "id": f"d{number}"}
        for number, own in enumerate(ids)
    ]
    overrides = ["data.tokenizer.path=memory://tokenizer", f"data.stores={tmp_path / 'stores'}"]
    for name in ("pretraining", "extension", "decay"):
        write_mds(tmp_path / name / "train", COLUMNS, rows, packing="zstd")
        overrides.append(f"data.sources.{name}.paths=[memory://{name}]")
    for name in ("tokenizer", "pretraining", "extension", "decay"):
        memory.put(str(tmp_path / name), f"/{name}", recursive=True)
    yield ids, overrides
    memory.rm("/", recursive=True)


def test_the_published_data_are_read_in_one_line(published):
    ids, overrides = published
    recipe = load_recipe("published-data", overrides)
    prepared = prepare(recipe.data.sources, recipe.data.tokenizer, Path(recipe.data.stores))
    assert prepared.tokenizer.digest == small_tokenizer().digest
    for split in ("pretraining", "extension", "decay"):
        stores = [part[split] for part in (prepared.train, prepared.held_out) if split in part]
        found = {
            store.document_id(row): store.document_tokens(row)
            for store in stores
            for row in range(store.manifest.documents)
        }
        assert set(found) == {f"d{number}" for number in range(len(ids))}
        assert all(found[f"d{number}"].tolist() == own.tolist() for number, own in enumerate(ids))
    assert not plan_members(recipe, ["encoder"])["encoder"].estimated


def test_a_url_without_a_tokenizer_says_so(published):
    _, overrides = published
    recipe = load_recipe("published-data", [*overrides, "data.tokenizer.path=memory://decay"])
    with pytest.raises(DataError, match="no tokenizer at this URL"):
        prepare(recipe.data.sources, recipe.data.tokenizer, Path(recipe.data.stores))
