import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from seqpair.cli import app as cli
from seqpair.recipe.load import load_recipe, preset_names
from seqpair.recipe.plan import Plan


def seqpair(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the command line in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["seqpair", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("preset", preset_names())
def test_plan_shows_all_members(
    preset: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seqpair(monkeypatch, "plan", preset) == 0
    shown = capsys.readouterr().out
    for part in (
        *(f"{preset} / {member}" for member in load_recipe(preset).members),
        "parameters",
        "steps",
        "FLOPs",
        "memory",
        "disk",
    ):
        assert part in shown


def test_every_line_that_rests_on_the_estimate_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seqpair(monkeypatch, "plan", "17m", "--member", "encoder") == 0
    shown = capsys.readouterr().out
    assert "16,913,600 in all, 4,019,392 non-embedding" in shown
    assert "decoder" not in shown
    lines = shown.splitlines()
    assert lines[1].startswith("encoder ")
    assert lines[1].endswith("(estimated)")
    for label in (
        "tokens",
        "steps",
        "batch",
        "learning rate",
        "checkpoints",
        "held-out loss",
        "FLOPs",
        "checkpoint disk",
    ):
        index = next(i for i, line in enumerate(lines) if line.strip().startswith(label))
        assert "(estimated)" in lines[index] + lines[index + 1], label
    for label in ("mask rate", "RoPE bases", "run"):
        assert "(estimated)" not in next(line for line in lines if line.strip().startswith(label))


def test_what_members_share_is_printed_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seqpair(monkeypatch, "plan", "study-1m", "--set", "data.sources.corpus.paths=[a.txt]") == 0
    totals, *blocks = capsys.readouterr().out.rstrip().split("\n\n")
    members = list(load_recipe("study-1m").members)
    assert [line.split()[0] for line in totals.splitlines()] == ["member", *members]
    assert [block.splitlines()[0].partition(" / ")[2] for block in blocks] == ["the same for all members", *members]
    assert blocks[0].count("RoPE bases") == len({phase for phase in load_recipe("study-1m").phases})
    for block in blocks[1:]:
        assert "objective" in block
        assert "learning rate" not in block
        assert "batch" not in block


def test_starts_and_objectives_are_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [
        "members.biphasic={objective: [{clm: 0.25}, {mlm: 0.75}]}",
        "members.hybrid={objective: {hybrid: {causal_frac: 0.0625}}}",
        "members.branch={from: encoder@ext400, phases: [decay]}",
    ]
    words = [word for override in overrides for word in ("--set", override)]
    assert seqpair(monkeypatch, "plan", "ettin-17m", *words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for part in (
        "starts from decoder's last checkpoint, optimiser fresh",
        "starts from encoder@ext400, optimiser carried",
        "objective clm, mlm from step 18",
        "objective hybrid (6.25 % of each step's sequences causal)",
        "exported as ModernBertForMaskedLM and as ModernBertDecoderForCausalLM",
        "arxiv 1.6 %",
        "0.003 after the warm-up, 0.003 at the last",
        "at the first step, 6e-05 at the last (one_minus_sqrt)",
    ):
        assert part in shown, part


@pytest.mark.parametrize("words", [("prepare",), ("prepare", "--dry-run"), ("train", "--member", "encoder"), ("run",)])
def test_sources_without_paths_are_one_error_that_lists_them(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seqpair(monkeypatch, words[0], "ettin-17m", *words[1:], "--set", "data.sources.wikipedia.paths=[w.txt]") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 17 sources have no paths")
    for name in ("arxiv", "dclm-dolmino", "tulu-flan"):
        assert name in error.splitlines()[1]
    assert "wikipedia" not in error
    assert list(tmp_path.iterdir()) == []


def test_json_holds_the_whole_plan_and_its_cost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seqpair(monkeypatch, "plan", "demo", "--json", "--set", "phases.pretrain.seq_len=256") == 0
    content = json.loads(capsys.readouterr().out)
    assert set(content) == {"encoder", "decoder"}
    plan = Plan.model_validate(content["decoder"]["plan"])
    assert plan.phases[0].seq_len == 256
    assert plan.origins["phases.0.seq_len"] == "--set"
    assert content["decoder"]["cost"]["parameters"] > 1_000_000
    assert len(content["decoder"]["plan_digest"]) == 64


def test_origins_are_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert seqpair(monkeypatch, "plan", "demo", "--origins", "--set", "seed=7") == 0
    shown = capsys.readouterr().out.splitlines()
    assert "seed: --set" in shown
    assert "phases.0.budget_tokens: preset demo" in shown
    assert "runtime.threads: default" in shown


def test_a_fault_of_the_user_is_one_message_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seqpair(monkeypatch, "plan", "demo", "--set", "phases.pretrain.seqlen=256") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: a fault in the recipe:")
    assert "did you mean 'seq_len'?" in captured.err
    assert seqpair(monkeypatch, "plan", "demo", "--member", "encodr") == 2
    assert "did you mean 'encoder'?" in capsys.readouterr().err


def test_ctrl_c_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "app", interrupted)
    assert seqpair(monkeypatch, "plan") == 130


def test_every_verb_has_help_with_an_example(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = typer.main.get_command(cli.app)
    verbs = [
        [name, *below]
        for name, verb in command.commands.items()
        for below in [[n] for n in getattr(verb, "commands", {})] or [[]]
    ]
    assert ["plan"] in verbs
    assert ["data", "show"] in verbs
    for words in verbs:
        assert seqpair(monkeypatch, *words, "--help") == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert f"seqpair {' '.join(words)} " in shown.partition("Example")[2], words


def test_without_a_verb_the_help_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert seqpair(monkeypatch) in (0, 2)
    captured = capsys.readouterr()
    assert "plan" in captured.out + captured.err


def test_plan_imports_nothing_heavy() -> None:
    program = (
        "import sys; sys.argv = ['seqpair', 'plan', '17m']\n"
        "from seqpair.cli.app import main\n"
        "try:\n    main()\n"
        "finally:\n    print([m for m in ('torch', 'transformers', 'pyarrow', 'tokenizers') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
