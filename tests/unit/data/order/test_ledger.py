from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from order_fakes import FakeStore, make_phase

from seqpair.data.order.batches import read_batch, sequence_digests, step_digest
from seqpair.data.order.ledger import Ledger, LedgerComparison, LedgerRecord, compare_ledgers, require_same_sequences
from seqpair.data.order.order import PhaseOrder
from seqpair.errors import TrainingError


def record(step: int, phase: str = "pretrain", digest: str | None = None) -> LedgerRecord:
    return LedgerRecord(phase, step, step * 8, step * 8 + 8, 100 + step, digest or f"{phase}{step}")


@pytest.fixture
def ledger_at() -> Iterator[Callable[..., Ledger]]:
    """Opens ledgers, with some records, and closes them after the test."""
    opened: list[Ledger] = []

    def open_ledger(path: Path, records: Sequence[LedgerRecord] = ()) -> Ledger:
        opened.append(Ledger(path))
        for entry in records:
            opened[-1].append(entry)
        return opened[-1]

    yield open_ledger
    for ledger in opened:
        ledger.close()


def test_records_come_back_in_order(ledger_at, tmp_path):
    records = [record(0), record(1), record(0, "decay")]
    ledger = ledger_at(tmp_path / "run" / "ledger.jsonl", records)
    ledger.sync()
    assert list(ledger.records()) == records
    assert list(ledger_at(ledger.path).records()) == records
    assert len(ledger.path.read_text().splitlines()) == 3


def test_every_record_is_on_disk_as_soon_as_it_is_appended(ledger_at, tmp_path):
    ledger = ledger_at(tmp_path / "ledger.jsonl")
    for step in range(3):
        ledger.append(record(step))
        assert list(ledger_at(ledger.path).records())[-1] == record(step)


def test_a_batchs_record_says_its_positions_tokens_and_digest(ledger_at, tmp_path):
    store = FakeStore(tmp_path / "store", [40, 9, 30])
    batch = read_batch(PhaseOrder(0, make_phase({"a": 1.0}), {"a": store}), 0)
    digest = step_digest(batch.positions, sequence_digests(batch))
    assert LedgerRecord.of(batch) == LedgerRecord("pretrain", 0, 0, 8, batch.content.size, digest, format=2)


OLD = (
    '{"phase": "pretrain", "step": 0, "first_position": 0, "stop_position": 8, "content_tokens": 100, "digest": "d"}\n'
)


def test_a_ledger_of_the_first_format_is_read_and_goes_on_in_it(ledger_at, tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_text(OLD, encoding="utf-8")
    ledger = ledger_at(path)
    assert list(ledger.records()) == [replace(record(0), digest="d", format=1)]
    assert ledger.format == 1
    ledger.append(replace(record(1), digest="e", format=1))
    assert [sorted(json.loads(line)) for line in path.read_text().splitlines()] == [sorted(json.loads(OLD))] * 2
    ledger.cut_back(0)
    assert ledger.format == 2
    assert ledger_at(tmp_path / "new.jsonl", [record(0)]).format == 2


def test_ledgers_of_two_formats_are_compared_but_for_their_digests(ledger_at, tmp_path, capsys):
    new = ledger_at(tmp_path / "new.jsonl", [record(0), record(1)])
    old = ledger_at(tmp_path / "old.jsonl", [replace(record(step), digest="x", format=1) for step in (0, 1)])
    comparison = require_same_sequences(new, old)
    assert comparison == LedgerComparison(2, 0, 0, None, without_digest=2)
    assert not comparison.same
    assert "the digests were not compared" in capsys.readouterr().err
    other = ledger_at(tmp_path / "other.jsonl", [replace(record(0), content_tokens=9, digest="x", format=1)])
    assert compare_ledgers(new, other).parts_at is not None


def test_cut_back_drops_what_the_checkpoint_has_not_seen(ledger_at, tmp_path):
    records = [record(0), record(1), record(0, "decay"), record(1, "decay")]
    ledger = ledger_at(tmp_path / "ledger.jsonl", records)
    ledger.cut_back(3)
    assert list(ledger.records()) == records[:3]
    ledger.append(record(1, "decay"))
    assert list(ledger.records()) == records
    ledger.cut_back(0)
    assert list(ledger.records()) == []
    ledger.append(record(0))


@pytest.mark.parametrize("torn_bytes", [1, 20, 70])
def test_a_torn_last_line_is_left_out_and_cut_away(ledger_at, tmp_path, torn_bytes):
    ledger = ledger_at(tmp_path / "ledger.jsonl", [record(0), record(1)])
    whole = ledger.path.read_bytes()
    with ledger.path.open("ab") as handle:
        handle.write(whole[:torn_bytes])
    again = ledger_at(ledger.path)
    assert list(again.records()) == [record(0), record(1)]
    again.cut_back(2)
    assert ledger.path.read_bytes() == whole
    again.append(record(2))
    assert [entry.step for entry in again.records()] == [0, 1, 2]


def test_a_torn_last_line_does_not_spoil_the_next_record(ledger_at, tmp_path):
    ledger = ledger_at(tmp_path / "ledger.jsonl", [record(0)])
    with ledger.path.open("ab") as handle:
        handle.write(b'{"phase": "pre')
    ledger_at(ledger.path).append(record(1))
    assert list(ledger_at(ledger.path).records()) == [record(0), record(1)]


def test_a_ledger_shorter_than_the_checkpoint_is_refused(ledger_at, tmp_path):
    ledger = ledger_at(tmp_path / "ledger.jsonl", [record(0), record(1)])
    with pytest.raises(TrainingError, match="shorter than the checkpoint") as caught:
        ledger.cut_back(5)
    assert "2 records" in str(caught.value)
    assert list(ledger.records()) == [record(0), record(1)]
    with pytest.raises(TrainingError, match="0 records"):
        ledger_at(tmp_path / "missing.jsonl").cut_back(1)


@pytest.mark.parametrize(
    "follower",
    [record(1), record(3), record(1, "decay"), replace(record(2), first_position=17)],
    ids=["repeated", "skipped", "phase not from its start", "positions with a gap"],
)
def test_a_record_that_does_not_follow_is_refused(ledger_at, tmp_path, follower):
    ledger = ledger_at(tmp_path / "ledger.jsonl", [record(0), record(1)])
    for one in (ledger, ledger_at(ledger.path)):
        with pytest.raises(TrainingError, match="does not follow the last one"):
            one.append(follower)
    assert list(ledger.records()) == [record(0), record(1)]


def test_the_first_record_begins_a_phase(ledger_at, tmp_path):
    with pytest.raises(TrainingError, match="the first step of a phase"):
        ledger_at(tmp_path / "ledger.jsonl").append(record(3))


NEWER = OLD.strip().replace("}", ', "format": 3}')


@pytest.mark.parametrize("line", ["{}", "[1]", "not json", '{"phase": "pretrain", "step": 0}', NEWER])
def test_a_line_that_is_no_record_is_named(ledger_at, tmp_path, line):
    path = ledger_at(tmp_path / "ledger.jsonl", [record(0)]).path
    with path.open("a") as handle:
        handle.write(line + "\n")
    with pytest.raises(TrainingError, match=r"line 2 of .*ledger.jsonl is not a ledger record"):
        list(ledger_at(path).records())


def test_equal_ledgers_are_the_same_over_their_common_steps(ledger_at, tmp_path):
    long = ledger_at(tmp_path / "a.jsonl", [record(step) for step in range(5)])
    short = ledger_at(tmp_path / "b.jsonl", [*(record(step) for step in range(3)), record(0, "cross")])
    comparison = require_same_sequences(long, short)
    assert (comparison.common_steps, comparison.only_first, comparison.only_second) == (3, 2, 1)
    assert comparison.same


def test_ledgers_that_part_say_where(ledger_at, tmp_path):
    one = ledger_at(tmp_path / "a.jsonl", [record(step) for step in range(4)])
    other = ledger_at(tmp_path / "b.jsonl", [record(0), record(1), record(2, digest="x" * 64), record(3, digest="y")])
    comparison = compare_ledgers(one, other)
    assert comparison.parts_at == (record(2), record(2, digest="x" * 64))
    assert not comparison.same
    with pytest.raises(TrainingError, match="part in phase 'pretrain' at step 2") as caught:
        require_same_sequences(one, other)
    assert "digest xxxxxxxxxxxx" in str(caught.value)


def test_ledgers_without_a_common_step_prove_nothing(ledger_at, tmp_path):
    one = ledger_at(tmp_path / "a.jsonl", [record(0)])
    other = ledger_at(tmp_path / "b.jsonl", [record(0, "cross")])
    assert not compare_ledgers(one, other).same
    with pytest.raises(TrainingError, match="no step in common"):
        require_same_sequences(one, other)
