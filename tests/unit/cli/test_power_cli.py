import json
import sys

import pytest

from seqpair.cli import app as cli


def seqpair(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the command line in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["seqpair", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_a_study_too_small_for_its_question_says_so(monkeypatch, capsys) -> None:
    assert seqpair(monkeypatch, "power", "--items", "200", "--seeds", "3", "--difference", "0.01") == 0
    told = capsys.readouterr().out
    assert "too small a study for a difference of 0.01" in told
    assert "With 3 seeds not even 7,000,000 items show a difference of 0.01: add seeds." in told


def test_the_items_that_a_difference_needs_are_told(monkeypatch, capsys) -> None:
    words = ("power", "--items", "100", "--seeds", "8", "--difference", "0.05")
    assert seqpair(monkeypatch, *words, "--json") == 0
    needed = json.loads(capsys.readouterr().out)["items_needed"]
    assert seqpair(monkeypatch, *words) == 0
    assert f"With 8 seeds about {needed:,} items show a difference of 0.05." in capsys.readouterr().out
    for items, verdict in ((needed, ": enough for"), (needed // 2, "too small")):
        assert seqpair(monkeypatch, "power", "--items", str(items), "--seeds", "8", "--difference", "0.05") == 0
        assert verdict in capsys.readouterr().out


def test_json_has_the_plan_and_what_it_assumed(monkeypatch, capsys) -> None:
    assert seqpair(monkeypatch, "power", "--items", "900", "--seeds", "8", "--json", "--agreement", "0.8") == 0
    found = json.loads(capsys.readouterr().out)
    assert 0.01 < found["detectable"] < 0.1
    assert found["spread"]["seeds"] == 0.01
    assert found["agreement"] == 0.8


def test_an_accuracy_that_is_none_is_one_error(monkeypatch, capsys) -> None:
    assert seqpair(monkeypatch, "power", "--items", "900", "--accuracy", "1.2") == 2
    assert "the accuracy is not between 0 and 1" in capsys.readouterr().err
