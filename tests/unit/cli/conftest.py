"""The command line, run inside the test's own process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from seqpair.cli import app as cli


@pytest.fixture
def seqpair(monkeypatch, capsys):
    """Run the command line in this process; return its exit code, output and messages."""

    def run(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["seqpair", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return run
