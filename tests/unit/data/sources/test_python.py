import ast
import warnings
from pathlib import Path

import pytest
from pydantic import ValidationError

from seqpair.data.sources import python as python_source
from seqpair.data.sources.documents import Tally, documents, is_held_out
from seqpair.data.sources.python import PythonSource, find_modules, without_docstrings
from seqpair.errors import DataError
from seqpair.recipe.data_spec import SourceSpec

BODY = '''"""Module {name}."""
import os  # kept

def documented_{name}(x):
    """Return twice the value of {name}.

    More.
    """
    # a comment that stays
    y = x + x
    return y
'''


def docstrings(code: str) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(code)
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [text for node in ast.walk(tree) if isinstance(node, owners) if (text := ast.get_docstring(node))]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(python_source, "LEAST_BYTES", 100)
    for index in range(60):
        (tmp_path / f"m{index:02d}.py").write_text(BODY.format(name=f"m{index:02d}"))
    return tmp_path


def spec(part: str, held_out_frac: float = 0.3) -> SourceSpec:
    return SourceSpec(name=part, kind="python", part=part, held_out_frac=held_out_frac)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"""Doc."""\nx = 1\n', "x = 1\n"),
        ('def f():\n    """Doc."""\n\n    return 1\n', "def f():\n    return 1\n"),
        ('def f():\n    """Doc."""\n', "def f():\n    pass\n"),
        ("def f(): 'Doc'\n", "def f(): pass\n"),
        ("def f(): 'Doc'; return 1\n", "def f(): pass; return 1\n"),
        ("def f():\n    'a' 'b'\n    return 1\n", "def f():\n    return 1\n"),
        ("def f():\n    'one'\n    'two'\n    return 1\n", "def f():\n    return 1\n"),
        ('class A:\n    """Doc\n    more."""  # why\n    x = 1\n', "class A:\n    # why\n    x = 1\n"),
        ("async def f():\n  r'''Doc'''\n  x = 'kept'\n", "async def f():\n  x = 'kept'\n"),
        ("def f():\n    ('Doc')\n    return 1\n", "def f():\n    (None)\n    return 1\n"),
        ("é = 'ß'\ndef f():\n    'Ä'; é\n", "é = 'ß'\ndef f():\n    pass; é\n"),
        ("x = 1\x0c\n'not a docstring'\n", "x = 1\x0c\n'not a docstring'\n"),
        ("if x:\n    class A:\n        'Doc'\n        def f(self):\n            'Doc'\n            y\n",
         "if x:\n    class A:\n        def f(self):\n            y\n"),
    ],
)  # fmt: skip
def test_docstrings_go_and_the_rest_stays(before: str, after: str) -> None:
    assert without_docstrings(before) == after
    assert docstrings(after) == []


def test_every_kind_of_block_is_searched() -> None:
    source = (
        "try:\n  def a(): 'D'\nexcept E:\n  def b(): 'D'\nelse:\n  def c(): 'D'\nfinally:\n  def d(): 'D'\n"
        "for i in x:\n  def e(): 'D'\nelse:\n  def f(): 'D'\nwith x:\n  def g(): 'D'\n"
        "match x:\n  case 1:\n    def h(): 'D'\nwhile x:\n  class I:\n    def j(self):\n      def k(): 'D'\n"
    )
    assert len(docstrings(source)) == 9
    assert docstrings(without_docstrings(source)) == []


def test_the_code_of_this_interpreters_library_has_no_docstrings_and_still_parses() -> None:
    names = ("json", "email", "logging", "importlib", "collections", "asyncio")
    files = [file for file in find_modules(python_source.library_folder()) if file.label.split("/")[0] in names]
    assert len(files) > 30
    prose_bytes = code_bytes = 0
    for file in files:
        module = python_source.read_module(file)
        assert module is not None, file.label
        assert docstrings(module.code) == [], file.label
        prose_bytes += len(module.prose)
        code_bytes += len(module.code)
    assert prose_bytes > 100_000
    assert code_bytes > 300_000


def test_tests_installed_packages_and_generated_tables_are_skipped() -> None:
    labels = [file.label for file in find_modules(python_source.library_folder())]
    assert "json/decoder.py" in labels
    assert "encodings/cp1252.py" not in labels
    for folder in python_source.SKIPPED_FOLDERS:
        assert not any(folder in label.split("/")[:-1] for label in labels)


def test_the_same_modules_are_held_out_of_both_parts(library: Path) -> None:
    (library / "broken.py").write_text("def f(:\n")
    (library / "silent.py").write_text("x = 1\n")
    sides = []
    for part in ("prose", "code"):
        source = PythonSource(spec(part), library)
        tally = Tally()
        read = list(documents(source, tally))
        assert dict(tally.rejected) == {"does not parse": 1}
        assert source.python_version is not None
        sides.append({d.id: is_held_out(source.split_key(d), 0.3) for d in read if d.id != "silent"})
    assert sides[0] == sides[1]
    assert len(sides[0]) == 60
    assert 5 < sum(sides[0].values()) < 35


def test_prose_and_code_are_what_they_say(library: Path) -> None:
    prose = next(documents(PythonSource(spec("prose"), library), Tally()))
    code = next(documents(PythonSource(spec("code"), library), Tally()))
    assert (prose.id, prose.file) == ("m00", "m00.py")
    assert prose.text == "Module m00.\n\nReturn twice the value of m00.\n\nMore."
    assert code.text == (
        "import os  # kept\n\ndef documented_m00(x):\n    # a comment that stays\n    y = x + x\n    return y\n"
    )


def test_too_small_a_library_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text("x = 1\n")
    with pytest.raises(DataError, match=r"(?s)too small to be a source.*6 bytes of modules.*at least 3000000 bytes"):
        PythonSource(spec("prose"), tmp_path)


def test_a_python_source_takes_a_part_and_no_paths() -> None:
    with pytest.raises(DataError, match="takes a part"):
        PythonSource(SourceSpec(name="p", kind="python"))
    with pytest.raises(ValidationError, match="of kind 'python' does not use paths"):
        SourceSpec(name="p", kind="python", part="code", paths=("x",))
