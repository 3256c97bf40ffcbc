import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from seqpair.data.store import store as store_module
from seqpair.data.store import writer as store_writer
from seqpair.data.store.manifest import MANIFEST
from seqpair.data.store.store import Store
from seqpair.data.store.writer import SplitWriter, token_dtype
from seqpair.errors import StoreError

ABOUT = {
    "source": "s",
    "split": "train",
    "kind": "text",
    "part": None,
    "address": "a" * 64,
    "tokenizer_digest": "t" * 64,
    "held_out_frac": 0.0,
    "python_version": None,
    "rejected": {"null text": 3},
    "rejected_examples": {"null text": "x:1"},
    "removed": {"a duplicate": 2},
}


def write(
    folder: Path, lengths: list[int], vocab_size: int = 300, ids: list[str] | None = None, at_once: int = 1000
) -> Path:
    rng = np.random.default_rng(len(lengths))
    names = ids or [f"doc-{row}" for row in range(len(lengths))]
    with SplitWriter(folder, vocab_size) as writer:
        for start in range(0, len(lengths), at_once):
            some = np.array(lengths[start : start + at_once], dtype=np.int64)
            for length in some:
                writer.add_tokens(rng.integers(3, vocab_size, length).astype(writer.dtype).tobytes())
            rows = np.arange(start, start + len(some))
            writer.add_documents(names[start : start + at_once], pa.array(["f.txt"] * len(some)), rows, some)
        writer.close()
    writer.finish(**ABOUT, text_bytes=sum(lengths), special_tokens=0)
    return folder


def test_a_store_gives_back_its_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_writer, "ROWS_PER_GROUP", 7)
    rng = random.Random(3)
    lengths = [rng.randint(1, 40) for _ in range(50)]
    store = Store.open(write(tmp_path / "s", lengths), verify=True)
    assert store.manifest.documents == 50
    assert store.manifest.tokens == sum(lengths) == len(store.tokens)
    assert store.tokens.dtype == np.uint16
    expected = np.random.default_rng(50)
    for row, length in enumerate(lengths):
        np.testing.assert_array_equal(store.document_tokens(row), expected.integers(3, 300, length))
    for row in rng.sample(range(50), 50):
        assert store.document_id(row) == f"doc-{row}"
        assert store.row_of(f"doc-{row}") == row
    with pytest.raises(IndexError, match="row 50 is outside the store's 50 documents"):
        store.document_tokens(50)
    with pytest.raises(IndexError):
        store.document_id(-1)


def test_an_unknown_document_is_an_error_that_shows_a_known_one(tmp_path: Path) -> None:
    store = Store.open(write(tmp_path / "s", [3, 4]))
    with pytest.raises(StoreError, match=r"no document of this id\n  seen: 'nobody'\n  allowed: ids such as 'doc-0'"):
        store.row_of("nobody")


def test_ids_whose_hashes_collide_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (store_module, store_writer):
        monkeypatch.setattr(module, "hash64", lambda text: len(text) % 2)
    store = Store.open(write(tmp_path / "s", [1, 2, 3, 4], ids=["a", "bb", "c", "dd"]))
    assert [store.row_of(name) for name in ("a", "bb", "c", "dd")] == [0, 1, 2, 3]
    with pytest.raises(StoreError):
        store.row_of("zz")


def test_anyone_can_read_it_with_numpy_and_pyarrow(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", [5, 9, 2])
    tokens = np.memmap(folder / "tokens.bin", dtype="<u2", mode="r")
    documents = pq.read_table(folder / "documents.parquet").to_pylist()
    texts = [tokens[d["offset"] : d["offset"] + d["length"]] for d in documents]
    assert [len(text) for text in texts] == [5, 9, 2]
    assert documents[1] == {"id": "doc-1", "file": "f.txt", "offset": 5, "length": 9, "row": 1}
    assert np.fromfile(folder / "offsets.i64", dtype="<i8").tolist() == [0, 5, 14, 16]


def test_a_large_vocabulary_needs_wider_tokens(tmp_path: Path) -> None:
    assert token_dtype(65_536) == "uint16"
    assert token_dtype(65_537) == "uint32"
    store = Store.open(write(tmp_path / "s", [1000], vocab_size=200_000))
    assert store.tokens.dtype == np.uint32
    np.testing.assert_array_equal(store.document_tokens(0), np.random.default_rng(1).integers(3, 200_000, 1000))


def test_an_empty_split_can_be_opened(tmp_path: Path) -> None:
    store = Store.open(write(tmp_path / "s", []), verify=True)
    assert (len(store.tokens), store.offsets.tolist(), store.stats([64]).sequences) == (0, [0], {64: 0})
    with pytest.raises(StoreError, match="none: it is empty"):
        store.row_of("x")


def test_stats_count_sequences_for_any_length(tmp_path: Path) -> None:
    store = Store.open(write(tmp_path / "s", [1, 62, 63, 200]))
    stats = store.stats([64, 13])
    assert stats.sequences == {64: 1 + 1 + 2 + 4, 13: 1 + 6 + 6 + 19}
    assert (stats.documents, stats.tokens, stats.text_bytes) == (4, 326, 326)
    assert stats.mean_tokens(64) == 326 / 8
    assert store.pieces(64).count == 8
    assert store.pieces(13).count == 32
    assert store.pieces(64) is store.pieces(64)


@pytest.mark.parametrize("at_once", [1, 3, 7, 8, 20])
def test_the_bytes_do_not_depend_on_how_many_documents_come_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(store_writer, "ROWS_PER_GROUP", 7)
    lengths = [1 + row * 5 % 23 for row in range(45)]
    one, other = write(tmp_path / "a", lengths), write(tmp_path / "b", lengths, at_once=at_once)
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in other.iterdir()
    }


def test_the_digest_is_over_content_and_ids_and_nothing_else(tmp_path: Path) -> None:
    one = Store.open(write(tmp_path / "a", [3, 4])).manifest
    two = Store.open(write(tmp_path / "b", [3, 4])).manifest
    other_ids = Store.open(write(tmp_path / "c", [3, 4], ids=["x", "y"])).manifest
    assert one == two
    assert one.digest != other_ids.digest


@pytest.mark.parametrize("name", ["tokens.bin", "offsets.i64", "documents.parquet", "ids.u64", "ids-rows.i64"])
def test_a_changed_store_is_refused(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "s", [30, 40])
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(StoreError, match=f"(?s)a changed store: .*{name} is not as it was written.*SHA-256"):
        Store.open(folder, verify=True)
    (folder / name).write_bytes(data[:-1])
    with pytest.raises(StoreError, match=f"(?s)a changed store: .*{name}.*bytes.*seqpair prepare"):
        Store.open(folder)
    (folder / name).unlink()
    with pytest.raises(StoreError, match="no file"):
        Store.open(folder)


def test_a_missing_damaged_or_newer_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store"):
        Store.open(tmp_path / "nowhere")
    folder = write(tmp_path / "s", [3])
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(StoreError, match=r"another format\n  seen: 99\n  allowed: 2"):
        Store.open(folder)
    (folder / MANIFEST).write_text(json.dumps({**manifest, "tokens": "many"}))
    with pytest.raises(StoreError, match="manifest of the store .* is not readable"):
        Store.open(folder)


def test_a_store_made_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    store = Store.open(write(tmp_path / "s", [3]))
    store.require_tokenizer("t" * 64)
    with pytest.raises(StoreError, match="a store made with another tokenizer"):
        store.require_tokenizer("u" * 64)
