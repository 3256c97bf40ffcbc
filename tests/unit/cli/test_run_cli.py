"""The verb `run`: what it needs is asked for before anything is trained."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from seqpair.cli.run import ending, require_extras, run
from seqpair.errors import EvaluationError
from seqpair.recipe.load import load_recipe
from seqpair.recipe.resolve import resolve_plans


def test_missing_extras_are_named_before_anything_starts(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jinja2" else real(name))
    with pytest.raises(EvaluationError, match=r"(?s)no jinja2.*seqpair\[all\]"):
        require_extras()


def test_a_dry_run_lists_the_parts_and_makes_nothing(tiny_study, capsys):
    run(str(tiny_study.recipe), members="decoder", overrides=None, dry_run=True, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("prepare: 2 sources")
    assert "train decoder: from scratch" in lines
    assert not any("encoder" in line for line in lines)
    assert not (tiny_study.folder / "stores").exists()


def test_a_study_ends_in_what_was_shown_the_page_the_time_and_commands_that_fit_its_members():
    plans = list(resolve_plans(load_recipe("demo"), ["encoder", "decoder"]).values())
    seconds = {"prepare": 0.4, "train encoder": 130.0, "train decoder": 165.2}
    lines = ending("demo", plans, Path("runs/demo/report/index.html"), seconds)
    assert "encoder and decoder" in lines[0]
    assert lines[1].endswith("runs/demo/report/index.html")
    assert lines[2] == "time: 4 min 56 s (train encoder 2 min 10 s, train decoder 2 min 45 s)"
    fills, continues = (f"runs/demo/{member}/export" for member in ("encoder", "decoder"))
    assert [line.split()[2:4] for line in lines[3:5]] == [["fill", fills], ["generate", continues]]
    assert "seqpair diff demo encoder decoder" in lines[-1]
    alone = ending("demo", [plan for plan in plans if plan.member == "decoder"], None, {})
    assert not any("fill" in line or "diff" in line for line in alone)
