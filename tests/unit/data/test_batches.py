from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
from order_fakes import FakeStore, make_phase

from seqpair.data.batches import assemble, read_addresses, read_batch, sequence_lengths
from seqpair.data.order import PhaseOrder

SPECIALS = SimpleNamespace(cls=1, sep=2, pad=3, mask=4, unk=5)


@pytest.fixture
def order(tmp_path):
    rng = np.random.default_rng(5)
    stores = {
        "prose": FakeStore(tmp_path / "prose", rng.integers(0, 60, 40).tolist(), "p", first_token=10),
        "code": FakeStore(tmp_path / "code", rng.integers(0, 100, 40).tolist(), "c", first_token=30_000),
    }
    return PhaseOrder(3, make_phase({"prose": 0.5, "code": 0.5}, positions=120, sequences=24), stores)


def test_a_batch_is_its_documents_tokens(order):
    for step in range(order.phase.steps):
        batch = read_batch(order, step)
        assert (batch.phase, batch.step) == ("pretrain", step)
        assert batch.positions.tolist() == list(order.phase.positions_of(step))
        for i in range(batch.positions.size):
            document = order.stores[batch.source[i]].document_tokens(batch.rows[i])
            k = -(-document.size // 16)
            piece = int(batch.pieces[i])
            expected = document[piece * document.size // k : (piece + 1) * document.size // k]
            assert np.array_equal(batch.content[batch.offsets[i] : batch.offsets[i + 1]], expected)
            assert batch.is_last_piece[i] == (piece == k - 1)
        assert batch.offsets.dtype == batch.rows.dtype == np.int64
        assert batch.content.dtype == np.uint32
        assert batch.source.dtype == batch.pieces.dtype == np.int32


def test_a_batch_of_one_source_is_read_the_same(tmp_path):
    store = FakeStore(tmp_path, [5, 17, 40])
    batch = read_batch(PhaseOrder(1, make_phase({"one": 1.0}), {"one": store}), 2)
    spans = [batch.content[a:b] for a, b in zip(batch.offsets, batch.offsets[1:], strict=False)]
    assert all(np.array_equal(np.diff(span), np.ones(span.size - 1)) for span in spans)
    assert batch.content.size == batch.offsets[-1] > 0


def test_the_digest_tells_one_changed_token(order):
    before = [read_batch(order, step).digest for step in range(order.phase.steps)]
    assert len(set(before)) == order.phase.steps
    assert before == [read_batch(order, step).digest for step in range(order.phase.steps)]
    at = read_addresses(order, np.arange(order.phase.positions))
    changed = (int(at.source[0]), int(at.pieces.start[0]))
    order.stores[changed[0]].tokens[changed[1]] += 1
    holders = np.flatnonzero((at.source == changed[0]) & (at.pieces.start == changed[1]))
    steps = {order.phase.step_of(int(position)) for position in holders}
    after = [read_batch(order, step).digest for step in range(order.phase.steps)]
    assert {step for step in range(order.phase.steps) if before[step] != after[step]} == steps


def test_the_digest_is_of_positions_borders_and_content_as_documented(order):
    batch = read_batch(order, 0)
    parts = (batch.positions.astype("<i8"), batch.offsets.astype("<i8"), batch.content.astype("<u4"))
    assert batch.digest == hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()


def test_sep_ends_the_last_piece_or_every_piece(order):
    batch = read_batch(order, 0)
    content = np.diff(batch.offsets)
    assert np.array_equal(sequence_lengths(batch, True), content + 2)
    assert np.array_equal(sequence_lengths(batch, False), content + 1 + batch.is_last_piece)
    assert 0 < batch.is_last_piece.sum() < batch.is_last_piece.size


@pytest.mark.parametrize("ends_every_piece", [True, False])
def test_assembled_rows_are_content_between_specials(order, ends_every_piece):
    batch = read_batch(order, 1)
    indices = np.array([7, 0, 23, 11])
    rows = assemble(batch, indices, SPECIALS, ends_every_piece)
    expected = []
    for i in indices:
        row = [1, *batch.content[batch.offsets[i] : batch.offsets[i + 1]]]
        expected.append([*row, 2] if ends_every_piece or batch.is_last_piece[i] else row)
    assert rows.ids.tolist() == [token for row in expected for token in row]
    assert rows.lengths.tolist() == [len(row) for row in expected]
    assert rows.positions.tolist() == batch.positions[indices].tolist()
    assert rows.indices.tolist() == indices.tolist()
    assert rows.ids.dtype == np.int64
    assert rows.lengths.max() <= order.phase.seq_len


def test_no_rows_can_be_assembled(order):
    rows = assemble(read_batch(order, 0), np.empty(0, np.int64), SPECIALS, True)
    assert rows.ids.size == rows.lengths.size == rows.positions.size == 0


def test_addresses_are_what_the_batch_reads(order):
    batch = read_batch(order, 2)
    at = read_addresses(order, batch.positions)
    assert np.array_equal(at.pieces.rows, batch.rows)
    assert np.array_equal(at.pieces.piece, batch.pieces)
    assert np.array_equal(at.pieces.stop - at.pieces.start, np.diff(batch.offsets))
    assert np.array_equal(at.source, batch.source)


def test_a_step_outside_the_phase_is_refused(order):
    with pytest.raises(IndexError, match="step 5 is outside the phase's 5 steps"):
        read_batch(order, 5)
