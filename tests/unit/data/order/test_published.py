"""The published order, from files of its form: texts and documents are found at their steps."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqpair.data.order.published import search_published
from seqpair.data.prepared import open_recipe_data
from seqpair.errors import DataError
from seqpair.recipe.load import load_recipe

FILES = ("checkpoint_000001/steps_000001_to_000100", "ext_000001/steps_000001_to_000100", "decay_000001/steps_1_to_2")


@pytest.fixture(scope="module")
def published(prepared_study, tmp_path_factory):
    """The study's notes as rows of three files, two rows a step; their texts by document."""
    prepared = open_recipe_data(load_recipe(str(prepared_study.recipe)))
    store, ids = prepared.train["notes"], prepared.tokenizer.specials
    contents = [store.document_tokens(row).tolist() for row in range(60)]
    folder = tmp_path_factory.mktemp("order")
    for number, name in enumerate(FILES):
        rows = [[ids.cls, *content, ids.sep] for content in contents[20 * number : 20 * number + 20]]
        (folder / name).parent.mkdir()
        table = pa.table({"input_ids": rows, "step": [1 + index // 2 for index in range(20)]})
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=7)
    documents = [store.document_id(row) for row in range(60)]
    return folder, prepared.tokenizer, contents, documents


def test_a_document_is_found_at_its_step_and_phase(published, seqpair, prepared_study):
    folder, tokenizer, contents, documents = published
    for number, phase in ((3, "pretrain"), (25, "extend"), (58, "decay")):
        (found,) = search_published(folder, tokenizer, document=contents[number])
        assert (found.phase, found.step, found.row) == (phase, 1 + number % 20 // 2, number % 20)
        assert found.tokens == len(contents[number]) + 2
    study = [str(prepared_study.recipe), "--published", folder, "--document", documents[25], "--json"]
    code, out, _ = seqpair("order", *study)
    assert code == 0
    assert [row["step"] for row in json.loads(out)] == [3]


def test_a_text_is_found_in_every_row_that_contains_it(published, seqpair, prepared_study):
    folder, tokenizer, contents, _ = published
    texts = tokenizer.backend.decode_batch(contents)
    wanted = [number for number, text in enumerate(texts) if "lantern quiet" in text or "violin" in text]
    asked = ["violin", "lantern quiet"]
    found = {(row.file, row.row) for text in asked for row in search_published(folder, tokenizer, text)}
    assert found == {(f"{FILES[number // 20]}.parquet", number % 20) for number in wanted}
    assert len(found) > 3
    code, out, _ = seqpair(
        "order", str(prepared_study.recipe), "--published", folder, "--text", "violin", "--limit", "2"
    )
    assert code == 0
    assert "2 rows" in out
    assert "does not correspond exactly" in out


def test_what_is_no_published_order_is_refused(published, tmp_path, seqpair, prepared_study):
    _, tokenizer, _, _ = published
    with pytest.raises(DataError, match="no published order"):
        list(search_published(tmp_path, tokenizer, "a"))
    pq.write_table(pa.table({"ids": [[1]]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="no column input_ids, step"):
        list(search_published(tmp_path, tokenizer, "a"))
    (tmp_path / "x.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match="cannot be read"):
        list(search_published(tmp_path, tokenizer, "a"))
    code, _, err = seqpair("order", str(prepared_study.recipe), "--published", tmp_path, "--step", "3")
    assert code == 2
    assert "add --text or --document" in err
