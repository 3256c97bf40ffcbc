"""The `python` source: the standard library of the running interpreter, as prose and as code.

Prose is the docstrings of a module; code is the module without any docstring, comments kept. Both parts hold out the
same modules.
"""

from __future__ import annotations

import ast
import functools
import inspect
import platform
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from seqpair.data.sources.documents import Document, SourceFile, Tally, Unit, file_groups
from seqpair.data.sources.remote import AnyFile
from seqpair.errors import DataError
from seqpair.recipe.data_spec import SourceSpec

SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "ensurepip", "pydoc_data"}
)
GENERATED_MARK = b"gencodec.py"
LEAST_BYTES = 3_000_000
UNREADABLE = "does not parse"
_UNIT_BYTES = 1 << 22

_Owner = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class PythonModule:
    """A module of the library, taken apart.

    Attributes:
        name: Its dotted name.
        code: Its source without docstrings.
        prose: Its docstrings in source order, a blank line between them.
    """

    name: str
    code: str
    prose: str


def library_folder() -> Path:
    """Return the folder of the running interpreter's standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def find_modules(root: Path) -> list[SourceFile]:
    """Return the library's module files sorted by path.

    Skipped are tests, installed packages, and what is generated: the codecs' character tables and
    pydoc's copy of the manual, a fifth of the bytes and nothing to learn from.

    Raises:
        DataError: Less than 3 MB of modules is found, as where a system ships without them.
    """
    files = []
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if SKIPPED_FOLDERS.intersection(inside.parts[:-1]) or not path.is_file():
            continue
        with path.open("rb") as handle:
            generated = GENERATED_MARK in handle.read(400)
        if not generated:
            files.append(SourceFile.of(path, inside.as_posix()))
    total = sum(file.size_bytes for file in files)
    if total < LEAST_BYTES:
        raise DataError(
            "the standard library of this Python is too small to be a source",
            seen=f"{total} bytes of modules in {root}",
            allowed=f"at least {LEAST_BYTES} bytes",
            fix="use a Python that ships its library as .py files (python.org, conda, or the full system package)",
        )
    return files


def module_name(label: str) -> str:
    """Return the dotted name of a module file: `json/decoder.py` is `json.decoder`."""
    return label.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


class PythonSource:
    """A source of kind `python`, one document a module."""

    def __init__(self, spec: SourceSpec, root: Path | None = None) -> None:
        """Find the modules.

        Raises:
            DataError: `part` is missing, or as `find_modules`.
        """
        if spec.part is None:
            raise DataError(
                f"source {spec.name!r} of kind 'python' takes a part",
                seen="part: null",
                allowed="part: prose, or part: code",
                fix="correct the source in the recipe",
            )
        self.spec = spec
        self.files = find_modules(root or library_folder())
        self.python_version: str | None = platform.python_version()

    def split_key(self, document: Document) -> str:
        """Return the module's name: the same modules are held out of both parts."""
        return f"module:{document.id}"

    def units(self) -> list[Unit]:
        """Return groups of modules."""
        return file_groups(self.files, _UNIT_BYTES)

    def read(self, unit: Unit, tally: Tally) -> Iterator[Document]:
        """Yield one document a module; modules without docstrings have no prose."""
        for file in self.files[unit.start : unit.stop]:
            tally.rows += 1
            tally.bytes_done += file.size_bytes
            module = read_module(file)
            if module is None:
                tally.reject(UNREADABLE, file.label, 0, file.path.read_bytes())
                continue
            text = module.prose if self.spec.part == "prose" else module.code
            if text.strip():
                yield Document(module.name, text, len(text.encode("utf-8")), file.label, 0)


@functools.lru_cache(maxsize=4096)
def read_module(file: SourceFile) -> PythonModule | None:
    """Take a module apart; None if it does not parse, with or without its docstrings."""
    try:
        text = _source_text(file.path)
        tree = _parse(text)
        code = without_docstrings(text, tree)
    except (SyntaxError, ValueError, RecursionError, LookupError):
        return None
    paragraphs = [inspect.cleandoc(str(constant.value)) for _, constant in _docstrings(tree)]
    prose = "\n\n".join(paragraph for paragraph in paragraphs if paragraph.strip())
    if not _is_utf8(prose) or not _is_utf8(code):
        return None
    return PythonModule(module_name(file.label), code, prose)


def _source_text(path: AnyFile) -> str:
    """Return a module's text by its declared encoding, line ends as single newlines."""
    data = path.read_bytes()
    encoding, _ = tokenize.detect_encoding(BytesIO(data).readline)
    return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def without_docstrings(text: str, tree: ast.Module | None = None) -> str:
    """Return a module's source without its docstrings; all else keeps its formatting.

    A body that held nothing else gets `pass`. A string that would become a docstring once the first
    is gone is removed too.

    Args:
        text: The module's source, lines ended by single newlines.
        tree: Its syntax tree, if it is at hand.

    Raises:
        SyntaxError: The module does not parse, before or after.
        ValueError: A docstring cannot be taken out.
    """
    for _ in range(8):
        found = _docstrings(tree or _parse(text))
        if not found:
            return text
        lines = text.encode("utf-8").split(b"\n")
        for owner, constant in reversed(found):
            _cut(lines, owner, constant)
        text, tree = b"\n".join(lines).decode("utf-8"), None
    raise ValueError("strings follow docstrings without end")


def _parse(text: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library's invalid escapes are not ours to report
        return ast.parse(text)


def _owners(node: ast.AST) -> Iterator[_Owner]:
    """Yield the module, classes and functions in source order.

    Only statements are descended into; expressions hold no definitions.
    """
    if isinstance(node, _Owner):
        yield node
    for field in ("body", "handlers", "orelse", "finalbody", "cases"):
        for child in getattr(node, field, ()):
            if not isinstance(child, ast.Expr | ast.Assign | ast.Return):
                yield from _owners(child)


def _docstrings(tree: ast.Module) -> list[tuple[_Owner, ast.Constant]]:
    """Return every docstring with its owner, in source order."""
    found: list[tuple[_Owner, ast.Constant]] = []
    for node in _owners(tree):
        if node.body and isinstance(node.body[0], ast.Expr):
            value = node.body[0].value
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                found.append((node, value))
    return sorted(found, key=lambda pair: (pair[1].lineno, pair[1].col_offset))


def _cut(lines: list[bytes], owner: _Owner, constant: ast.Constant) -> None:
    """Take one docstring out of the lines, in place; later positions must have been handled before."""
    assert constant.end_lineno is not None
    assert constant.end_col_offset is not None
    first, last = constant.lineno - 1, constant.end_lineno - 1
    before, after = lines[first][: constant.col_offset], lines[last][constant.end_col_offset :]
    alone = not before.strip() and (not after.strip() or after.lstrip().startswith(b"#"))
    emptied = len(owner.body) == 1 and not isinstance(owner, ast.Module)
    if not alone or emptied:
        filler = b"None" if before.rstrip().endswith(b"(") else b"pass"
        lines[first : last + 1] = [before + filler + after]
        return
    comment = after.strip()
    lines[first : last + 1] = [before + comment] if comment else []
    if not comment:
        while first < len(lines) and not lines[first].strip():
            del lines[first]


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
