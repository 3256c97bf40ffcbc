"""The examples and the page of the public API run, at size `test` and on made-up text."""

import random
import re
import sys
from pathlib import Path

import pytest
from tiny import made_up_text, write_tiny_study

import seqpair

ROOT = Path(__file__).resolve().parents[2]
SMALLER = {
    "own_domain.py": [('"1m", "2M"', '"test", "3k"')],
    "compare_objectives.py": [('"demo", "500k", (0, 1, 2)', '"tiny.yaml", "4k", (0, 1)')],
    "study_checkpoints.py": [('"demo", "500k", "50k"', '"tiny.yaml", "6k", "2k"')],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a folder of texts and a tiny recipe."""
    monkeypatch.chdir(tmp_path)
    rng = random.Random(1)
    (tmp_path / "texts").mkdir()
    for number in range(60):
        (tmp_path / "texts" / f"{number:02d}.txt").write_text(made_up_text(rng, 30), encoding="utf-8")
    write_tiny_study(tmp_path)
    return tmp_path


@pytest.mark.slow  # the tutorials walk the same ways
@pytest.mark.parametrize("name", SMALLER)
def test_an_example_runs(name, folder, capsys):
    text = (ROOT / "examples" / name).read_text(encoding="utf-8")
    for whole, small in SMALLER[name]:
        assert whole in text
        text = text.replace(whole, small)
    exec(compile(text, name, "exec"), {"__name__": "__main__"})  # noqa: S102
    assert capsys.readouterr().out


def test_the_page_of_the_api_runs_from_top_to_bottom(folder, capsys):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) > 4
    names = {}
    for block in blocks:
        exec(compile(block, "api.md", "exec"), names)  # noqa: S102
    assert capsys.readouterr().out


def test_every_public_name_is_there_and_no_other():
    for name in seqpair.__all__:
        assert getattr(seqpair, name) is not None
    assert dir(seqpair) == seqpair.__all__
    with pytest.raises(AttributeError, match="no attribute 'training'"):
        seqpair.training  # noqa: B018


def test_importing_the_package_loads_nothing_heavy():
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", "import seqpair, sys; print(*sorted(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not {"torch", "numpy", "pydantic", "transformers"} & set(done.stdout.split())


def test_errors_are_those_of_the_verbs(folder):
    with pytest.raises(seqpair.SeqpairError, match="there is no study 'tinny'"):
        seqpair.Study("tinny")
    with pytest.raises(seqpair.SeqpairError, match="optimiser"):
        seqpair.Study("tiny.yaml", set={"optimiser.lr": 1})
    study = seqpair.Study("tiny.yaml")
    with pytest.raises(seqpair.SeqpairError, match="more or fewer things than one"):
        study.order()
    with pytest.raises(seqpair.SeqpairError, match="has no checkpoint to export"):
        study.prepare() and study.export("encoder")
