import csv
import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from seqpair.data.sources.documents import Document, Tally, documents
from seqpair.data.sources.opening import open_source
from seqpair.errors import DataError
from seqpair.recipe.data_spec import SourceSpec

TEXTS = ["one, two", 'he said "no"', "two\nlines", "NA", "007", "\u6587\u7ae0", " spaced "]


def source(kind: Any, path: Path, **options: Any) -> SourceSpec:
    return SourceSpec(name="s", kind=kind, paths=(str(path),), **options)


def read(spec: SourceSpec) -> tuple[list[Document], Tally]:
    tally = Tally()
    return list(documents(open_source(spec), tally)), tally


def packed(data: bytes, suffix: str) -> bytes:
    return {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix](data)


def csv_bytes(rows: list[list[str]], delimiter: str = ",") -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows(rows)
    return text.getvalue().encode()


def tar_bytes(members: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_columns_come_back_character_by_character(tmp_path: Path, suffix: str, ending: str, delimiter: str) -> None:
    rows = [["key", "text"], *([f"k{index}", text] for index, text in enumerate(TEXTS))]
    (tmp_path / f"a.{ending}{suffix}").write_bytes(packed(csv_bytes(rows, delimiter), suffix))
    read_documents, tally = read(source("csv", tmp_path, id_field="key", quoting="double"))
    assert [document.text for document in read_documents] == TEXTS
    assert [document.id for document in read_documents] == [f"k{index}" for index in range(len(TEXTS))]
    assert tally.bytes_done == (tmp_path / f"a.{ending}{suffix}").stat().st_size


@settings(max_examples=40)
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)))
def test_whatever_is_written_is_read_or_counted(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(csv_bytes([["text", "n"], *([text, "1"] for text in texts)]))
    read_documents, tally = read(source("csv", path))
    assert [document.text for document in read_documents] == [text for text in texts if text.strip()]
    assert sum(tally.rejected.values()) == sum(not text.strip() for text in texts)


def test_bad_rows_are_counted_and_a_broken_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbftext,n\r\nfine,1\r\nshort\r\ncaf\xe9,2\r\n,3\r\nalso;fine,4\r\n")
    read_documents, tally = read(source("csv", path))
    assert [document.text for document in read_documents] == ["fine", "also;fine"]
    assert tally.rejected == {"another number of columns than the header": 1, "invalid UTF-8": 1, "empty text": 1}
    path.write_bytes(b'text,n\nfine,1\n"never closed,2\nmore,3\n')
    with pytest.raises(DataError, match="not readable as CSV") as caught:
        read(source("csv", path))
    assert "line 4" in str(caught.value)
    for content, message in (
        (b"body,n\nx,1\n", "no column 'text'"),
        (b"text,text\nx,1\n", "two columns"),
        (b"", "no col"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            read(source("csv", path))


def test_a_delimiter_of_the_recipe_is_used(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"n|text\n1|x, y\n")
    assert [document.text for document in read(source("csv", tmp_path, delimiter="|"))[0]] == ["x, y"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_tar_samples_are_members_of_one_name(tmp_path: Path, suffix: str) -> None:
    members = {}
    for index, text in enumerate(TEXTS):
        members[f"part/{index:03d}.txt"] = text.encode()
        members[f"part/{index:03d}.json"] = json.dumps({"id": f"j{index}", "title": f"T{index}"}).encode()
        members[f"part/{index:03d}.seg.png"] = b"\x89PNG"
    (tmp_path / f"a.tar{suffix}").write_bytes(packed(tar_bytes(members), suffix))
    plain, tally = read(source("webdataset", tmp_path, id_field="__key__"))
    assert [(document.id, document.text) for document in plain] == [
        (f"part/{index:03d}", text) for index, text in enumerate(TEXTS)
    ]
    assert tally.rows == len(TEXTS)
    joined, _ = read(source("webdataset", tmp_path, text_field=("json.title", "txt"), id_field="json.id"))
    assert [(document.id, document.text) for document in joined] == [
        (f"j{index}", f"T{index}\n\n{text}") for index, text in enumerate(TEXTS)
    ]


def test_bad_samples_are_counted_and_a_damaged_tar_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    members = {"1.txt": b"fine", "2.png": b"", "3.txt": b"caf\xe9", "4.txt": b" ", "5.txt": b"x" * 5000}
    whole = tar_bytes(members)
    path.write_bytes(whole)
    read_documents, tally = read(source("webdataset", path))
    assert [document.row for document in read_documents] == [0, 4]
    assert tally.rejected == {"missing field 'txt'": 1, "invalid UTF-8": 1, "empty text": 1}
    path.write_bytes(tar_bytes({"1.json": b'{"cut'}))
    assert read(source("webdataset", path, text_field=("json.text",)))[1].rejected == {"broken JSON": 1}
    for broken in (whole[: whole.index(b"xxxx") + 700], b"no tar at all" * 100, b""):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="not a tar file, or is cut off"):
            read(source("webdataset", path))
