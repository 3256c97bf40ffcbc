"""The command line as a whole: version, panels, completion, help, errors and exit codes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
import torch
import typer.main

from seqpair import __version__
from seqpair.cli import app as cli
from seqpair.data.prepare.workers import usable_cores
from seqpair.distributed.hardware import look_around
from seqpair.errors import SeqpairError

COMMAND = typer.main.get_command(cli.app)


def verbs() -> dict[str, typer.core.TyperCommand]:
    """Every verb by its words, those below a group included."""
    found = {}
    for name, verb in COMMAND.commands.items():
        below = getattr(verb, "commands", None)
        found |= {f"{name} {word}": one for word, one in below.items()} if below else {name: verb}
    return found


def test_the_version_is_printed(seqpair):
    assert seqpair("--version") == (0, f"seqpair {__version__}\n", "")


def test_every_verb_stands_in_a_panel_and_the_help_has_completion_and_exit_codes(seqpair):
    code, out, _ = seqpair("--help")
    assert code == 0
    text = " ".join(out.replace("│", " ").split())
    for part in (*cli.PANELS, "--install-completion", "--version", "130 interrupted"):
        assert part in text
    assert set(COMMAND.commands) == {word for panel in cli.PANELS.values() for word in panel}


def test_one_device_option_with_one_default():
    defaults = {
        name: parameter.default
        for name, verb in verbs().items()
        for parameter in verb.params
        if parameter.name == "device" and name != "plan"  # whose device is one to predict for
    }
    assert set(defaults) == {"chat", "classify", "doctor", "embed", "eval", "fill", "finetune", "generate", "search"}
    assert set(defaults.values()) == {"auto"}


def test_every_option_has_a_help_text():
    bare = [
        f"{name} {parameter.name}"
        for name, verb in verbs().items()
        for parameter in verb.params
        if not getattr(parameter, "help", "") and parameter.name != "help"
    ]
    assert bare == []


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), 2, "error: permission denied\n  seen: a/b\n"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
            2,
            "error: no such file or directory\n  seen: x\n",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "ck"), 5, "error: no space left on device\n  seen: ck\n"),
        (OSError(errno.EIO, "Input/output error"), 2, "error: input/output error\n"),
    ],
)
def test_a_file_error_is_one_message_with_path_and_reason(seqpair, monkeypatch, error, code, message):
    def failing() -> None:
        raise error

    monkeypatch.setattr(cli, "app", failing)
    found, out, said = seqpair("plan")
    assert (found, out) == (code, "")
    assert said.startswith(f"{message}  next: ")
    assert said.count("\n") == message.count("\n") + 1


def test_other_errors_keep_their_traceback(seqpair, monkeypatch):
    def failing() -> None:
        raise OSError("the connection broke")

    monkeypatch.setattr(cli, "app", failing)
    with pytest.raises(OSError, match="the connection broke"):
        cli.main()


def test_a_folder_in_place_of_a_file_is_one_message(seqpair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.jsonl").mkdir()
    code, out, err = seqpair("generate", "none", "--file", "texts.jsonl")
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "texts.jsonl" in err


@pytest.mark.parametrize(
    "words",
    [
        ("prepare", "demo", "--shard", ""),
        ("run", "demo", "--members", ","),
        ("sweep", "demo", "--over", "seed=1,2", "--members", ""),
        ("soup", "demo", "--member", "encoder", "--out", "x", "--checkpoints", "step1,"),
        ("checkpoints", "demo", "--thin", ""),
        ("tokenizer", "show", ""),
        ("tokenizer", "train", "", "--out", "x"),
        ("tokenizer", "train", "demo", "--out", "x", "--vocab-size", ""),
        ("order", "demo", "--document", ""),
        ("order", "demo", "--text", " "),
        ("plan", ""),
    ],
)
def test_an_empty_value_is_refused_and_not_taken_for_none(seqpair, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = seqpair(*words)
    assert (code, out) == (2, "")
    assert err
    assert list(tmp_path.iterdir()) == []


def test_the_help_imports_nothing_heavy():
    program = (
        "import sys; sys.argv = ['seqpair', '--help']\n"
        "from seqpair.cli.app import main\n"
        "try:\n    main()\n"
        "finally:\n    print([m for m in ('torch', 'numpy', 'pydantic', 'transformers') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_a_terminal_is_shown_cannot_control_it(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    shown = "a \x1b]0;title\x07 \x1b[2J \x1b[31mred\x1b[0m \u202e name\x9b1m\n"
    monkeypatch.setattr(cli, "app", lambda: sys.stdout.write(shown))
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # put back at the end
    cli.main()
    shown = capsys.readouterr().out
    assert shown == "a \\x1b]0;title\\x07 \\x1b[2J \x1b[31mred\x1b[0m \\u202e name\\x9b1m\n"


def test_windows_is_refused_in_one_sentence_by_every_door(monkeypatch, seqpair):
    import seqpair as package

    monkeypatch.setattr(sys, "platform", "win32")
    code, out, err = seqpair("plan", "demo")
    assert (code, out) == (2, "")
    for name in ("Study", "Model", "load", "evaluate_models", "compare_members", "probe"):
        monkeypatch.delitem(vars(package), name, raising=False)
        with pytest.raises(SeqpairError) as caught:
            getattr(package, name)
        assert err == f"error: {caught.value}\n"
    assert package.__version__ == __version__
    assert package.SeqpairError is SeqpairError


def test_a_system_that_does_not_tell_its_cores_counts_them_all(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert usable_cores() == 7
    assert look_around(torch.device("cpu")).cores == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1
