"""Epochs over a budget: as computed from the order itself, and the warning past four."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from order_fakes import FakeStore, make_phase

from seqpair.data.order.order import PhaseOrder
from seqpair.data.order.repetition import MOST_EPOCHS, phase_readings, repetition_warnings
from seqpair.recipe.plan import StoreStats

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
