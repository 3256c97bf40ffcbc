"""What the documents show must exist: commands, options, presets, make targets, links, Python code."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer
import typer.main

from seqpair.cli.app import app
from seqpair.recipe.load import load_recipe, preset_names
from seqpair.recipe.resolve import resolve_plan

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    [*ROOT.glob("*.md"), *(page for room in ("docs", "results", ".github") for page in (ROOT / room).glob("**/*.md"))]
)
COMMANDS = typer.main.get_command(app)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
USAGE_ERROR = typer.BadParameter.__mro__[1]
LONGEST_CELL = 120
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def named(path):
    return str(path.relative_to(ROOT))


def blocks(path, *languages):
    return [body for language, body in FENCE.findall(path.read_text(encoding="utf-8")) if language in languages]


def shell_lines(path):
    """Return the lines of shell blocks, and inline code."""
    text = path.read_text(encoding="utf-8")
    lines = []
    for body in blocks(path, "", "bash", "sh", "shell", "console"):
        lines += [line.strip().removeprefix("$ ") for line in body.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    return lines, inline


def seqpair_commands(path):
    """Return (line, whole, arguments) of every `seqpair VERB ...`; what is inline may be a part of a command."""
    lines, inline = shell_lines(path)
    call = re.compile(r"(\S+=\S+ )*(seqpair|torchrun .*-m seqpair) [a-z]")
    for texts, whole in ((lines, True), (inline, False)):
        for line in texts:
            if call.match(line):
                words = shlex.split(re.sub(r"\[(-[^\]]*)\]", r"\1", line), comments=True)
                yield line, whole, words[words.index("seqpair") + 1 :]


def fault_of(verb, arguments, *, whole):
    """Return why the command line would refuse a command, or an empty text."""
    if verb not in COMMANDS.commands:
        return f"there is no verb {verb}"
    command, arguments = COMMANDS.commands[verb], list(arguments)
    while below := getattr(command, "commands", None):
        if not arguments:
            return f"{verb} needs one of {', '.join(below)}" if whole else ""
        verb = arguments.pop(0)
        if verb not in below:
            return f"there is no verb {verb} below it"
        command = below[verb]
    try:
        command.make_context(verb, arguments)
    except USAGE_ERROR as error:
        incomplete = "Missing" in type(error).__name__ or "requires an argument" in error.format_message()
        return "" if incomplete and not whole else error.format_message()
    except typer.Exit:
        return ""
    return ""


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_every_command_shown_is_a_command(path):
    faults = {
        line: fault_of(verb, arguments, whole=whole) for line, whole, (verb, *arguments) in seqpair_commands(path)
    }
    assert {line: fault for line, fault in faults.items() if fault} == {}


def test_a_wrong_command_would_be_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```\nseqpair plan demo --nope\nseqpair fly demo  # no\nseqpair soup demo\n"
        "seqpair data show\nseqpair data peek demo\n"
        "```\n`seqpair plan --what`\n"
    )
    faults = [fault_of(verb, arguments, whole=whole) for _, whole, (verb, *arguments) in seqpair_commands(page)]
    assert len(faults) == 6
    assert all(faults), faults


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_every_make_target_shown_is_a_target(path):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    lines, inline = shell_lines(path)
    shown = [match[1] for text in (*lines, *inline) if (match := re.match(r"(?:\S+=\S+ )*make ([a-z-]+)", text))]
    assert set(shown) <= targets


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_every_relative_link_leads_somewhere(path):
    links = [link.split("#")[0] for link in LINK.findall(path.read_text(encoding="utf-8"))]
    local = [link for link in links if link and not re.match(r"[a-z]+:", link)]
    assert [link for link in local if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", [ROOT / "README.md", *(ROOT / "docs").glob("**/*.md")], ids=named)
def test_no_cell_of_a_table_is_a_paragraph(path):
    rows = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    cells = [cell.strip() for row in rows for cell in re.split(r"(?<!\\)\|", row)]
    assert [cell for cell in cells if len(cell) > LONGEST_CELL] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_the_python_shown_compiles_and_imports_what_exists(path):
    for body in blocks(path, "python"):
        compile(body, named(path), "exec")
        for module, names in re.findall(r"^from (seqpair[\w.]*) import (.+)$", body, re.MULTILINE):
            for name in names.split(","):
                assert hasattr(importlib.import_module(module), name.strip()), f"{module} has no {name}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_every_recipe_shown_resolves(path, tmp_path):
    for body in blocks(path, "yaml"):
        if not re.search(r"^(extends|phases):", body, re.MULTILINE) or "name:" not in body:
            continue
        recipe_file = tmp_path / "shown.yaml"
        recipe_file.write_text(body, encoding="utf-8")
        recipe = load_recipe(str(recipe_file))
        for member in recipe.members:
            assert resolve_plan(recipe, member).phases


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_resolves_for_every_member(name):
    recipe = load_recipe(name)
    assert recipe.members
    for member in recipe.members:
        assert resolve_plan(recipe, member).phases


def test_the_reading_order_and_the_tree_name_what_exists():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    packages = sorted(path.parent.name for path in (ROOT / "src" / "seqpair").glob("*/__init__.py"))
    for package in packages:
        assert re.search(rf"^\s*{package}/ ", readme, re.MULTILINE), f"README's tree does not say what {package}/ does"
    for path in re.findall(r"`(src/seqpair/[\w/]+\.py)`", readme):
        assert (ROOT / path).is_file(), path
