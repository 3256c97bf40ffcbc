from __future__ import annotations

import hashlib
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from order_fakes import FakeStore, make_phase, microbatches

from seqpair.data.order.batches import (
    assemble,
    borders_of,
    chunks,
    read_addresses,
    read_batch,
    read_sequences,
    sequence_digests,
    sequence_lengths,
    span_numbers,
    step_addresses,
    step_digest,
)
from seqpair.data.order.order import PhaseOrder
from seqpair.errors import StoreError

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


def digests(order):
    batches = [read_batch(order, step) for step in range(order.phase.steps)]
    return [step_digest(batch.positions, sequence_digests(batch)) for batch in batches]


def test_the_digest_tells_one_changed_token(order):
    before = digests(order)
    assert len(set(before)) == order.phase.steps
    assert before == digests(order)
    at = read_addresses(order, np.arange(order.phase.positions))
    changed = (int(at.source[0]), int(at.pieces.start[0]))
    order.stores[changed[0]].tokens[changed[1]] += 1
    holders = np.flatnonzero((at.source == changed[0]) & (at.pieces.start == changed[1]))
    steps = {order.phase.step_of(int(position)) for position in holders}
    after = digests(order)
    assert {step for step in range(order.phase.steps) if before[step] != after[step]} == steps


def test_the_digest_is_of_positions_and_of_the_digests_of_sequences_as_documented(order):
    batch = read_batch(order, 0)
    state = hashlib.sha256(batch.positions.astype("<i8").tobytes())
    for first, stop in itertools.pairwise(batch.offsets):
        state.update(hashlib.sha256(batch.content[first:stop].astype("<u4").tobytes()).digest())
    assert step_digest(batch.positions, sequence_digests(batch)) == state.hexdigest()


@given(mine=st.sets(st.integers(0, 23)), step=st.integers(0, 4))
@settings(max_examples=20)
def test_some_of_a_steps_sequences_are_read_as_they_are_in_the_whole(tmp_path_factory, mine, step):
    folder = tmp_path_factory.mktemp("some")
    stores = {"a": FakeStore(folder / "a", [3, 60, 17, 1] * 4), "b": FakeStore(folder / "b", [5, 2000], "b")}
    order = PhaseOrder(3, make_phase({"a": 0.5, "b": 0.5}, positions=120, sequences=24), stores)
    indices = np.array(sorted(mine), dtype=np.int64)
    at, whole = step_addresses(order, step), read_batch(order, step)
    some = read_sequences(order, step, at.take(indices))
    for name in ("positions", "source", "rows", "pieces", "is_last_piece", "lengths"):
        assert np.array_equal(getattr(some, name), getattr(whole, name)[indices])
    assert np.array_equal(sequence_lengths(at, False)[indices], sequence_lengths(some, False))
    assert np.array_equal(sequence_digests(some), sequence_digests(whole)[indices])


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


@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=12),
    others=st.lists(st.integers(1, 30), max_size=12),
    seq_len=st.sampled_from([18, 300]),
)
@settings(max_examples=40)
def test_short_and_long_sequences_of_one_and_two_sources_are_read_alike(tmp_path_factory, lengths, others, seq_len):
    folder = tmp_path_factory.mktemp("read")
    stores = {"a": FakeStore(folder / "a", lengths, "a")}
    if others:
        stores["b"] = FakeStore(folder / "b", others, "b", first_token=40_000)
    phase = make_phase(dict.fromkeys(stores, 1.0), positions=40, sequences=40, seq_len=seq_len, kind="epochs")
    order = PhaseOrder(0, phase, stores)
    at, batch = read_addresses(order, np.arange(40)), read_batch(order, 0)
    spans = zip(at.source, at.pieces.start, at.pieces.stop, strict=True)
    expected = np.concatenate([order.stores[source].tokens[start:stop] for source, start, stop in spans])
    assert np.array_equal(batch.content, expected)
    assert batch.offsets[-1] == batch.content.size


@given(world_size=st.integers(1, 7), budget=st.integers(20, 600), ends=st.booleans(), step=st.integers(0, 4))
@settings(max_examples=40)
def test_any_ranks_and_microbatches_hold_the_same_rows(tmp_path_factory, world_size, budget, ends, step):
    folder = tmp_path_factory.mktemp("ranks")
    stores = {"a": FakeStore(folder / "a", [3, 60, 17, 1, 16, 33] * 4), "b": FakeStore(folder / "b", [5, 200], "b")}
    order = PhaseOrder(3, make_phase({"a": 0.5, "b": 0.5}, positions=120, sequences=24), stores)
    batch = read_batch(order, step)
    whole = assemble(batch, np.arange(24), SPECIALS, ends)
    expected = dict(zip(whole.positions.tolist(), np.split(whole.ids, np.cumsum(whole.lengths)[:-1]), strict=True))
    seen = {}
    for groups in microbatches(sequence_lengths(batch, ends), world_size, budget):
        for rows in (assemble(batch, group, SPECIALS, ends) for group in groups):
            for position, ids in zip(rows.positions, np.split(rows.ids, np.cumsum(rows.lengths)[:-1]), strict=False):
                assert int(position) not in seen
                seen[int(position)] = ids
    assert seen.keys() == expected.keys()
    assert all(np.array_equal(seen[position], expected[position]) for position in expected)


def test_offsets_that_reach_past_the_tokens_are_refused(tmp_path):
    store = FakeStore(tmp_path, [5, 17, 40])
    store.tokens = store.tokens[:-1]
    order = PhaseOrder(1, make_phase({"one": 1.0}, positions=20, sequences=20), {"one": store})
    with pytest.raises(StoreError, match="offsets reach past its tokens"):
        read_batch(order, 0)


SPANS = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), max_size=20)


@given(SPANS)
def test_the_numbers_of_spans_come_one_span_after_another(spans):
    starts, lengths = (np.array([span[i] for span in spans], dtype=np.int64) for i in (0, 1))
    expected = [number for start, length in spans for number in range(start, start + length)]
    assert span_numbers(starts, lengths).tolist() == expected
    assert borders_of(lengths).tolist() == [sum(lengths[:i]) for i in range(len(spans) + 1)]


@given(lengths=st.lists(st.integers(0, 9), max_size=30), most=st.integers(1, 20))
def test_chunks_are_all_sequences_in_turn_and_keep_their_bound(lengths, most):
    found = list(chunks(borders_of(np.array(lengths, dtype=np.int64)), most))
    assert [index for some in found for index in range(some.start, some.stop)] == list(range(len(lengths)))
    assert all(sum(lengths[some]) <= most or some.stop - some.start == 1 for some in found)
    # No two neighbours could be one.
    assert all(sum(lengths[a.start : b.stop]) > most for a, b in zip(found, found[1:], strict=False))
