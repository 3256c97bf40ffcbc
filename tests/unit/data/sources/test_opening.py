"""Paths of the command line become sources."""

from __future__ import annotations

import gzip
import json

import pytest

from seqpair.data.sources.documents import Tally, documents
from seqpair.data.sources.opening import sources_of_paths
from seqpair.errors import DataError


def test_kinds_and_names_follow_from_the_paths(tmp_path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "a?", "answer": "b"}) + "\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "rows.jsonl.gz").write_bytes(gzip.compress(b'{"question": "c?", "answer": "d"}\n'))
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "my book.txt").write_text("long")
    (tmp_path / "page.html").write_text("<p>")
    paths = [tmp_path / name for name in ("rows.jsonl", "sub", "books", "page.html")]
    rows, more, books, page = sources_of_paths([*paths], ["question", "answer"])
    assert [source.spec.kind for source in (rows, more, books, page)] == ["jsonl", "jsonl", "text", "text"]
    assert [source.spec.name for source in (rows, more, books, page)] == ["rows", "sub", "books", "page"]
    assert [document.text for document in documents(rows, Tally())] == ["a?\n\nb"]
    assert {source.spec.held_out_frac for source in (rows, more, books, page)} == {0.0}
    twice = sources_of_paths([paths[0], tmp_path / "sub" / "rows.jsonl.gz"], ["answer"])
    assert [source.spec.name for source in twice] == ["rows", "rows-2"]


def test_what_is_missing_or_mixed_is_refused(tmp_path):
    with pytest.raises(DataError, match="there is no file or folder"):
        sources_of_paths([tmp_path / "nothing"])
    (tmp_path / "a.jsonl").write_text("{}\n")
    (tmp_path / "b.parquet").write_text("")
    with pytest.raises(DataError, match="rows of several kinds"):
        sources_of_paths([tmp_path])
