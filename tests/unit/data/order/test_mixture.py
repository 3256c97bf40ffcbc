"""Epochs over a budget: as computed from the order itself, and the warning past four."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from order_fakes import FakeStore, make_phase

from seqpair.data.order.mixture import MOST_EPOCHS, Mixture, SourceCounts, phase_readings, repetition_warnings
from seqpair.data.order.order import PhaseOrder
from seqpair.errors import DataError, RecipeError
from seqpair.recipe.plan import MixtureShare, StoreStats


def shares(**parts: float) -> list[MixtureShare]:
    return [MixtureShare(source=source, share=share) for source, share in parts.items()]


def epochs(**parts: float) -> list[MixtureShare]:
    return [MixtureShare(source=source, epochs=value) for source, value in parts.items()]


def test_shares_are_of_tokens_and_the_source_read_most_is_read_once():
    counts = {"long": SourceCounts(1000, 100_000), "short": SourceCounts(4000, 40_000)}
    mixture = Mixture(shares(long=0.5, short=0.5), counts)
    # Sequences of `short` are ten times shorter, so ten of them stand against one of `long`.
    assert mixture.sources == ("long", "short")
    assert mixture.parts.tolist() == [400, 4000]
    assert mixture.round_sequences == 4400
    assert mixture.token_fracs() == {"long": 0.5, "short": 0.5}


def test_epochs_set_how_often_each_source_is_read():
    counts = {"books": SourceCounts(300, 9_999), "web": SourceCounts(1000, 50_000)}
    mixture = Mixture(epochs(web=1, books=4), counts)
    assert mixture.sources == ("books", "web")
    assert mixture.parts.tolist() == [300, 250]


def test_epochs_fix_tokens_and_shares_are_of_the_total():
    counts = {"web": SourceCounts(1000, 10_000), "code": SourceCounts(5000, 100_000)}
    mixture = Mixture([*epochs(web=2.0), *shares(code=0.2)], counts)
    # 20,000 tokens of web are 0.8 of the total, so 5,000 of code: 250 sequences against 2,000.
    assert dict(zip(mixture.sources, mixture.parts.tolist(), strict=True)) == {"web": 1000, "code": 125}
    assert mixture.token_fracs()["code"] == pytest.approx(0.2)


def test_a_source_is_never_left_out_of_a_round():
    counts = {"big": SourceCounts(10, 100), "rare": SourceCounts(10, 100)}
    assert Mixture(shares(big=0.999, rare=0.001), counts).parts.tolist() == [10, 1]


def test_the_order_in_which_sources_are_written_does_not_matter():
    counts = {"a": SourceCounts(70, 500), "b": SourceCounts(33, 900)}
    one, other = Mixture(shares(a=0.3, b=0.7), counts), Mixture(shares(b=0.7, a=0.3), counts)
    assert one.sources == other.sources
    assert one.parts.tolist() == other.parts.tolist()


@given(
    parts=st.lists(
        st.tuples(st.floats(0.001, 1.0), st.integers(1, 10**9), st.integers(1, 1000)), min_size=1, max_size=8
    ),
    by_epochs=st.booleans(),
)
def test_a_round_reads_one_source_once_and_none_more(parts, by_epochs):
    counts = {f"s{i}": SourceCounts(n, n * mean) for i, (_, n, mean) in enumerate(parts)}
    values = {f"s{i}": value for i, (value, _, _) in enumerate(parts)}
    mixture = Mixture((epochs if by_epochs else shares)(**values), counts)
    assert np.all(mixture.parts >= 1)
    assert np.all(mixture.parts <= mixture.sequences)
    assert np.any(mixture.parts == mixture.sequences)
    assert mixture.round_sequences == mixture.parts.sum()


def random_mixture(seed: int) -> Mixture:
    rng = np.random.default_rng(seed)
    counts = {f"s{i}": SourceCounts(int(n), int(n) * 7) for i, n in enumerate(rng.integers(1, 40, 3))}
    return Mixture(shares(s0=0.2, s1=0.5, s2=0.3), counts)


@given(st.integers(0, 5000))
def test_a_round_is_cut_so_that_no_segment_holds_two_epochs_of_a_source(seed):
    mixture = random_mixture(seed)
    for number in range(12):
        cut = mixture.round(number)
        assert cut.borders[0] == 0
        assert cut.borders[-1] == mixture.round_sequences
        assert np.all(np.diff(cut.borders) >= 0)
        assert np.array_equal(cut.cuts[:, -1], mixture.parts)
        for index in range(3):
            for first, stop in zip(cut.cuts[index], cut.cuts[index][1:], strict=False):
                if stop > first:
                    begin = number * mixture.parts[index] + first
                    last = number * mixture.parts[index] + stop - 1
                    assert begin // mixture.sequences[index] == last // mixture.sequences[index]


def test_a_cut_keeps_the_mixtures_proportions():
    counts = {"a": SourceCounts(1000, 10_000), "b": SourceCounts(1500, 15_000)}
    mixture = Mixture(shares(a=0.5, b=0.5), counts)
    assert mixture.parts.tolist() == [1000, 1000]
    assert mixture.round(0).cuts.tolist() == [[0, 1000], [0, 1000]]
    assert mixture.round(1).cuts.tolist() == [[0, 500, 1000], [0, 500, 1000]]
    assert mixture.round(1).borders.tolist() == [0, 1000, 2000]
    assert mixture.round(2).cuts.tolist() == [[0, 1000], [0, 1000]]


@given(st.integers(0, 5000), st.integers(0, 9))
def test_a_rounds_places_are_each_sources_part_once_and_back(seed, number):
    mixture = random_mixture(seed)
    cut = mixture.round(number)
    places = np.arange(mixture.round_sequences)
    segments = cut.segment_of_position(places)
    found = []
    for segment in np.unique(segments):
        virtual = places[segments == segment] - cut.borders[segment]
        assert virtual.tolist() == list(range(cut.segment_size(segment)))
        source, in_part = cut.part_of(segment, virtual)
        for index in range(3):
            mine = source == index
            assert np.all(cut.segment_of_part(index, in_part[mine]) == segment)
            assert np.array_equal(cut.virtual_of(segment, index, in_part[mine]), virtual[mine])
        found += zip(source.tolist(), in_part.tolist(), strict=True)
    assert sorted(found) == [(index, place) for index in range(3) for place in range(mixture.parts[index])]


def test_bad_mixtures_are_refused():
    counts = {"a": SourceCounts(10, 100), "none": SourceCounts(0, 0)}
    with pytest.raises(DataError, match="source 'none' has no sequence to train on"):
        Mixture(shares(a=0.5, none=0.5), counts)
    with pytest.raises(RecipeError, match="names a source twice"):
        Mixture([*shares(a=0.5), *epochs(a=1)], counts)
    with pytest.raises(RecipeError, match="names a source twice"):
        Mixture([], counts)
    with pytest.raises(RecipeError, match="needs a share or epochs"):
        Mixture([MixtureShare(source="a")], counts)
    with pytest.raises(RecipeError, match="above zero"):
        Mixture(shares(a=0.0), counts)
    with pytest.raises(RecipeError, match="shares leave nothing"):
        Mixture([*shares(a=1.0), *epochs(b=1)], {**counts, "b": SourceCounts(3, 3)})


LENGTHS = {"a": [30, 5, 16, 40], "b": [16] * 9, "c": [100]}


def counts(seq_len: int = 18) -> dict[str, StoreStats]:
    return {
        name: StoreStats(
            source=name,
            digest=name,
            documents=len(lengths),
            tokens=sum(lengths),
            text_bytes=4 * sum(lengths),
            sequences={seq_len: sum(-(-n // (seq_len - 2)) for n in lengths)},
        )
        for name, lengths in LENGTHS.items()
    }


@pytest.mark.parametrize("kind", ["share", "epochs"])
def test_readings_are_what_the_order_gives(tmp_path, kind):
    mixture = {"a": 0.5, "b": 0.3, "c": 0.2} if kind == "share" else {"a": 1.0, "b": 2.0, "c": 0.5}
    stores = {name: FakeStore(tmp_path / name, lengths) for name, lengths in LENGTHS.items()}
    phase = make_phase(mixture, positions=1, kind=kind)
    order = PhaseOrder(3, phase, stores)
    positions = 12 * order.mixture.round_sequences
    phase = make_phase(mixture, positions=positions, sequences=positions, kind=kind)
    refs = order.refs(np.arange(positions, dtype=np.int64))
    for reading in phase_readings(phase, counts()):
        index = order.sources.index(reading.source)
        mine = refs.source == index
        assert reading.sequences == mine.sum()
        sequences = int(order.mixture.sequences[index])
        assert reading.epochs == pytest.approx(mine.sum() / sequences)
        assert int(refs.epoch[mine].max()) == int(np.ceil(reading.epochs)) - 1
        assert reading.tokens == pytest.approx(mine.sum() / sequences * sum(LENGTHS[reading.source]))
        assert (reading.asked_share if kind == "share" else reading.asked_epochs) == mixture[reading.source]
    assert sum(reading.share for reading in phase_readings(phase, counts())) == pytest.approx(1)


def test_without_counts_only_the_shares_tokens_are_known():
    phase = make_phase({"a": 0.75, "b": 0.25}, positions=40)
    first, _ = phase_readings(phase, None)
    assert (first.share, first.tokens, first.epochs, first.sequences) == (0.75, 300.0, None, None)
    (lone,) = phase_readings(make_phase({"a": 2.0}, kind="epochs"), None)
    assert (lone.asked_epochs, lone.share, lone.tokens, lone.epochs) == (2.0, None, None, None)


def members(*phases_of: list) -> list[SimpleNamespace]:
    return [SimpleNamespace(member=f"m{index}", phases=phases) for index, phases in enumerate(phases_of)]


def test_a_warning_counts_all_phases_and_names_who_reads_alike():
    once = counts()["b"].sequences[18]
    inside = make_phase({"b": 1.0}, positions=3 * once, name="pretrain")
    beyond = make_phase({"b": 1.0}, positions=2 * once, name="decay")
    assert repetition_warnings(members([inside], [beyond]), counts()) == []
    (warning,) = repetition_warnings(members([inside, beyond], [inside, beyond], [inside]), counts())
    assert warning.startswith("source 'b' is read 5.0 times (pretrain 3.0, decay 2.0) by m0, m1: past about 4 epochs")
    assert "arXiv 2305.16264" in warning
    assert repetition_warnings(members([inside, beyond]), None) == []


def test_four_epochs_are_still_fine():
    exactly = make_phase({"b": 1.0}, positions=int(MOST_EPOCHS) * counts()["b"].sequences[18])
    assert repetition_warnings(members([exactly]), counts()) == []
