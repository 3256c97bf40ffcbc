"""Bad tables at the strict door (finetune, eval, embed, generate) and at the counting door (prepare)."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from refusals import refuses

from seqpair.data.sources.documents import Tally, documents
from seqpair.data.sources.opening import open_source
from seqpair.data.sources.tables import table_rows
from seqpair.errors import DataError
from seqpair.evaluate.finetune.set_spec import SetSpec, labelled_set
from seqpair.models.text_file import read_texts
from seqpair.recipe.data_spec import SourceSpec

HALF = '{"text": "half an emoji \\ud83d", "label": "a"}\n'
GOOD = '{"text": "fine", "label": "a"}\n'
STRICT: list[tuple[str, bytes, tuple[str, ...]]] = [
    ("a.jsonl", HALF.encode(), ("line 1", "not valid Unicode")),
    ("a.jsonl", (GOOD + HALF).encode(), ("line 2", "not valid Unicode")),
    ("a.jsonl", b'{"text": ["\\udc00"]}\n', ("line 1", "not valid Unicode")),
    ("a.jsonl", b'{"\\ud83d": 1, "text": "x"}\n', ("line 1", "not valid Unicode")),
    ("a.jsonl", b'{"text": {"deep": ["\\ud83d"]}}\n', ("line 1", "not valid Unicode")),
    ("a.jsonl", b'{"text": "caf\xe9"}\n', ("line 1", "byte 0xe9", "UTF-8")),
    ("a.jsonl", GOOD.encode() + b'{"text": "\xff\xfe"}\n', ("line 2", "byte 0xff")),
    ("a.jsonl", '{"text": "x"}'.encode("utf-16"), ("line 1", "UTF-8")),
    ("a.jsonl", b'{"text": "x"\n', ("line 1", "not JSON")),
    ("a.jsonl", b"[1, 2]\n", ("line 1", "no JSON object")),
    ("a.jsonl", b'"text"\n', ("line 1", "no JSON object")),
    ("a.jsonl", b"null\n", ("line 1", "no JSON object")),
    ("a.jsonl", b"12\n", ("line 1", "no JSON object")),
    ("a.jsonl", b'{"text": "a", "text": "b"}\n', ("line 1", "two values of one key", "'text'")),
    ("a.jsonl", b'{"a": {"b": 1, "b": 2}}\n', ("line 1", "two values of one key")),
    ("a.jsonl", b"[" * 100_000 + b"\n", ("line 1", "not JSON")),
    ("a.jsonl", b'{"a":' * 100_000 + b"\n", ("line 1", "not JSON")),
    ("a.jsonl", b"text,label\nx,a\n", ("line 1", "not JSON")),
    ("a.ndjson", b"{\n", ("line 1", "not JSON")),
    ("a.unknown", b"no json\n", ("line 1", "not JSON")),
    ("a.csv", b"text,text\nx,y\n", ("two columns of one name", "text")),
    ("a.csv", b"text,label\nx\n", ("line 2", "another number of columns")),
    ("a.csv", b"text,label\nx,a,more\n", ("line 2", "another number of columns")),
    ("a.csv", b"text,label\ncaf\xe9,a\n", ("line 2", "'text'", "not valid Unicode")),
    ("a.csv", b"te\xffxt,label\nx,a\n", ("line 1", "not valid Unicode")),
    ("a.csv", b'text,label\n"never closed,a\nx,b\n', ("not readable as CSV", "quoting")),
    ("a.csv", b'text,label\n"one"two,a\n', ("not readable as CSV",)),
    ("a.tsv", b"text\tlabel\nx\n", ("line 2", "another number of columns")),
    ("a.tsv", b"text\ttext\nx\ty\n", ("two columns of one name",)),
    ("a.tsv", b"text\tlabel\n\xff\ta\n", ("line 2", "not valid Unicode")),
    ("a.tsv", b'text\tlabel\n"two\nlines"\ta\n', ("line 2", "another number of columns")),
    ("a.parquet", b"no parquet", ("not a readable Parquet file",)),
    ("a.parquet", b"", ("not a readable Parquet file",)),
    ("a.parquet", b"PAR1 cut off", ("not a readable Parquet file",)),
    ("a.conll", b"word\n", ("line 1", "no tag")),
    ("a.conll", b"one A\n\nw\xe9 B\n", ("line 3", "not valid Unicode")),
    ("a.jsonl.gz", gzip.compress(GOOD.encode() * 50)[:-20], ("damaged or cut off",)),
    ("a.jsonl.gz", GOOD.encode(), ("damaged or cut off",)),
    ("a.jsonl.zst", zstandard.compress(GOOD.encode() * 50)[:-5], ("damaged or cut off",)),
    ("a.jsonl.zst", GOOD.encode(), ("damaged or cut off",)),
    ("a.csv.gz", b"text,label\n", ("damaged or cut off",)),
]


@pytest.mark.parametrize(("name", "content", "words"), STRICT, ids=range(len(STRICT)))
def test_a_bad_table_is_one_error_with_file_and_row(tmp_path: Path, name: str, content: bytes, words: Any) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    refuses(lambda: list(table_rows(path)), name, *words)
    if name.endswith((".jsonl", ".csv", ".tsv", ".parquet", ".gz", ".zst")):
        refuses(lambda: read_texts(path), name, *words)
        refuses(lambda: labelled_set(SetSpec(name="s", train=str(path))), name, *words)


TEXTS: list[tuple[bytes, tuple[str, ...]]] = [
    (b'{"body": "x"}\n', ("line 1", "no text", "body")),
    (b'{"text": 3}\n', ("line 1", "no text", "3")),
    (b'{"text": null}\n', ("line 1", "no text")),
    (b'{"text": ["x"]}\n', ("line 1", "no text")),
    (b'{"text": true}\n', ("line 1", "no text")),
    (b'{"text": "x", "id": 1.5}\n', ("line 1", "no string or integer")),
    (b'{"text": "x", "id": [1]}\n', ("line 1", "no string or integer")),
    (b'{"text": "x", "id": {"a": 1}}\n', ("line 1", "no string or integer")),
    (b'{"text": "x", "id": true}\n', ("line 1", "no string or integer")),
    (b'{"text": "x", "id": null}\n', ("line 1", "no string or integer")),
    (b'{"text": "x", "id": ""}\n', ("line 1", "no string or integer")),
    (b'{"text": "x", "id": 1}\n{"text": "y", "id": "1"}\n', ("line 2", "its id occurs twice", "1")),
    (b'{"text": "x", "id": "2"}\n{"text": "y"}\n', ("line 2", "its id occurs twice", "2")),
    (b"", ("contains no text",)),
    (b"\n\n  \n", ("contains no text",)),
    (b"\xef\xbb\xbf", ("contains no text",)),
]


@pytest.mark.parametrize(("content", "words"), TEXTS, ids=range(len(TEXTS)))
def test_a_bad_file_of_texts_is_one_error(tmp_path: Path, content: bytes, words: Any) -> None:
    (tmp_path / "t.jsonl").write_bytes(content)
    refuses(lambda: read_texts(tmp_path / "t.jsonl"), *words)


def test_a_file_that_is_not_there_or_is_a_folder_is_one_error(tmp_path: Path) -> None:
    refuses(lambda: read_texts(tmp_path / "none.jsonl"), "no such file")
    refuses(lambda: read_texts(tmp_path), "cannot be read")
    refuses(lambda: list(table_rows(tmp_path / "none.parquet")), "no such file")


@pytest.mark.parametrize("ending", [".jsonl", ".tsv", ".parquet", ".txt", ".conll", ""])
def test_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path, ending: str) -> None:
    pipe, device = tmp_path / f"pipe{ending}", tmp_path / f"device{ending}"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path in (pipe, device):
        refuses(lambda path=path: read_texts(path), path.name, "is no file", "a device, a pipe or a socket")


def test_rows_that_say_nothing_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": "" if n < 3 else f"t{n}", "label": n % 2}) + "\n" for n in range(30)))
    made = labelled_set(SetSpec(name="s", train=str(path), test=str(path)))
    assert made.note.startswith("A tenth of the training rows was kept apart as dev rows. All test rows are training")
    assert made.note.endswith("6 rows have an empty text.")


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (b"fine\ncaf\xe9\n", b"not valid Unicode"),
        (b'{"text": "fine"}\n{"text": "caf\xe9"}\n', b"not valid Unicode"),
        (b'{"text": "\\ud83d"}\n', b"not valid Unicode"),
        (b'[{"text": "x"}]\n', b"is no JSON object"),
    ],
)
def test_standard_input_that_has_no_texts_is_one_error(given: bytes, fault: bytes) -> None:
    command = [sys.executable, "-m", "seqpair", "search", "./nowhere", "-", "/dev/null"]
    found = subprocess.run(
        command, input=given, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C.UTF-8"}
    )
    assert found.returncode == 2
    assert f"standard input, line {given.count(10)}".encode() in found.stderr
    assert fault in found.stderr


def labelled(*labels: object) -> bytes:
    return "".join(json.dumps({"text": f"t{n}", "label": label}) + "\n" for n, label in enumerate(labels)).encode()


LABELS: list[tuple[bytes, dict[str, Any], tuple[str, ...]]] = [
    (labelled("a", "b", "-1"), {}, ("row 3", "no label", "'-1'")),
    (labelled("a", "b", "-"), {}, ("row 3", "no label", "'-'")),
    (labelled("a", "b", ""), {}, ("row 3", "no label", "''")),
    (labelled("a", "b", " "), {}, ("row 3", "no label")),
    (labelled("a", "b", "NaN"), {}, ("row 3", "no label")),
    (labelled(0, 1, -1), {}, ("row 3", "no label")),
    (labelled("a", "b", None), {}, ("row 3", "nothing in the column 'label'")),
    (labelled("a", "a", "a"), {}, ("one class only",)),
    (labelled("a", "b", "c"), {"labels": ("a", "b")}, ("row 3", "not one of the set's")),
    (labelled("1.5", "x"), {"kind": "number"}, ("row 2", "not a number")),
    (labelled("1.5", "inf"), {"kind": "number"}, ("row 2", "not a finite number")),
    (labelled("1.5", "nan"), {"kind": "number"}, ("row 2", "not a finite number")),
    (labelled(["A"], ["A", "B"]), {"kind": "tags"}, ("one tag per word",)),
    (labelled(True, 0.5), {"kind": "number"}, ("row 1", "not a number", "True")),
    (labelled("1.5", "1e300"), {"kind": "number"}, ("row 2", "too large")),
    (labelled("1.5", "1.50", 1.5), {"kind": "number"}, ("one number only", "1.5")),
    (labelled("good", "bad", "good "), {}, ("differ by blanks alone", "'good '", "'good'")),
    (labelled(["a"], ["b"]), {}, ("row 1", "no class")),
    (labelled("a", {"b": 1}), {}, ("row 2", "no class")),
    (b'{"text": "x", "label": "a"}\n{"text": 7, "label": "b"}\n', {}, ("row 2", "column 'text'", "no text", "int")),
    (b'{"text": ["x"], "label": "a"}\n{"text": "x", "label": "b"}\n', {}, ("row 1", "column 'text'", "no text")),
    (b'{"text": "x", "two": 1.5, "label": "1"}\n', {"pair": "two", "kind": "number"}, ("row 1", "column 'two'")),
    (
        b'{"text": "which?", "body": "a text", "label": "no"}\n',
        {"kind": "span", "pair": "body"},
        ("is not in the text",),
    ),
    (labelled(""), {"kind": "text"}, ("target is empty",)),
    (labelled("a", "b"), {"text": "body"}, ("row 1", "no column 'body'", "text, label")),
    (labelled("a", "b"), {"label": "mood"}, ("row 1", "no column 'mood'", "text, label")),
    (labelled("a", "b"), {"pair": "second"}, ("row 1", "no column 'second'")),
    (labelled("a", "b"), {"id": "key"}, ("row 1", "no column 'key'")),
    (b'{"text": "x", "label": "a", "id": 1.5}\n', {"id": "id"}, ("row 1", "no string or integer")),
    (b'{"text": "x", "label": "a", "id": [1]}\n', {"id": "id"}, ("row 1", "no string or integer")),
    (b'{"text": "x", "label": "a", "id": 1}\n' * 2, {"id": "id"}, ("row 2", "id occurs twice")),
]


@pytest.mark.parametrize(("content", "options", "words"), LABELS, ids=range(len(LABELS)))
def test_a_bad_label_is_one_error(tmp_path: Path, content: bytes, options: dict[str, Any], words: Any) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    refuses(lambda: labelled_set(SetSpec(name="s", train=str(path), dev=str(path), **options)), *words)


def read(kind: Any, path: Path, **options: Any) -> tuple[list[str], Tally]:
    tally = Tally()
    spec = SourceSpec(name="s", kind=kind, paths=(str(path),), **options)
    return [document.text for document in documents(open_source(spec), tally)], tally


COUNTED: list[tuple[str, bytes, dict[str, Any], str]] = [
    ("a.jsonl", b'{"text": "\\ud83d"}\n', {}, "invalid UTF-8"),
    ("a.jsonl", b'{"text": "\xff"}\n', {}, "invalid UTF-8"),
    ("a.jsonl", b'{"text": 1}\n', {}, "text is not a string"),
    ("a.jsonl", b'{"text": true}\n', {}, "text is not a string"),
    ("a.jsonl", b'{"text": []}\n', {}, "text is not a string"),
    ("a.jsonl", b'{"text": null}\n', {}, "null text"),
    ("a.jsonl", b'{"text": " "}\n', {}, "empty text"),
    ("a.jsonl", b'{"body": "x"}\n', {}, "missing field 'text'"),
    ("a.jsonl", b"[]\n", {}, "broken JSON"),
    ("a.jsonl", b"[" * 100_000 + b"\n", {}, "broken JSON"),
    ("a.jsonl", b'{"text": "x"}\n', {"id_field": "id"}, "missing field 'id'"),
    ("a.jsonl", b'{"text": "x", "id": null}\n', {"id_field": "id"}, "missing id"),
    ("a.jsonl", b'{"text": "x", "id": ""}\n', {"id_field": "id"}, "missing id"),
    ("a.jsonl", b'{"text": "x", "id": 1.5}\n', {"id_field": "id"}, "id is no string or integer"),
    ("a.jsonl", b'{"text": "x", "id": [1]}\n', {"id_field": "id"}, "id is no string or integer"),
    ("a.jsonl", b'{"text": "x", "id": true}\n', {"id_field": "id"}, "id is no string or integer"),
    ("a.jsonl", b'{"text": "x", "id": {}}\n', {"id_field": "id"}, "id is no string or integer"),
    ("a.jsonl", b'{"text": "x", "id": "\\ud83d"}\n', {"id_field": "id"}, "missing id: invalid UTF-8"),
    ("a.jsonl", b'{"text": "' + b"x" * (1 << 24) + b'y"}\n', {}, "longer than 16.0 MiB"),
    ("a.csv", b"text,n\nshort\n", {}, "another number of columns than the header"),
    ("a.csv", b"text,n\n\xff,1\n", {}, "invalid UTF-8"),
    ("a.csv", b"text,n\n,1\n", {}, "empty text"),
    ("a.txt", b"x" * ((1 << 24) + 1), {}, "longer than 16.0 MiB"),
    ("a.txt", b"x" * ((1 << 24) + 1), {"split": "bytes"}, "longer than 16.0 MiB"),
    ("a.txt", b"x" * ((1 << 24) + 1), {"split": "lines"}, "longer than 16.0 MiB"),
    ("a.txt", b"caf\xe9", {}, "invalid UTF-8"),
    ("a.txt", b"caf\xe9", {"split": "lines"}, "invalid UTF-8"),
    ("a.txt", b" \n ", {}, "empty text"),
]
KINDS = {"a.jsonl": "jsonl", "a.csv": "csv", "a.tsv": "csv", "a.txt": "text"}


@pytest.mark.parametrize(("name", "content", "options", "reason"), COUNTED, ids=range(len(COUNTED)))
def test_a_source_counts_a_row_it_cannot_use(tmp_path: Path, name: str, content: bytes, options: Any, reason: str):
    (tmp_path / name).write_bytes(content)
    texts, tally = read(KINDS[name], tmp_path, **options)
    assert texts == []
    assert reason in tally.rejected
    assert tally.examples[reason].startswith(f"{name}:")


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        (pa.array([1.5, 2.5]), "id is no string or integer"),
        (pa.array([[1], [2]]), "id is no string or integer"),
        (pa.array([True, False]), "id is no string or integer"),
        (pa.array([None, None], pa.string()), "missing id"),
        (pa.array([{"a": 1}, {"a": 2}]), "id is no string or integer"),
    ],
    ids=range(5),
)
def test_ids_of_another_type_are_named(tmp_path: Path, ids: pa.Array, reason: str) -> None:
    pq.write_table(pa.table({"text": ["x", "y"], "id": ids}), tmp_path / "a.parquet")
    texts, tally = read("parquet", tmp_path, id_field="id")
    assert (texts, dict(tally.rejected)) == ([], {reason: 2})


def test_a_parquet_file_with_two_columns_of_one_name_is_one_error(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    refuses(lambda: read("parquet", tmp_path), "two columns of one name", "text")
    refuses(lambda: list(table_rows(tmp_path / "a.parquet")), "two columns of one name", "text")


def test_what_is_right_is_read_everywhere(tmp_path: Path) -> None:
    """A byte order mark, packed files, large windows, quotes in TSV files, Parquet, and any case of an ending."""
    rows = b"\xef\xbb\xbf" + b'{"text": "one"}\r\n{"text": "two", "id": 7}\n'
    (tmp_path / "a.jsonl").write_bytes(rows)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(rows))
    for name in ("a.jsonl", "b.jsonl.gz"):
        assert [one.text for one in read_texts(tmp_path / name)] == ["one", "two"]
        assert read("jsonl", tmp_path / name)[0] == ["one", "two"]
    (tmp_path / "q.tsv").write_bytes(b'text\tlabel\n"begins\ta\nends"\tb\n')
    assert [row["text"] for _, row in table_rows(tmp_path / "q.tsv")] == ['"begins', 'ends"']
    assert read("csv", tmp_path / "q.tsv")[0] == ['"begins', 'ends"']
    (tmp_path / "d.tsv").write_bytes(b'text\tlabel\n"two\nlines"\ta\n')
    assert read("csv", tmp_path / "d.tsv", quoting="double")[0] == ["two\nlines"]
    assert [row["text"] for _, row in table_rows(tmp_path / "d.tsv", quoting="double")] == ["two\nlines"]
    pq.write_table(pa.table({"text": ["x"], "n": [1]}), tmp_path / "p.PARQUET")
    assert [row for _, row in table_rows(tmp_path / "p.PARQUET")] == [{"text": "x", "n": 1}]


def test_a_window_above_128_mib_is_read(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, enable_ldm=True)
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = frame.compress(GOOD.encode() * 20) + frame.flush()
    assert zstandard.get_frame_parameters(data).window_size > 1 << 27
    (tmp_path / "a.jsonl.zst").write_bytes(data)
    assert read("jsonl", tmp_path)[0] == ["fine"] * 20


@pytest.mark.parametrize(("split", "texts"), [("lines", ["a", "b", "c"]), ("blank_lines", ["a\nb\n", "c\n"])])
def test_a_text_file_is_split_by_a_stated_rule(tmp_path: Path, split: str, texts: list[str]) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfa\nb\n\n  \nc\n")
    assert read("text", tmp_path, split=split)[0] == texts


def test_pieces_of_bytes_are_whole_lines_and_lose_nothing(tmp_path: Path) -> None:
    lines = "".join(f"line {number} of many\n" for number in range(150_000))
    (tmp_path / "a.txt").write_text(lines)
    texts, _ = read("text", tmp_path, split="bytes")
    assert "".join(texts) == lines
    assert len(texts) == 1 + len(lines) // (1 << 20)
    assert all(len(text) <= 1 << 20 and text.endswith("\n") for text in texts)


def test_an_unknown_split_and_quoting_are_refused() -> None:
    for options in ({"kind": "text", "split": "words"}, {"kind": "csv", "quoting": "single"}):
        with pytest.raises(ValueError, match=r"blank_lines|double"):
            SourceSpec(name="s", paths=("a",), **options)


def test_a_file_name_that_is_not_utf8_is_left_out_or_named(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_bytes(b"good")
    with open(bytes(tmp_path) + b"/caf\xe9.txt", "wb") as handle:  # noqa: PTH123
        handle.write(b"x")
    assert read("text", tmp_path)[0] == ["good"]
    (tmp_path / "good.txt").unlink()
    refuses(lambda: read("text", tmp_path), "no file of kind 'text'", "UTF-8")
    refuses(lambda: read("text", tmp_path / "caf\udce9.txt"), "not valid Unicode")


def test_a_cut_archive_is_one_error(tmp_path: Path) -> None:
    import io
    import tarfile

    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for number in range(3):
            info = tarfile.TarInfo(f"{number}.txt")
            info.size = 600
            archive.addfile(info, io.BytesIO(b"x" * 600))
    whole, path = data.getvalue(), tmp_path / "a.tar"
    path.write_bytes(whole)
    assert len(read("webdataset", path)[0]) == 3
    for stop in (512 * 3, 512 * 6, 512 * 9, 512 * 4, 700, 100):
        path.write_bytes(whole[:stop])
        with pytest.raises(DataError, match="cut off"):
            read("webdataset", path)
