import re

from seqpair.log import Progress, note


def test_a_note_is_one_line_on_standard_error(capsys):
    note("here\n")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "here\n")


def test_progress_says_rate_and_time_left_of_this_process_only(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("seqpair.log.time.monotonic", lambda: now[0])
    progress = Progress("encoder", 1000, "tokens", done=400, quiet_seconds=5)
    now[0] = 102.0
    progress.update(450)
    assert capsys.readouterr().err == "", "not due yet"
    now[0] = 110.0
    progress.update(600, "loss 3.1")
    line = capsys.readouterr().err
    assert line == "encoder: 600/1.00k tokens (60 %), 20 tokens/s, 20 s left, loss 3.1\n"
    progress.finish()
    assert re.match(r"encoder: 600/", capsys.readouterr().err)


def test_without_a_total_there_is_no_time_left(capsys):
    progress = Progress("read", 0, "rows")
    progress.done = 3
    progress.finish()
    assert "left" not in capsys.readouterr().err
