"""The tutorial of docs/objectives.md: its file adds an objective that trains on the pair's sequences."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from seqpair.objectives.selection import MASKINGS, TokenCounters
from seqpair.recipe.load import load_recipe
from seqpair.recipe.objectives import OBJECTIVES
from seqpair.recipe.resolve import resolve_plans

PAGE = (Path(__file__).parents[2] / "docs" / "objectives.md").read_text(encoding="utf-8")
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def spans(monkeypatch):
    """The objective of the tutorial, in the tables until the test is over."""
    monkeypatch.setitem(OBJECTIVES, "spans", None)
    monkeypatch.setitem(MASKINGS, "spans", None)
    exec(compile(CODE, "spans.py", "exec"), {"__name__": "spans"})
    return MASKINGS["spans"]


def test_spans_are_runs_of_the_stated_share_within_their_sequences(spans):
    counters = TokenCounters.of(np.arange(1000), np.full(1000, 60))
    chosen = spans(counters, 7, "pretrain", 0.3).chosen.reshape(1000, 60)
    assert chosen[:, 2:].mean() == pytest.approx(0.3, abs=0.01)
    single = chosen[:, 1:-1] & ~chosen[:, :-2] & ~chosen[:, 2:]
    assert not single.any()
    assert chosen[:, 0].mean() == pytest.approx(1 - 0.7 ** (1 / 3), abs=0.04)  # a first token is chosen only as a begin


def test_the_objective_is_in_the_plan_and_its_pair_still_a_pair(spans):
    plans = resolve_plans(load_recipe("demo", ["members.spans={objective: spans}"]), ["encoder", "spans"])
    assert plans["spans"].phases[0].objectives[0].objective == "spans"
    assert plans["spans"].derived == plans["encoder"].derived


def test_the_lines_counted_are_the_lines_there_are():
    tree = ast.parse(CODE)
    (function,) = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    rows = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript)]
    assert (function.end_lineno - function.lineno + 1, len(rows)) == (7, 2)
    assert "The function has seven lines and the table two." in PAGE


def test_the_file_trains_a_member_on_the_sequences_of_the_pair(prepared_study, tmp_path):
    (tmp_path / "spans.py").write_text(CODE, encoding="utf-8")
    settings = ["members.spans={objective: spans}", f"runs={tmp_path}", "phases.0.budget_tokens=12k"]
    for member in ("spans", "encoder"):
        words = [sys.executable, str(tmp_path / "spans.py"), "train", str(prepared_study.recipe), "--member", member]
        words += [word for setting in settings for word in ("--set", setting)]
        subprocess.run(words, check=True, capture_output=True, timeout=120)
    folders = [tmp_path / "tiny" / member for member in ("spans", "encoder")]
    assert (folders[0] / "ledger.jsonl").read_bytes() == (folders[1] / "ledger.jsonl").read_bytes()
    losses = [(folder / "metrics.jsonl").read_text().splitlines()[1] for folder in folders]
    assert losses[0] != losses[1]
