"""Measure the structure of the source, and write the table of docs/architecture.md.

python bench/house.py            # print the table
python bench/house.py --write    # put it into docs/architecture.md
"""

from __future__ import annotations

import argparse
import ast
import re
import statistics
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "seqpair"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- HOUSE: python bench/house.py --write -->", "<!-- /HOUSE -->"

CALL_PATHS = {
    "from `seqpair train` to the forward pass": (
        ("cli/train.py", "train"),
        ("train/loop.py", "train_member"),
        ("train/step.py", "accumulate_gradients"),
        ("nn/model.py", "LanguageModel"),
        ("nn/backbone.py", "Backbone"),
        ("nn/attention.py", "attend"),
    ),
    "from `seqpair eval` to one score": (
        ("cli/eval.py", "evaluate_suites"),
        ("evaluate/registry.py", "choose_tasks"),
        ("evaluate/generative.py", "TASKS"),
        ("evaluate/questions.py", "measure_rows"),
        ("models/score.py", "score_continuations"),
        ("models/text_model.py", "read_at"),
        ("models/forward.py", "readings"),
    ),
}
"""The files that a reader opens on the way, each with the name in it that the file before uses."""


def modules() -> dict[str, Path]:
    """Return the dotted name and the file of every module."""
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def tree_of(path: Path) -> ast.Module:
    """Return a file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imports() -> dict[str, set[str]]:
    """Return what each module imports when it is imported: not what its functions import, nor for type checks."""
    known = modules()
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        found[name] = set()
        for node in tree_of(path).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                found[name] |= {each if each in known else node.module for each in full} & known.keys()
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names} & known.keys()
    return found


def imported_by(start: str) -> set[str]:
    """Return all modules that importing one brings in, directly or not, packages left out."""
    graph, seen, todo = imports(), set(), [start]
    while todo:
        for name in graph[todo.pop()] - seen:
            seen.add(name)
            todo.append(name)
    return {name for name in seen if modules()[name].name != "__init__.py"}


def lines_of_files() -> dict[str, int]:
    """Return the lines of every file, by its path below `src/seqpair`."""
    files = modules().values()
    return {str(path.relative_to(SOURCE)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}


def lines_of_functions() -> dict[str, int]:
    """Return the lines of every function, by file and name."""
    return {
        f"{path.relative_to(SOURCE)}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in modules().values()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def names_in_two_files() -> dict[str, list[str]]:
    """Return the public functions and classes that several files define, commands of the command line left out."""
    places = defaultdict(list)
    for name, path in modules().items():
        if name.startswith("seqpair.cli."):
            continue
        for node in tree_of(path).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name.removeprefix("seqpair."))
    return {name: found for name, found in sorted(places.items()) if len(found) > 1}


def comments_in_bodies() -> int:
    """Return how many lines inside functions and classes are comments."""
    return sum(bool(re.match(r"\s+#", line)) for path in modules().values() for line in path.open(encoding="utf-8"))


def table() -> str:
    """Return the table of measures in Markdown."""
    files, functions = lines_of_files(), lines_of_functions()
    longest_file, longest_function = max(files, key=files.__getitem__), max(functions, key=functions.__getitem__)
    rows = [
        ("files", f"{len(files)}"),
        ("lines", f"{sum(files.values()):,}"),
        ("median file, lines", f"{statistics.median(files.values()):.0f}"),
        ("longest file, lines", f"{files[longest_file]} (`{longest_file}`)"),
        ("longest function, lines", f"{functions[longest_function]} (`{longest_function}`)"),
        ("comment lines inside bodies", f"{comments_in_bodies()}"),
        ("files that `train/loop` imports, directly or not", f"{len(imported_by('seqpair.train.loop'))}"),
        ("public names that two files define", f"{len(names_in_two_files())}"),
        *((f"files {what}", f"{len(steps)}") for what, steps in CALL_PATHS.items()),
    ]
    lines = ["| measure | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
    for what, steps in CALL_PATHS.items():
        lines += ["", f"Files {what}: " + ", ".join(f"`{file}` (`{name}`)" for file, name in steps) + "."]
    return "\n".join(lines)


def main() -> None:
    """Print the table, or write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="Replace the table in docs/architecture.md.")
    if not parser.parse_args().write:
        print(table())
        return
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
