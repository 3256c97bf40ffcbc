from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from order_fakes import FakeStore, make_phase

from seqpair.data.order.order import PhaseOrder
from seqpair.errors import DataError


def all_refs(order: PhaseOrder, stop: int) -> list[tuple[int, int, int]]:
    refs = order.refs(np.arange(stop))
    return list(zip(refs.source.tolist(), refs.sequence.tolist(), refs.epoch.tolist(), strict=True))


@pytest.fixture
def stores(tmp_path):
    rng = np.random.default_rng(1)
    return {
        "prose": FakeStore(tmp_path / "prose", rng.integers(0, 60, 23).tolist(), "p"),
        "code": FakeStore(tmp_path / "code", rng.integers(0, 200, 31).tolist(), "c"),
    }


@given(
    seed=st.integers(0, 10**6),
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=3),
    weights=st.lists(st.sampled_from([0.05, 0.3, 1.0, 1.7]), min_size=3, max_size=3),
)
@settings(max_examples=40)
def test_no_sequence_repeats_before_its_source_is_used_up(tmp_path_factory, seed, counts, weights):
    folder = tmp_path_factory.mktemp("repeats")
    stores = {f"s{i}": FakeStore(folder / str(i), [20] * count) for i, count in enumerate(counts)}
    order = PhaseOrder(seed, make_phase({s: weights[i] for i, s in enumerate(stores)}, kind="epochs"), stores)
    refs = order.refs(np.arange(6 * order.mixture.round_sequences))
    for index, size in enumerate(order.mixture.sequences):
        stream = refs.sequence[refs.source == index]
        assert np.array_equal(refs.epoch[refs.source == index], np.arange(stream.size) // size)
        for first in range(0, stream.size, size):
            epoch = stream[first : first + size]
            assert len(set(epoch.tolist())) == epoch.size


def test_every_round_holds_each_sources_part(stores):
    order = PhaseOrder(3, make_phase({"prose": 0.3, "code": 0.7}), stores)
    size = order.mixture.round_sequences
    for number in range(5):
        refs = order.refs(np.arange(number * size, (number + 1) * size))
        assert np.bincount(refs.source).tolist() == order.mixture.parts.tolist()


@given(
    seed=st.integers(0, 10**6),
    lengths=st.lists(st.lists(st.integers(0, 70), min_size=1, max_size=12), min_size=1, max_size=3),
    weights=st.lists(st.sampled_from([0.1, 1.0, 1.7, 4.0]), min_size=3, max_size=3),
    positions=st.integers(1, 300),
)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_inverse_finds_exactly_the_positions_of_a_sequence(tmp_path_factory, seed, lengths, weights, positions):
    lengths = [[*row, 5] for row in lengths]
    folder = tmp_path_factory.mktemp("inverse")
    stores = {f"s{i}": FakeStore(folder / str(i), row) for i, row in enumerate(lengths)}
    mixture = {source: weights[i] for i, source in enumerate(stores)}
    order = PhaseOrder(seed, make_phase(mixture, positions=positions, sequences=1, kind="epochs"), stores)
    refs = order.refs(np.arange(positions))
    for index, source in enumerate(order.sources):
        for sequence in range(int(order.mixture.sequences[index])):
            expected = np.flatnonzero((refs.source == index) & (refs.sequence == sequence))
            assert np.array_equal(order.positions_of(source, sequence), expected)


def test_occurrences_of_several_sequences_come_with_their_index(stores):
    order = PhaseOrder(3, make_phase({"prose": 0.5, "code": 0.5}, positions=200), stores)
    asked = np.array([4, 0, 7])
    positions, which = order.occurrences("code", asked)
    assert np.all(np.diff(positions) > 0)
    assert np.array_equal(order.refs(positions).sequence, asked[which])
    expected = sorted(p for sequence in asked for p in order.positions_of("code", int(sequence)))
    assert positions.tolist() == expected


def test_positions_may_come_in_any_order_and_span_rounds(stores):
    order = PhaseOrder(3, make_phase({"prose": 0.5, "code": 0.5}), stores)
    straight = all_refs(order, 1000)
    shuffled = np.random.default_rng(0).permutation(1000)
    refs = order.refs(shuffled)
    assert [straight[p] for p in shuffled] == list(zip(refs.source, refs.sequence, refs.epoch, strict=True))


def test_other_seeds_phases_and_stores_give_other_orders(stores, tmp_path):
    phase = make_phase({"prose": 0.5, "code": 0.5})
    base = PhaseOrder(3, phase, stores)
    changed_store = {**stores, "code": FakeStore(tmp_path / "other", np.diff(stores["code"].offsets).tolist(), "c2")}
    others = [
        PhaseOrder(4, phase, stores),
        PhaseOrder(3, phase.model_copy(update={"name": "decay"}), stores),
        PhaseOrder(3, phase, changed_store),
        PhaseOrder(3, make_phase({"prose": 0.6, "code": 0.4}), stores),
        PhaseOrder(3, make_phase({"prose": 0.5, "code": 0.5}, seq_len=20), stores),
    ]
    assert len({order.digest for order in (base, *others)}) == 6
    first = all_refs(base, 100)
    assert all(all_refs(order, 100) != first for order in others)


def test_an_order_does_not_need_more_than_a_few_documents(tmp_path):
    store = FakeStore(tmp_path, [3])
    order = PhaseOrder(0, make_phase({"only": 1.0}, positions=5, sequences=1), {"only": store})
    assert all_refs(order, 5) == [(0, 0, epoch) for epoch in range(5)]
    assert order.positions_of("only", 0).tolist() == [0, 1, 2, 3, 4]


def test_an_order_of_a_million_million_sequences_is_answered_at_once():
    def store(count: int, digest: str) -> SimpleNamespace:
        pieces = SimpleNamespace(count=count)
        offsets = np.array([0, 500 * count])
        return SimpleNamespace(pieces=lambda _: pieces, offsets=offsets, manifest=SimpleNamespace(digest=digest))

    stores = {"web": store(10**12, "w"), "books": store(10**7 + 3, "b")}
    phase = make_phase({"web": 0.99, "books": 0.01}, positions=2 * 10**12, sequences=10**6)
    order = PhaseOrder(1, phase, stores)
    positions = np.array([0, 1, 10**9, 10**12 + 7, 2 * 10**12 - 1])
    refs = order.refs(positions)
    for position, index, sequence in zip(positions, refs.source, refs.sequence, strict=True):
        assert position in order.positions_of(order.sources[index], int(sequence))
    web = order.positions_of("web", 123_456_789_012)
    assert web.size in (1, 2)
    assert np.all(order.refs(web).sequence == 123_456_789_012)


def test_bad_input_is_refused(stores, tmp_path):
    order = PhaseOrder(3, make_phase({"prose": 0.5, "code": 0.5}), stores)
    with pytest.raises(IndexError, match="position -1 is negative"):
        order.refs(np.array([-1]))
    with pytest.raises(KeyError, match="does not read source 'web'"):
        order.positions_of("web", 0)
    with pytest.raises(IndexError, match="not all in"):
        order.positions_of("prose", 10**6)
    with pytest.raises(DataError, match="source 'void' has no sequence"):
        PhaseOrder(0, make_phase({"void": 1.0}), {"void": FakeStore(tmp_path / "void", [0, 0])})
