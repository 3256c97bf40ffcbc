"""What loggers got before an interruption, told by the rows that were written."""

from __future__ import annotations

import pytest

from seqpair.errors import CheckpointError
from seqpair.train.loggers.record import RECORD_NAME, LastRows, SentRecord, last_rows


def row(step: int, source: str | None = None) -> dict:
    return {"kind": "train", "total_step": step} if source is None else held_out(step, source)


def held_out(step: int, source: str) -> dict:
    return {"kind": "held_out", "total_step": step, "source": source}


def test_the_newest_rows_are_those_of_the_newest_step() -> None:
    rows = [held_out(0, "a"), row(1), row(2), held_out(2, "a")]
    assert last_rows(rows) == LastRows(2, ("train", "held_out/a"))
    assert last_rows([]) == LastRows()


def test_a_step_that_was_cut_short_is_taken_up_in_the_middle() -> None:
    sent = LastRows(2, ("train", "held_out/a"))
    assert [sent.include(one) for one in (row(1), row(2), held_out(2, "a"), held_out(2, "b"), row(3))] == [
        True, True, True, False, False,
    ]  # fmt: skip
    assert not LastRows().include(held_out(0, "a"))


def test_the_id_stays_and_what_was_sent_only_grows(tmp_path) -> None:
    first = SentRecord.read(tmp_path).began(["wandb"], LastRows())
    first.write(tmp_path)
    assert first.rows_sent("wandb") == LastRows()
    second = SentRecord.read(tmp_path).began(["wandb"], LastRows(9, ("train",)))  # killed at step 9
    second.write(tmp_path)
    third = SentRecord.read(tmp_path).began(["wandb"], LastRows(7, ("train",)))  # killed again, before step 9
    assert first.run_id == second.run_id == third.run_id
    assert third.rows_sent("wandb") == LastRows(9, ("train",))
    same = third.began(["wandb"], LastRows(9, ("held_out/a",)))
    assert same.rows_sent("wandb") == LastRows(9, ("train", "held_out/a"))


def test_a_logger_that_was_not_there_got_nothing(tmp_path) -> None:
    plain = SentRecord.read(tmp_path).began([], LastRows())
    added = plain.began(["trackio"], LastRows(5, ("train",)))
    assert added.rows_sent("trackio") == LastRows()
    without = added.began([], LastRows(8, ("train",)))  # trackio got up to 8
    back = without.began(["trackio"], LastRows(20, ("train",)))  # and nothing of what came then
    assert back.rows_sent("trackio") == LastRows(8, ("train",))


def test_two_runs_have_two_ids(tmp_path) -> None:
    assert SentRecord.read(tmp_path).run_id != SentRecord.read(tmp_path).run_id


def test_a_damaged_record_is_said(tmp_path) -> None:
    (tmp_path / RECORD_NAME).write_text('{"run_id": ')
    with pytest.raises(CheckpointError, match=r"(?s)loggers.json is damaged.*new id"):
        SentRecord.read(tmp_path)
