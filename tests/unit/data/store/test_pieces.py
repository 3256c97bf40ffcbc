from __future__ import annotations

import os
import stat

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpair.data.store.pieces import PieceIndex
from seqpair.errors import StoreError


def offsets_of(lengths: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


@given(lengths=st.lists(st.integers(0, 100), min_size=1, max_size=30), seq_len=st.integers(3, 40))
def test_pieces_cover_every_document_exactly(tmp_path_factory, lengths, seq_len):
    folder = tmp_path_factory.mktemp("cover")
    offsets = offsets_of(lengths)
    index = PieceIndex.open(folder, offsets, seq_len)
    room = seq_len - 2
    assert index.count == sum(-(-n // room) for n in lengths)
    found = index.locate(np.arange(index.count))
    # End to end, the pieces are all tokens once, in order.
    assert np.array_equal(found.start, np.concatenate([[0], found.stop[:-1]])[: index.count])
    assert index.count == 0 or found.stop[-1] == offsets[-1]
    assert np.all(found.stop - found.start >= 1)
    assert np.all(found.stop - found.start <= room)
    for row, n in enumerate(lengths):
        mine = found.rows == row
        k = -(-n // room)
        assert list(index.sequences_of(row)) == np.flatnonzero(mine).tolist()
        assert found.piece[mine].tolist() == list(range(k))
        assert set(found.pieces_of_row[mine].tolist()) <= {k}
        assert (found.start[mine] - offsets[row]).tolist() == [i * n // k for i in range(k)]
        sizes = (found.stop - found.start)[mine]
        assert k == 0 or sizes.max() - sizes.min() <= 1


def test_locate_takes_sequences_in_any_order_and_repeated(tmp_path):
    index = PieceIndex.open(tmp_path, offsets_of([5, 0, 0, 12, 1]), 6)
    found = index.locate(np.array([5, 0, 3, 0]))
    assert found.rows.tolist() == [4, 0, 3, 0]
    assert found.piece.tolist() == [0, 0, 1, 0]
    assert found.start.tolist() == [17, 0, 9, 0]


def test_the_index_is_kept_and_opened_again_without_being_made(tmp_path):
    offsets = offsets_of([7, 3, 9])
    PieceIndex.open(tmp_path, offsets, 5)
    path = tmp_path / "pieces-5.i64"
    before = path.stat()
    again = PieceIndex.open(tmp_path, offsets, 5)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert again.count == 3 + 1 + 3
    assert [p.name for p in tmp_path.iterdir()] == ["pieces-5.i64"]
    assert np.fromfile(path, dtype=np.int64).tolist() == [1, 5, 3, 19, 0, 3, 4, 7]


@pytest.mark.parametrize(
    "damage",
    [
        lambda words: words[:-1],  # cut short
        lambda words: np.append(words, 0),  # too long
        lambda words: np.concatenate([[2], words[1:]]),  # another format
        lambda words: np.concatenate([words[:3], [20], words[4:]]),  # other tokens
        lambda words: np.empty(0, np.int64),
    ],
)
def test_an_index_that_does_not_fit_is_made_again(tmp_path, damage):
    offsets = offsets_of([7, 3, 9])
    path = tmp_path / "pieces-5.i64"
    PieceIndex.open(tmp_path, offsets, 5)
    good = np.fromfile(path, dtype=np.int64)
    path.write_bytes(damage(good).astype(np.int64).tobytes())
    assert PieceIndex.open(tmp_path, offsets, 5).count == 7
    assert np.array_equal(np.fromfile(path, dtype=np.int64), good)


def test_chunks_join_without_a_seam(tmp_path, monkeypatch):
    lengths = np.random.default_rng(0).integers(0, 50, 97).tolist()
    whole = PieceIndex.open(tmp_path, offsets_of(lengths), 10).locate(np.arange(5))
    monkeypatch.setattr("seqpair.data.store.pieces._CHUNK_DOCUMENTS", 8)
    (tmp_path / "chunked").mkdir()
    chunked = PieceIndex.open(tmp_path / "chunked", offsets_of(lengths), 10)
    assert (tmp_path / "chunked/pieces-10.i64").read_bytes() == (tmp_path / "pieces-10.i64").read_bytes()
    assert np.array_equal(chunked.locate(np.arange(5)).start, whole.start)


def test_a_read_only_store_is_indexed_in_memory(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("seqpair.data.store.pieces.Path.open", refuse)
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        index = PieceIndex.open(folder, offsets_of([7, 0, 9]), 5)
    finally:
        folder.chmod(stat.S_IRWXU)
    assert index.count == 6
    assert list(index.sequences_of(2)) == [3, 4, 5]
    assert os.listdir(folder) == []


def test_an_empty_store_has_no_sequence(tmp_path):
    assert PieceIndex.open(tmp_path, np.zeros(1, np.int64), 8).count == 0


def test_bad_input_is_refused(tmp_path):
    index = PieceIndex.open(tmp_path, offsets_of([4]), 8)
    with pytest.raises(IndexError, match=r"not all in \[0, 1\)"):
        index.locate(np.array([1]))
    with pytest.raises(IndexError, match=r"row 1 is not in \[0, 1\)"):
        index.sequences_of(1)
    with pytest.raises(StoreError, match="room for a token"):
        PieceIndex.open(tmp_path, offsets_of([4]), 2)
    with pytest.raises(StoreError, match="row 1 has -2 tokens"):
        PieceIndex.open(tmp_path, np.array([0, 4, 2]), 8)
    assert not (tmp_path / "pieces-2.i64").exists()
