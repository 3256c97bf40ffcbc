import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mds_writer import PACKERS, Row, shard_bytes, write_mds

from seqpair.data.sources.mds_format import INDEX, MdsShard, packing_of, read_mds_index, read_samples
from seqpair.errors import DataError

TEXT = {"text": "str", "id": "str"}
TOKENS = {"input_ids": "ndarray", "id": "str", "len": "int"}
ROWS: list[Row] = [{"text": f"document {index} \u6587", "id": f"d{index}"} for index in range(25)]
QUICK = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def shards_of(folder: Path) -> list[MdsShard]:
    return [
        MdsShard(folder / entry.zip_data.basename, packing_of(entry), entry)
        if entry.zip_data
        else MdsShard(folder / entry.raw_data.basename, None, entry)
        for entry in read_mds_index(folder / INDEX)
    ]


def read_all(folder: Path, *columns: str, bytes_dtype: str | None = None) -> list[tuple[Any, ...]]:
    return [values for shard in shards_of(folder) for values in read_samples(shard, columns, bytes_dtype)]


@pytest.mark.parametrize("packing", [None, *PACKERS])
def test_text_shards_come_back_whole_and_in_order(tmp_path: Path, packing: str | None) -> None:
    folder = write_mds(tmp_path / "a", TEXT, ROWS, packing=packing, hashes=["sha1"])
    assert read_all(folder, "id", "text") == [(row["id"].encode(), row["text"].encode()) for row in ROWS]
    assert read_all(folder, "text") == [(row["text"].encode(),) for row in ROWS]
    assert len(list(folder.iterdir())) == 4  # nothing was unpacked onto the disk


@pytest.mark.parametrize("encoding", ["ndarray", "ndarray:uint32", "ndarray:uint16", "ndarray:int64", "ndarray:int32"])
@pytest.mark.parametrize("length", [1, 255, 256, 70_000])
def test_arrays_of_every_dtype_and_length_come_back(tmp_path: Path, encoding: str, length: int) -> None:
    dtype = encoding.partition(":")[2] or "uint32"
    ids = (np.arange(length) * 7919 % 50_368).astype(dtype)
    rows = [{"input_ids": ids, "id": "x", "len": length}]
    folder = write_mds(tmp_path / "a", {**TOKENS, "input_ids": encoding}, rows)
    [(read, count)] = read_all(folder, "input_ids", "len")
    assert count == length
    assert read.dtype == np.int64
    assert np.array_equal(read, ids.astype(np.int64))


def test_arrays_of_a_fixed_shape_and_arrays_as_bytes_come_back(tmp_path: Path) -> None:
    ids = np.arange(8, dtype="<u2")
    folder = write_mds(tmp_path / "a", {"x": "ndarray:uint16:8", "y": "bytes"}, [{"x": ids, "y": ids.tobytes()}])
    [(fixed, plain)] = read_all(folder, "x", "y", bytes_dtype="uint16")
    assert fixed.tolist() == plain.tolist() == list(range(8))
    [(raw,)] = read_all(folder, "y")
    assert raw == ids.tobytes()


@QUICK
@given(
    rows=st.lists(
        st.tuples(
            st.text(max_size=50), st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=300), st.integers(0, 9)
        ),
        min_size=1,
        max_size=30,
    ),
    packing=st.sampled_from([None, *PACKERS]),
    shard_rows=st.integers(1, 12),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], packing: str | None, shard_rows: int
) -> None:
    folder = tmp_path_factory.mktemp("mds")
    columns = {"text": "str", "ids": "ndarray", "n": "uint16", "more": "ndarray:uint32"}
    records = [
        {"text": text.encode("utf-8", "replace"), "ids": np.array(ids, "<u4"), "n": n, "more": ids}
        for text, ids, n in rows
    ]
    write_mds(folder, columns, records, packing=packing, shard_rows=shard_rows, hashes=["sha256"])
    read = read_all(folder, "n", "text", "ids", "more")
    assert [(n, text) for n, text, _, _ in read] == [(record["n"], record["text"]) for record in records]
    assert [ids.tolist() for _, _, ids, _ in read] == [ids for _, ids, _ in rows]
    assert [more.tolist() for *_, more in read] == [ids for _, ids, _ in rows]


@QUICK
@given(data=st.data(), packing=st.sampled_from([None, "zstd"]), hashed=st.booleans())
def test_a_cut_or_changed_shard_never_gives_a_wrong_shape(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, packing: str | None, hashed: bool
) -> None:
    """With hashes any change is found; without, a change of values alone is not, but nothing is lost or shifted."""
    folder = tmp_path_factory.mktemp("mds")
    write_mds(folder, TEXT, ROWS, packing=packing, shard_rows=25, hashes=["sha1"] if hashed else [])
    [shard] = shards_of(folder)
    assert isinstance(shard.file, Path)
    whole = shard.file.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        shard.file.write_bytes(whole[:at])
        must_fail = True
    else:
        bit = 1 << data.draw(st.integers(0, 7))
        shard.file.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
        must_fail = hashed
    read: list[Any] | None = None
    with contextlib.suppress(DataError):
        read = list(read_samples(shard, ["id", "text"]))
    if must_fail:
        assert read is None
    elif read is not None:
        assert [len(a) + len(b) for a, b in read] == [len(row["id"]) + len(row["text"].encode()) for row in ROWS]


@QUICK
@given(junk=st.binary(max_size=400))
def test_binary_junk_is_one_clear_error(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    folder = tmp_path_factory.mktemp("mds")
    write_mds(folder, TEXT, ROWS, shard_rows=25)
    [shard] = shards_of(folder)
    assert isinstance(shard.file, Path)
    shard.file.write_bytes(junk)
    with pytest.raises(DataError, match="damaged or cut off"):
        list(read_samples(shard, ["text"]))
    same_size = (junk or b"\0") * 2000
    shard.file.write_bytes(same_size[: shard.entry.raw_data.bytes])
    with pytest.raises(DataError, match="damaged or cut off"):
        list(read_samples(shard, ["text"]))
    (folder / INDEX).write_bytes(junk)
    with pytest.raises(DataError, match="not the index of an MDS folder"):
        read_mds_index(folder / INDEX)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 1}, "version"),
        ({"format": "csv"}, "format"),
        ({"samples": -1}, "samples"),
        ({"column_sizes": [None]}, "differ in length"),
        ({"raw_data": {"basename": "../../etc/passwd", "bytes": 1}}, "leaves the folder"),
        ({"raw_data": {"basename": "/etc/passwd", "bytes": 1}}, "leaves the folder"),
    ],
)
def test_an_index_that_cannot_be_trusted_is_refused(tmp_path: Path, change: Row, message: str) -> None:
    folder = write_mds(tmp_path / "a", TEXT, ROWS)
    index = json.loads((folder / INDEX).read_text())
    index["shards"][1].update(change)
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(DataError, match="not the index of an MDS folder") as caught:
        read_mds_index(folder / INDEX)
    assert message in str(caught.value)


def test_an_index_with_another_count_or_other_columns_than_the_shard_is_refused(tmp_path: Path) -> None:
    folder = write_mds(tmp_path / "a", TEXT, ROWS, shard_rows=25)
    index = json.loads((folder / INDEX).read_text())
    for change, message in (({"samples": 24}, "25 samples"), ({"column_names": ["id", "body"]}, "shard's header")):
        broken = {**index, "shards": [{**index["shards"][0], **change}]}
        (folder / INDEX).write_text(json.dumps(broken))
        with pytest.raises(DataError, match="damaged") as caught:
            read_all(folder, "id")
        assert message in str(caught.value)


def test_a_missing_column_names_those_that_are_there(tmp_path: Path) -> None:
    folder = write_mds(tmp_path / "a", TEXT, ROWS)
    with pytest.raises(DataError, match="has no column 'body'") as caught:
        read_all(folder, "body")
    assert "id, text" in str(caught.value)


@pytest.mark.parametrize("encoding", ["ndarray:float32", "ndarray:uint16:2,4", "pkl", "jpeg", "ndarray:complex64"])
def test_an_encoding_that_is_no_text_and_no_whole_numbers_is_refused(tmp_path: Path, encoding: str) -> None:
    folder = write_mds(tmp_path / "a", {"x": "bytes"}, [{"x": b"12345678"}])
    index = json.loads((folder / INDEX).read_text())
    index["shards"][0]["column_encodings"] = [encoding]
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(DataError, match="neither text nor whole numbers") as caught:
        read_all(folder, "x")
    assert encoding in str(caught.value)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (b"", "no dtype has the code -1"),
        (b"\x22\x04\x01\x00\x00\x00\x00", "float32"),
        (b"\x63\x04\x01\x00", "code 99"),
        (b"\x20", "without a shape"),
        (b"\x20\x08\x01\x01" + b"\0" * 4, "2 axes"),
        (b"\x20\x04\x03" + b"\0" * 8, "do not hold 3 values"),
    ],
)
def test_an_array_that_is_none_names_its_sample(tmp_path: Path, stored: bytes, message: str) -> None:
    folder = write_mds(tmp_path / "a", {"x": "bytes"}, [{"x": stored}])
    for file in (folder / INDEX, folder / "shard.00000.mds"):
        file.write_bytes(file.read_bytes().replace(b'"bytes"\n', b'"ndarray"\n').replace(b'["bytes"]', b'["ndarray"]'))
    data = folder / "shard.00000.mds"
    grown = len(data.read_bytes()) - len(shard_bytes({"x": "bytes"}, [{"x": stored}]))
    count, begin, end = struct.unpack("<3I", data.read_bytes()[:12])
    data.write_bytes(struct.pack("<3I", count, begin + grown, end + grown) + data.read_bytes()[12:])
    index = json.loads((folder / INDEX).read_text())
    index["shards"][0]["raw_data"]["bytes"] += grown
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(DataError, match="sample 0") as caught:
        read_all(folder, "x")
    assert message in str(caught.value)


def test_a_compression_that_is_not_read_here_is_named(tmp_path: Path) -> None:
    folder = write_mds(tmp_path / "a", TEXT, ROWS, packing="gz")
    (folder / INDEX).write_text((folder / INDEX).read_text().replace('"compression": "gz"', '"compression": "br:11"'))
    with pytest.raises(DataError, match="compression that is not read here") as caught:
        shards_of(folder)
    assert "br:11" in str(caught.value)
