"""The tutorials run from top to bottom, at size `test` and on made-up text."""

import random
import re
import shlex
import sys
from pathlib import Path

import pytest
from tiny import made_up_text

from seqpair.cli import app as cli

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)
SMALLER = {
    "--size 1m": "--size test",
    "extends: 1m": "extends: test",
    "budget: 2M": "budget: 3k",
    "every_tokens: 200k": "every_tokens: 1k",
    "seqpair run pair.yaml --set seed=1 --set name=pair-1\nseqpair run pair.yaml --set seed=2 --set name=pair-2\n": "",
}


def run_verb(line, monkeypatch):
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_tutorial_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(1)
    (tmp_path / "texts").mkdir()
    for number in range(40):
        (tmp_path / "texts" / f"{number:02d}.txt").write_text(made_up_text(rng, 12), encoding="utf-8")
    names = {}
    text = page.read_text(encoding="utf-8")
    for whole, small in SMALLER.items():
        text = text.replace(whole, small)
    for language, title, body in FENCE.findall(text):
        if title:
            Path(title).write_text(body, encoding="utf-8")
        elif language == "python":
            exec(compile(body, page.name, "exec"), names)  # noqa: S102
        elif language == "bash":
            for line in body.splitlines():
                run_verb(line, monkeypatch)
    assert capsys.readouterr().out
