"""The house rules that a program can check."""

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "seqpair"
MOST_FILE_LINES = 450
MOST_FUNCTION_LINES = 60
LEAST_MEDIAN_LINES = 170
VAGUE_NAMES = {"util", "utils", "helper", "helpers", "misc", "common", "stuff"}
REGISTRIES = ("pypi" + ".org", "pythonhosted" + ".org", "download." + "pytorch", "conda" + ".io", "anaconda" + ".org")
TEXT_FILES = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".cff", ".cfg", ".jinja", ".css", ""}
MACHINE_PATH = re.compile(r"(?<![\w.~])/" + r"(?:work|home|tmp|root|mnt|Users|private)/\w")
SKIPPED_FOLDERS = {".git", ".venv", "runs", "stores", "build", "dist"}

MODULES = sorted(SOURCE.rglob("*.py"))
PYTHON_FILES = [*MODULES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "bench").rglob("*.py"))]

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def project_files() -> Iterator[Path]:
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden_cache = any(part.endswith("_cache") or part in ("__pycache__", ".hypothesis") for part in parts)
        if path.is_file() and parts[0] not in SKIPPED_FOLDERS and not hidden_cache and path.suffix in TEXT_FILES:
            yield path


def functions_of(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def public_parts(node: Documented, name: str = "") -> Iterator[tuple[str, int, str | None]]:
    """Yield a module, its public classes and functions, and their public methods."""
    yield name or "the module", getattr(node, "lineno", 1), ast.get_docstring(node)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield from public_parts(child, f"{name}.{child.name}".lstrip("."))


def test_a_file_can_be_read_in_one_sitting():
    lengths = {shown(path): len(path.read_text(encoding="utf-8").splitlines()) for path in PYTHON_FILES}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_FILE_LINES} == {}


def test_a_file_is_a_subject_and_no_splinter():
    lengths = [len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES]
    assert statistics.median(lengths) >= LEAST_MEDIAN_LINES


def test_a_function_fits_on_a_screen():
    lengths = {
        f"{shown(path)}:{node.lineno} {node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in PYTHON_FILES
        for node in functions_of(path)
    }
    assert {name: lines for name, lines in lengths.items() if lines > MOST_FUNCTION_LINES} == {}


def test_everything_public_says_what_it_is():
    parts = [(path, *part) for path in MODULES for part in public_parts(tree_of(path))]
    assert [f"{shown(path)}:{line} {name}" for path, name, line, text in parts if not text] == []


def test_a_module_has_a_name_that_says_something():
    assert [shown(path) for path in MODULES if VAGUE_NAMES & set(path.stem.split("_"))] == []


def test_only_the_command_line_prints():
    calls = [
        f"{shown(path)}:{node.lineno}"
        for path in MODULES
        if path.parent.name != "cli"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert calls == []


MAY_CATCH_ALL = {"src/seqpair/train/loggers.py"}
"""A logger may fail with any error of its library; it is counted and said, and must not end training."""


def test_no_fault_is_swallowed():
    broad = []
    for path in MODULES:
        if shown(path) in MAY_CATCH_ALL:
            continue
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ExceptHandler):
                caught = ast.walk(node.type) if node.type is not None else ()
                names = {part.id for part in caught if isinstance(part, ast.Name)}
                catches_all = node.type is None or bool({"Exception", "BaseException"} & names)
                if catches_all and not any(isinstance(part, ast.Raise) for part in ast.walk(node)):
                    broad.append(f"{shown(path)}:{node.lineno}")
    assert broad == []


def test_no_file_names_a_registry():
    """Where packages come from is for pip's own settings to say."""
    found = [
        f"{shown(path)} names {host}"
        for path in project_files()
        for host in REGISTRIES
        if host in path.read_text(encoding="utf-8", errors="replace").lower()
    ]
    assert found == []


def test_no_file_has_a_path_of_one_machine():
    """`bench/local_data.py` says where local data lies; everything else asks it."""
    found = [
        f"{shown(path)}:{number} {line.strip()[:80]}"
        for path in project_files()
        if path.relative_to(ROOT).parts[0] != "results" and path.suffix in {".py", ".md", ".yaml", ".toml", ".yml"}
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []


def test_the_source_is_ascii():
    lines = [
        f"{shown(path)}:{number}"
        for path in MODULES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if not line.isascii()
    ]
    assert lines == []
