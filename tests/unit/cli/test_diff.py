import json
import re
import sys
from pathlib import Path

import pytest

from seqpair.cli import app as cli
from seqpair.recipe.load import load_recipe
from seqpair.recipe.resolve import resolve_plan


def seqpair(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the command line in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["seqpair", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_plan(path: Path, member: str, *overrides: str) -> str:
    path.write_text(resolve_plan(load_recipe("demo", overrides), member).model_dump_json(), encoding="utf-8")
    return str(path)


def test_diff_lists_every_difference_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seqpair(monkeypatch, "diff", "demo", "encoder", "decoder") == 0
    shown = capsys.readouterr().out
    for part in ("phases[pretrain].objectives[0].objective", "ModernBertDecoderForCausalLM", "the attention direction"):
        assert part in shown
    assert "NOT DECLARED" not in shown


def test_diff_as_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert seqpair(monkeypatch, "diff", "demo", "encoder", "decoder", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert {"path": "derived.direction", "a": "bidirectional", "b": "causal"}.items() <= content[3].items()
    assert all(item["declared"] for item in content)


def test_an_undeclared_difference_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_plan(tmp_path / "a.json", "encoder")
    second = write_plan(tmp_path / "b.json", "decoder", "optimizer.lr=1.23e-3")
    assert seqpair(monkeypatch, "diff", first, second) == 2
    captured = capsys.readouterr()
    assert "NOT DECLARED" in captured.out
    assert re.search(r"optimizer.lr: \S+ against 0.00123", captured.err)


def test_a_member_does_not_differ_from_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seqpair(monkeypatch, "diff", "demo", "encoder", "encoder") == 0
    assert "no difference" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("demo", "encoder", "decodr"), "did you mean 'decoder'?"),
        (("demo", "encoder"), "a study and two members, or two folders of runs or plan.json files"),
        (("broken.json", "broken.json"), "broken.json is not a plan"),
    ],
)
def test_diff_with_wrong_words(
    words: tuple[str, ...],
    part: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    assert seqpair(monkeypatch, "diff", *words) == 2
    assert part in capsys.readouterr().err
