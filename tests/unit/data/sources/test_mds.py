import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mds_writer import Row, merge_indexes, write_mds
from pydantic import ValidationError
from tiny import made_up_text

from seqpair.data.prepare.preparation import prepare
from seqpair.data.prepared import Prepared
from seqpair.data.sources.documents import Document, Tally, documents
from seqpair.data.sources.opening import open_source
from seqpair.data.tokenizer.tokenizer import Tokenizer, train_tokenizer
from seqpair.errors import DataError
from seqpair.recipe.data_spec import SourceSpec, TokenizerSpec

TEXT = {"text": "str", "id": "str"}
TEXTS = [made_up_text(random.Random(index), 1 + index % 9) for index in range(60)]
ROWS: list[Row] = [{"text": text, "id": f"d{index}"} for index, text in enumerate(TEXTS)]


def mds(*paths: Path, **options: Any) -> SourceSpec:
    return SourceSpec(name="s", kind="mds", paths=tuple(str(path) for path in paths), **options)


def read(spec: SourceSpec) -> tuple[list[Document], Tally]:
    tally = Tally()
    return list(documents(open_source(spec), tally)), tally


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, TokenizerSpec(train_vocab_size=400))


def test_samples_are_documents_with_the_id_of_their_column_or_of_their_place(tmp_path: Path) -> None:
    write_mds(tmp_path / "a", TEXT, ROWS, packing="zstd", hashes=["sha1"])
    read_documents, tally = read(mds(tmp_path / "a", id_field="id"))
    assert [(document.id, document.text) for document in read_documents] == [(row["id"], row["text"]) for row in ROWS]
    assert tally.rows == 60
    assert tally.bytes_done == sum(file.stat().st_size for file in (tmp_path / "a").glob("*.zstd"))
    made, _ = read(mds(tmp_path / "a"))
    assert [document.id for document in made][9:11] == ["shard.00000.mds.zstd:9", "shard.00001.mds.zstd:0"]


def test_a_root_without_index_stands_for_the_folders_below_it_and_a_merged_index_for_its_shards(tmp_path: Path) -> None:
    for index in range(3):
        write_mds(tmp_path / "root" / f"part_{index}", TEXT, ROWS[20 * index : 20 * index + 20], packing="zstd")
    apart, _ = read(mds(tmp_path / "root", id_field="id"))
    merge_indexes(tmp_path / "root", ["part_0", "part_1"])
    merged, _ = read(mds(tmp_path / "root", id_field="id"))
    assert [document.text for document in apart] == TEXTS
    assert [document.text for document in merged] == TEXTS[:40]
    assert merged[0].file == "part_0/shard.00000.mds.zstd"


def test_a_raw_shard_beside_a_packed_one_is_taken_and_the_source_is_the_sum_of_its_units(tmp_path: Path) -> None:
    packed = write_mds(tmp_path / "packed", TEXT, ROWS, packing="zstd")
    raw = write_mds(tmp_path / "raw", TEXT, ROWS)
    (packed / "shard.00000.mds").write_bytes((raw / "shard.00000.mds").read_bytes())
    source = open_source(mds(packed))
    assert [file.label for file in source.files][:2] == ["shard.00000.mds", "shard.00001.mds.zstd"]
    units = source.units()
    assert [unit.stop for unit in units] == [10] * 6
    assert [d.text for unit in units for d in source.read(unit, Tally())] == TEXTS


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    rows = [{"text": b"caf\xe9", "id": "a"}, {"text": "", "id": "b"}, {"text": "x", "id": ""}, {"text": "y", "id": "c"}]
    write_mds(tmp_path / "a", TEXT, rows)
    read_documents, tally = read(mds(tmp_path / "a", id_field="id"))
    assert [document.id for document in read_documents] == ["c"]
    assert tally.rejected == {"invalid UTF-8": 1, "empty text": 1, "missing id": 1}


def test_a_missing_shard_index_or_folder_is_one_clear_error(tmp_path: Path) -> None:
    folder = write_mds(tmp_path / "a", TEXT, ROWS, packing="zstd")
    (folder / "shard.00002.mds.zstd").unlink()
    with pytest.raises(DataError, match="a shard that .* names is missing") as caught:
        open_source(mds(folder))
    assert "shard.00002.mds.zstd" in str(caught.value)
    (folder / "index.json").unlink()
    for place in (folder, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"there is no index\.json"):
            open_source(mds(place))


def test_options_of_other_kinds_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"'mds' does not use part, delimiter; it uses paths"):
        SourceSpec(name="s", kind="mds", paths=("x",), delimiter=";", part="code")
    with pytest.raises(ValidationError, match="both ids_field and text_field"):
        SourceSpec(name="s", kind="mds", paths=("x",), text_field=("body",), ids_field="input_ids")


def prepared_from(specs: list[SourceSpec], tokenizer: Tokenizer, folder: Path) -> Prepared:
    tokenizer.save(folder.parent) if not (folder.parent / "tokenizer.json").exists() else None
    return prepare(specs, TokenizerSpec(path=str(folder.parent)), folder)


def tokenized(tokenizer: Tokenizer, texts: list[str], sep: bool = True) -> list[Row]:
    around = [tokenizer.specials.cls], [tokenizer.specials.sep] if sep else []
    return [
        {"input_ids": np.array([*around[0], *ids, *around[1]], "<u4"), "id": f"d{index}", "len": len(ids)}
        for index, ids in enumerate(tokenizer.encode(texts))
    ]


def test_text_ids_and_json_lines_give_equal_tokens(tmp_path: Path, tokenizer: Tokenizer) -> None:
    columns = {"input_ids": "ndarray", "id": "str", "len": "int"}
    rows = tokenized(tokenizer, TEXTS)
    write_mds(tmp_path / "ids", columns, rows, packing="zstd", hashes=["sha1"])
    plain = [{"input_ids": row["input_ids"].astype("<i4").tobytes()} for row in rows]
    write_mds(tmp_path / "plain", {"input_ids": "bytes"}, plain)
    write_mds(tmp_path / "text", TEXT, ROWS, hashes=["sha256"])
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    shared: dict[str, Any] = {"id_field": "id", "held_out_frac": 0.0}
    specs = [
        SourceSpec(name="ids", kind="mds", paths=(str(tmp_path / "ids"),), ids_field="input_ids", **shared),
        SourceSpec(name="text", kind="mds", paths=(str(tmp_path / "text"),), **shared),
        SourceSpec(name="lines", kind="jsonl", paths=(str(tmp_path / "text.jsonl"),), **shared),
        SourceSpec(
            name="plain",
            kind="mds",
            paths=(str(tmp_path / "plain"),),
            ids_field="input_ids",
            ids_dtype="int32",
            held_out_frac=0.0,
        ),
    ]
    stores = prepared_from(specs, tokenizer, tmp_path / "stores").train
    lines = stores["lines"]
    for store in stores.values():
        assert np.array_equal(store.tokens, lines.tokens)
        assert np.array_equal(store.offsets, lines.offsets)
        assert store.manifest.text_bytes == lines.manifest.text_bytes == sum(len(text.encode()) for text in TEXTS)
        assert store.manifest.special_tokens == 0
    assert stores["ids"].manifest.digest == stores["text"].manifest.digest == lines.manifest.digest
    assert len({store.manifest.address for store in stores.values()}) == 4


def test_equal_ids_fall_on_one_side_of_the_split(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = tokenized(tokenizer, TEXTS[:30]) * 3
    write_mds(tmp_path / "ids", {"input_ids": "ndarray:uint32"}, rows)
    spec = mds(tmp_path / "ids", ids_field="input_ids", held_out_frac=0.4)
    stores = prepared_from([spec], tokenizer, tmp_path / "stores")
    sides = [
        {bytes(store.document_tokens(row)) for row in range(store.manifest.documents)}
        for store in (stores.train["s"], stores.held_out["s"])
    ]
    assert sides[0]
    assert sides[1]
    assert not sides[0] & sides[1]


def test_ids_outside_the_vocabulary_or_of_another_tokenizer_are_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    rows = tokenized(tokenizer, TEXTS)
    too_large = [*rows[:7], {"input_ids": np.array([tokenizer.entries], "<u4")}]
    write_mds(tmp_path / "large", {"input_ids": "ndarray:uint32"}, too_large)
    with pytest.raises(DataError, match="made with another tokenizer") as caught:
        prepared_from([mds(tmp_path / "large", ids_field="input_ids")], tokenizer, tmp_path / "stores")
    assert f"id {tokenizer.entries} at shard.00000.mds:8" in str(caught.value)
    other = train_tokenizer(["zebra quilt vexing jigsaw 0123456789 fjord " * 9], TokenizerSpec(train_vocab_size=300))
    write_mds(tmp_path / "other", {"input_ids": "ndarray:uint32"}, tokenized(other, TEXTS))
    shifted = [{"input_ids": np.minimum(row["input_ids"] + 3, tokenizer.entries - 1)} for row in rows]
    write_mds(tmp_path / "shifted", {"input_ids": "ndarray:uint32"}, shifted)
    for name in ("other", "shifted"):
        with pytest.raises(DataError, match="come back when their text is tokenized again"):
            prepared_from([mds(tmp_path / name, ids_field="input_ids")], tokenizer, tmp_path / "stores")


def test_pieces_cut_inside_words_are_still_known_as_the_tokenizers_own(tmp_path: Path, tokenizer: Tokenizer) -> None:
    ids = np.concatenate(tokenizer.encode(TEXTS))
    pieces = [{"input_ids": ids[at : at + 37].astype("<u2")} for at in range(5, len(ids), 37)]
    write_mds(tmp_path / "pieces", {"input_ids": "ndarray:uint16"}, pieces)
    spec = mds(tmp_path / "pieces", ids_field="input_ids", held_out_frac=0.0)
    store = prepared_from([spec], tokenizer, tmp_path / "stores").train["s"]
    assert np.array_equal(store.tokens, ids[5:])


def test_a_text_column_is_no_ids_and_ids_train_no_tokenizer(tmp_path: Path, tokenizer: Tokenizer) -> None:
    write_mds(tmp_path / "a", TEXT, ROWS)
    with pytest.raises(DataError, match="holds no token ids"):
        read(mds(tmp_path / "a", ids_field="text"))
    write_mds(tmp_path / "b", {"input_ids": "ndarray:uint32"}, tokenized(tokenizer, TEXTS))
    with pytest.raises(DataError, match="cannot be trained on token ids"):
        prepare([mds(tmp_path / "b", ids_field="input_ids")], TokenizerSpec(), tmp_path / "stores")
