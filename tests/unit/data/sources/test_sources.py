import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from seqpair.data.sources.documents import Document, Tally, documents, is_held_out
from seqpair.data.sources.opening import open_source, training_documents
from seqpair.errors import DataError
from seqpair.recipe.data_spec import SourceSpec

TEXTS = ["one document", "zwei Bäume\nim Wind", "third 文章 with 🙂", " leading and trailing "]


def read(spec: SourceSpec) -> tuple[list[Document], Tally]:
    tally = Tally()
    return list(documents(open_source(spec), tally)), tally


def packed(data: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(data)
    if suffix == ".zst":
        half = len(data) // 2  # two frames, as concatenated files have
        return zstandard.compress(data[:half]) + zstandard.compress(data[half:])
    return data


def json_lines(records: list[object]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_text_files_give_one_document_each(tmp_path: Path, suffix: str) -> None:
    for index, text in enumerate(TEXTS):
        (tmp_path / f"sub{index % 2}").mkdir(exist_ok=True)
        (tmp_path / f"sub{index % 2}" / f"{index}.txt{suffix}").write_bytes(packed(text.encode(), suffix))
    documents, tally = read(SourceSpec(name="s", kind="text", paths=(str(tmp_path),)))
    assert sorted(document.text for document in documents) == sorted(TEXTS)
    assert [document.id for document in documents] == [f"sub{index % 2}/{index}.txt{suffix}" for index in (0, 2, 1, 3)]
    assert all(document.text_bytes == len(document.text.encode()) for document in documents)
    assert tally.rows == 4
    assert not tally.rejected


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_json_lines_give_one_document_a_row(tmp_path: Path, suffix: str) -> None:
    data = json_lines([{"text": text, "key": index} for index, text in enumerate(TEXTS)])
    (tmp_path / f"a.jsonl{suffix}").write_bytes(packed(data, suffix))
    documents, tally = read(SourceSpec(name="s", kind="jsonl", paths=(str(tmp_path / "*.jsonl*"),), id_field="key"))
    assert [document.text for document in documents] == TEXTS
    assert [document.id for document in documents] == ["0", "1", "2", "3"]
    assert [document.row for document in documents] == [0, 1, 2, 3]
    assert tally.bytes_done == (tmp_path / f"a.jsonl{suffix}").stat().st_size


def test_a_file_named_in_full_may_have_any_ending(tmp_path: Path) -> None:
    (tmp_path / "dump.data").write_bytes(json_lines([{"text": "hello"}]))
    documents, _ = read(SourceSpec(name="s", kind="jsonl", paths=(str(tmp_path / "dump.data"),)))
    assert [document.id for document in documents] == ["dump.data:0"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_gives_one_document_a_row(tmp_path: Path, kind: pa.DataType) -> None:
    table = pa.table({"text": pa.array(TEXTS * 200).cast(kind), "id": [f"d{i}" for i in range(800)]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=300)
    documents, tally = read(SourceSpec(name="s", kind="parquet", paths=(str(tmp_path),), id_field="id"))
    assert [document.text for document in documents] == TEXTS * 200
    assert [document.id for document in documents] == [f"d{i}" for i in range(800)]
    assert tally.bytes_done == (tmp_path / "a.parquet").stat().st_size


def test_several_text_fields_are_joined_by_a_blank_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines([{"title": "T", "body": "B"}, {"title": "", "body": "only"}]))
    documents, _ = read(SourceSpec(name="s", kind="jsonl", paths=(str(tmp_path),), text_field=("title", "body")))
    assert [document.text for document in documents] == ["T\n\nB", "only"]


def test_bad_json_rows_are_counted_by_reason_and_skipped(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"text": "fine"}',
        b'{"text": null}',
        b'{"text": ""}',
        b'{"text": "  \\n"}',
        b'{"text": 7}',
        b'{"text": "cut',
        b'["a list"]',
        b'{"other": "x"}',
        b'{"text": "bad \xff byte"}',
        b'{"text": "half a pair \\ud83d"}',
        b"",
        b"[" * 5000 + b"]" * 5000,
        b'{"text": "also fine"}',
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    documents, tally = read(SourceSpec(name="s", kind="jsonl", paths=(str(tmp_path),)))
    assert [(document.text, document.row) for document in documents] == [("fine", 0), ("also fine", 12)]
    assert dict(tally.rejected) == {
        "null text": 1,
        "empty text": 2,
        "text is not a string": 1,
        "broken JSON": 3,
        "missing field 'text'": 1,
        "invalid UTF-8": 2,
    }
    assert tally.examples["empty text"] == "a.jsonl:3"
    assert tally.examples["invalid UTF-8"] == "a.jsonl:9"
    assert tally.rows == 12  # the blank line is no row


def test_bad_parquet_rows_are_counted_by_reason_and_skipped(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(
        pa.string(), 4, [None, pa.array([0, 4, 6, 6, 10], pa.int32()).buffers()[1], pa.py_buffer(b"good\xff\xfefine")]
    )
    pq.write_table(pa.table({"text": broken, "id": ["a", "b", "c", None]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": pa.array([None, "x"]), "id": ["d", "e"]}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"text": [1, 2], "id": ["f", "g"]}), tmp_path / "c.parquet")
    documents, tally = read(SourceSpec(name="s", kind="parquet", paths=(str(tmp_path),), id_field="id"))
    assert [(document.id, document.text) for document in documents] == [("a", "good"), ("e", "x")]
    assert dict(tally.rejected) == {
        "invalid UTF-8": 1,
        "empty text": 1,
        "missing id": 1,
        "null text": 1,
        "text is not a string": 2,
    }
    assert tally.examples["text is not a string"] == "c.parquet:1"


def test_invalid_utf8_text_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    (tmp_path / "b.txt").write_bytes(b"fine")
    (tmp_path / "c.txt").write_bytes(b" \n")
    documents, tally = read(SourceSpec(name="s", kind="text", paths=(str(tmp_path),)))
    assert [document.text for document in documents] == ["fine"]
    assert dict(tally.rejected) == {"invalid UTF-8": 1, "empty text": 1}
    assert tally.summary() == "1 x empty text (first: c.txt:1); 1 x invalid UTF-8 (first: a.txt:1)"


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "garbage"])
def test_a_damaged_compressed_file_is_an_error_not_a_shorter_text(tmp_path: Path, suffix: str, damage: str) -> None:
    data = packed(json_lines([{"text": f"row {index}"} for index in range(5000)]), suffix)
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(data[:-40] if damage == "cut" else b"not compressed at all" + data)
    with pytest.raises(DataError, match=f"compressed file .*a.jsonl{suffix} is damaged or cut off"):
        read(SourceSpec(name="s", kind="jsonl", paths=(str(path),)))


def test_a_missing_path_names_it_and_the_recipes_folder(tmp_path: Path) -> None:
    spec = SourceSpec(name="s", kind="text", paths=("nowhere/x.txt",))
    with pytest.raises(DataError, match=r"source 's': there is no file or folder 'nowhere/x\.txt'") as caught:
        open_source(spec, tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_or_pattern_without_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    for path in (str(tmp_path), str(tmp_path / "*.jsonl")):
        with pytest.raises(DataError, match="no file of kind 'jsonl'"):
            open_source(SourceSpec(name="s", kind="jsonl", paths=(path,)))
    with pytest.raises(DataError, match="names no files"):
        open_source(SourceSpec(name="s", kind="jsonl"))


def test_a_missing_parquet_column_names_those_that_are_there(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["x"], "url": ["u"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="has no column 'text'") as caught:
        read(SourceSpec(name="s", kind="parquet", paths=(str(tmp_path),)))
    assert "body, url" in str(caught.value)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 this is not one")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read(SourceSpec(name="s", kind="parquet", paths=(str(tmp_path),)))


def test_labels_are_unique_and_do_not_depend_on_where_the_source_lies(tmp_path: Path) -> None:
    for root in ("here", "there"):
        for name in ("a/x.txt", "b/x.txt", "b/.hidden.txt"):
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(name)
    labels = [
        [file.label for file in open_source(SourceSpec(name="s", kind="text", paths=(str(tmp_path / root),))).files]
        for root in ("here", "there")
    ]
    assert labels == [["a/x.txt", "b/x.txt"]] * 2


def test_held_out_is_a_share_by_hash_and_a_larger_share_holds_out_more() -> None:
    keys = [f"key {index}" for index in range(20_000)]
    small = {key for key in keys if is_held_out(key, 0.01)}
    large = {key for key in keys if is_held_out(key, 0.05)}
    assert small < large
    assert 140 < len(small) < 260
    assert 900 < len(large) < 1100
    assert not any(is_held_out(key, 0.0) for key in keys)


def test_equal_documents_fall_on_the_same_side(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(json_lines([{"text": f"t{index % 40}"} for index in range(400)]))
    spec = SourceSpec(name="s", kind="jsonl", paths=(str(tmp_path),), held_out_frac=0.3)
    training = [document.text for document in training_documents(open_source(spec))]
    assert 0 < len(set(training)) < 40
    assert all(training.count(text) == 10 for text in set(training))


def test_lines_are_read_alike_in_any_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.dumps({"text": f"row {index} " + "x" * (index * 7 % 90)}) for index in range(300)]
    lines[10], lines[100], lines[200], lines[201] = "", '{"text": null}', "{", ""
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    (tmp_path / "b.jsonl").write_text("\n".join(lines[:3]) + "\n")
    (tmp_path / "c.jsonl").write_text("")
    spec = SourceSpec(name="s", kind="jsonl", paths=(str(tmp_path),))
    whole, whole_tally = read(spec)
    assert len(open_source(spec).units()) == 3
    for unit_bytes in (1, 100, 1000, 5000):
        monkeypatch.setattr("seqpair.data.sources.text.LEAST_UNIT_BYTES", unit_bytes)
        units = open_source(spec).units()
        assert len(units) > 4
        assert sum(unit.size_bytes for unit in units) == sum(file.size_bytes for file in open_source(spec).files)
        cut, tally = read(spec)
        assert cut == whole
        assert (tally.rejected, tally.examples, tally.rows) == (
            whole_tally.rejected,
            whole_tally.examples,
            whole_tally.rows,
        )
    assert whole_tally.examples == {"null text": "a.jsonl:101", "broken JSON": "a.jsonl:201"}
    assert whole[-1].id == "b.jsonl:2"


def test_row_groups_and_small_files_are_read_alike_in_any_units(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(pa.table({"text": [f"row {i} " * 9 for i in range(500)]}), tmp_path / "a.parquet", row_group_size=30)
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "b.parquet")
    for index in range(20):
        (tmp_path / f"{index:02d}.txt").write_text(f"tale {index} " * (index + 1))
    for kind, least in (("parquet", 17), ("text", 7)):
        spec = SourceSpec(name="s", kind=kind, paths=(str(tmp_path),))
        monkeypatch.setattr("seqpair.data.sources.text.LEAST_UNIT_BYTES", 1 << 30)
        whole, _ = read(spec)
        for unit_bytes in (1, 300, 1000):
            monkeypatch.setattr("seqpair.data.sources.text.LEAST_UNIT_BYTES", unit_bytes)
            monkeypatch.setattr("seqpair.data.sources.text.MOST_UNIT_BYTES", unit_bytes)
            source = open_source(spec)
            assert unit_bytes > 300 or len(source.units()) >= least
            assert sum(unit.size_bytes for unit in source.units()) == sum(file.size_bytes for file in source.files)
            cut, tally = read(spec)
            assert cut == whole
            assert tally.bytes_done == sum(file.size_bytes for file in source.files)


def test_a_line_or_file_beyond_the_limit_is_refused_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seqpair.data.sources.text.MOST_DOCUMENT_BYTES", 1000)
    monkeypatch.setattr("seqpair.data.sources.documents.MOST_DOCUMENT_BYTES", 1000)
    monkeypatch.setattr("seqpair.data.sources.text.MOST_FIELD_BYTES", 1000)
    monkeypatch.setattr("seqpair.data.sources.text.LEAST_UNIT_BYTES", 100)
    lines = [b'{"text": "one"}', b"\0" * 5000, b'{"text": "two"}', b"z" * 999, b'{"text": "three"}', b"y" * 1000]
    for suffix in ("", ".gz"):
        (tmp_path / f"a.jsonl{suffix}").write_bytes(packed(b"\n".join(lines), suffix))
        documents, tally = read(SourceSpec(name="s", kind="jsonl", paths=(str(tmp_path / f"a.jsonl{suffix}"),)))
        assert [(document.text, document.row) for document in documents] == [("one", 0), ("two", 2), ("three", 4)]
        assert dict(tally.rejected) == {"a line, column or member longer than 128.0 MiB": 2, "broken JSON": 1}
    (tmp_path / "a.txt").write_bytes(b"x" * 1001)
    (tmp_path / "b.txt").write_bytes(b"x" * 1000)
    documents, tally = read(SourceSpec(name="s", kind="text", paths=(str(tmp_path),)))
    assert [document.file for document in documents] == ["b.txt"]
    assert tally.examples == {"longer than 16.0 MiB": "a.txt:1"}
