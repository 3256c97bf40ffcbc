"""The verb `run`: what it needs is asked for before anything is trained."""

from __future__ import annotations

import importlib.util

import pytest

from seqpair.cli.run import require_extras, run
from seqpair.errors import EvaluationError


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
