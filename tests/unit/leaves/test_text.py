import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpair.errors import SeqpairError
from seqpair.text import Progress, format_bytes, format_count, format_seconds, nearest, note, parse_count


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("300M", 300_000_000),
        ("8.5B", 8_500_000_000),
        ("1.7T", 1_700_000_000_000),
        ("16k", 16_000),
        ("1_000", 1000),
        ("1e9", 10**9),
        (4096, 4096),
        (2e6, 2_000_000),
    ],
)
def test_human_counts_are_exact(text, value):
    assert parse_count(text) == value


@pytest.mark.parametrize("text", ["many", "-3", "1.5", "3 apples", "", True, "0.5k5"])
def test_what_is_no_whole_count_is_refused_with_the_value_seen(text):
    with pytest.raises(SeqpairError, match="a count was expected") as caught:
        parse_count(text)
    assert repr(text) in str(caught.value)


@given(st.integers(0, 10**15))
def test_a_plain_number_comes_back(value):
    assert parse_count(value) == value == parse_count(str(value))


def test_short_texts():
    assert [format_count(n) for n in (0, 812, 16_913_600, 1.7e12, 999_960, 2.5)] == [
        "0",
        "812",
        "16.9M",
        "1.70T",
        "1.00M",
        "2.5",
    ]
    assert [format_bytes(n) for n in (812, 1536, 3 << 30)] == ["812 B", "1.5 KiB", "3.0 GiB"]
    assert [format_seconds(s) for s in (48.2, 200, 7500)] == ["48 s", "3 min 20 s", "2 h 05 min"]


def test_a_note_is_one_line_on_standard_error(capsys):
    note("here\n")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "here\n")


def test_progress_says_rate_and_time_left_of_this_process_only(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("seqpair.text.time.monotonic", lambda: now[0])
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


def test_nearest_word() -> None:
    assert nearest("seqlen", ["name", "seq_len"]) == " (did you mean 'seq_len'?)"
    assert nearest("learning_rate", ["beta1", "lr"]) == " (did you mean 'lr'?)"
    assert nearest("zzz", ["name", "seq_len"]) == ""
