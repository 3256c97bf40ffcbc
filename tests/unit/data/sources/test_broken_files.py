"""Readers and broken files: one clear error, or counted rejections; never a shorter text, never a traceback."""

import gzip
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seqpair.data.prepare.preparation import prepare
from seqpair.data.sources import text as text_sources
from seqpair.data.sources.documents import Document, Tally, documents
from seqpair.data.sources.opening import open_source
from seqpair.errors import DataError
from seqpair.recipe.data_spec import SourceSpec, TokenizerSpec

ROWS = 200
LINES = b"".join(json.dumps({"text": f"row {i} " + "lantern " * (i % 30)}).encode() + b"\n" for i in range(ROWS))
TEXTS = [json.loads(line)["text"] for line in LINES.splitlines()]


def read(path: Path, kind: str) -> tuple[list[Document], Tally]:
    tally = Tally()
    return list(documents(open_source(SourceSpec(name="s", kind=kind, paths=(str(path),))), tally)), tally


def packed(suffix: str) -> bytes:
    if suffix == ".gz":
        return gzip.compress(LINES, mtime=0)
    return zstandard.ZstdCompressor(write_checksum=True).compress(LINES)


def parquet_bytes(folder: Path) -> bytes:
    table = pa.table({"text": TEXTS})
    pq.write_table(table, folder / "whole.parquet", row_group_size=64, write_page_checksum=True, compression="zstd")
    data = (folder / "whole.parquet").read_bytes()
    (folder / "whole.parquet").unlink()
    return data


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.99])
def test_a_truncated_compressed_file_is_an_error(tmp_path: Path, suffix: str, share: float) -> None:
    data = packed(suffix)
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(data[: int(len(data) * share)])
    if share == 0.0:  # no bytes are no rows: prepare refuses the source then
        assert read(path, "jsonl")[0] == []
        return
    with pytest.raises(DataError, match="is damaged or cut off"):
        read(path, "jsonl")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_flipped_bit_in_a_compressed_file_never_changes_the_text(tmp_path: Path, suffix: str) -> None:
    data, rng, errors = packed(suffix), random.Random(7), 0
    path = tmp_path / f"a.jsonl{suffix}"
    for _ in range(60):
        broken = bytearray(data)
        broken[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        try:
            found, _ = read(path, "jsonl")
        except DataError as error:
            errors += "is damaged or cut off" in str(error)
        else:  # a bit that no reader looks at, such as the time in a gzip header
            assert [document.text for document in found] == TEXTS
    assert errors > 45


def test_a_truncated_or_flipped_parquet_file_never_changes_the_text(tmp_path: Path) -> None:
    data, rng, errors = parquet_bytes(tmp_path), random.Random(3), 0
    path = tmp_path / "a.parquet"
    for share in (0.0, 0.1, 0.5, 0.99):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(DataError, match="not a readable Parquet file"):
            read(path, "parquet")
    body = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for _ in range(60):
        broken = bytearray(data)
        broken[rng.randrange(4, body)] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        try:
            found, tally = read(path, "parquet")
        except DataError:
            errors += 1
        else:
            assert [document.text for document in found] == TEXTS
            assert not tally.rejected
    assert errors > 40


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.binary(max_size=400), unit_bytes=st.integers(1, 200))
def test_every_line_of_junk_is_a_document_or_a_counted_refusal(tmp_path: Path, junk: bytes, unit_bytes: int) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "before"}\n' + junk + b'\n{"text": "after"}\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_sources, "LEAST_UNIT_BYTES", unit_bytes)
        kept: list[int] = []
        tally = Tally(keep=lambda refusal: kept.append(refusal.row))
        spec = SourceSpec(name="s", kind="jsonl", paths=(str(path),))
        found = list(documents(open_source(spec), tally))
    assert [found[0].text, found[-1].text] == ["before", "after"]
    lines = path.read_bytes().split(b"\n")
    assert sorted(kept + [document.row for document in found]) == [i for i, line in enumerate(lines) if line.strip()]
    assert tally.rows == len(kept) + len(found) == sum(tally.rejected.values()) + len(found)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(codec="utf-8")), max_size=30), unit_bytes=st.integers(1, 300))
def test_any_text_comes_back_from_lines_and_row_groups(tmp_path: Path, texts: list[str], unit_bytes: int) -> None:
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    pq.write_table(pa.table({"text": pa.array(texts, pa.string())}), tmp_path / "a.parquet", row_group_size=3)
    wanted = [(row, text) for row, text in enumerate(texts) if text.strip()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_sources, "LEAST_UNIT_BYTES", unit_bytes)
        for kind in ("jsonl", "parquet"):
            found, tally = read(tmp_path / f"a.{kind}", kind)
            assert [(document.row, document.text) for document in found] == wanted
            assert tally.rows == len(texts)


@pytest.mark.parametrize("kind", ["jsonl", "text", "parquet"])
@pytest.mark.parametrize("junk", ["empty", "binary", "another format"])
def test_prepare_says_once_what_is_wrong_with_a_useless_file(tmp_path: Path, kind: str, junk: str) -> None:
    data = {"empty": b"", "binary": bytes(random.Random(1).randbytes(5000)), "another format": b"PK\x03\x04 zip \xff"}
    path = tmp_path / f"a.{kind}"
    path.write_bytes(data[junk])
    spec = SourceSpec(name="s", kind=kind, paths=(str(path),))
    (tmp_path / "fine.txt").write_text("some words to train a tokenizer on")
    fine = SourceSpec(name="fine", kind="text", paths=(str(tmp_path / "fine.txt"),), held_out_frac=0.0)
    match = "is empty|every row was refused|not a readable Parquet file"
    with pytest.raises(DataError, match=match) as caught:
        prepare([fine, spec], TokenizerSpec(train_vocab_size=300), tmp_path / "stores")
    assert "'s'" in str(caught.value)
    assert not list((tmp_path / "stores").glob("s-*"))


def test_a_column_of_another_type_is_refused_row_by_row(tmp_path: Path) -> None:
    for name, column in {
        "numbers": pa.array([1, 2]),
        "lists": pa.array([["a"], ["b"]]),
        "records": pa.array([{"a": 1}, {"a": 2}]),
        "times": pa.array([1, 2], pa.timestamp("s")),
    }.items():
        pq.write_table(pa.table({"text": column}), tmp_path / f"{name}.parquet")
        refused: list[bytes | None] = []
        tally = Tally(keep=lambda refusal, refused=refused: refused.append(refusal.raw))
        path = str(tmp_path / f"{name}.parquet")
        assert list(documents(open_source(SourceSpec(name="s", kind="parquet", paths=(path,))), tally)) == []
        assert dict(tally.rejected) == {"text is not a string": 2}
        assert all(raw and b"text" in raw for raw in refused)


def test_a_gigantic_document_is_stored_whole(tmp_path: Path) -> None:
    text = "the quiet harbour in winter " * 60_000
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "one"}) + "\n" + json.dumps({"text": text}) + "\n")
    spec = SourceSpec(name="s", kind="jsonl", paths=(str(tmp_path / "a.jsonl"),), held_out_frac=0.0)
    prepared = prepare([spec], TokenizerSpec(train_vocab_size=300, train_bytes=10_000), tmp_path / "stores")
    store = prepared.train["s"]
    assert prepared.tokenizer.decode(store.document_tokens(1)) == text
    assert store.manifest.text_bytes == len(text) + 3
