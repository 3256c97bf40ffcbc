"""Files that no other tool reads: they parse, none is large, notebooks hold no output."""

import json
import subprocess
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 500_000


def tracked_files():
    """Return the files git knows or would add; without git (a source archive) there is nothing to check."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return []
    return [path for line in listed.splitlines() if (path := ROOT / line).is_file()]


FILES = tracked_files()


def test_no_file_is_large():
    sizes = {str(path.relative_to(ROOT)): path.stat().st_size for path in FILES}
    assert {name: size for name, size in sizes.items() if size > MOST_BYTES} == {}


def test_settings_parse():
    for path in FILES:
        if path.suffix in (".yaml", ".yml", ".cff"):
            list(YAML(typ="safe").load_all(path.read_text(encoding="utf-8")))
        elif path.suffix == ".toml":
            tomllib.loads(path.read_text(encoding="utf-8"))


def test_notebooks_hold_no_output():
    for path in FILES:
        if path.suffix == ".ipynb":
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            assert not any(cell.get("outputs") for cell in cells), path


def test_the_locks_pin_every_line_and_name_no_place():
    for name in ("demo.txt", "test.txt"):
        for line in (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines():
            if line and not line.startswith(("#", "-r ")):
                package, _, version = line.partition("==")
                assert package, line
                assert version.replace(".", "").isalnum(), line


def test_the_locks_cover_what_the_package_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    asked = {
        "demo.txt": [
            *project["project"]["dependencies"],
            *extras["clean"],
            *extras["datasets"],
            *extras["hub"],
            *extras["report"],
            "scikit-learn",
            "setuptools",
        ],
        "test.txt": project["dependency-groups"]["dev"],
    }
    for name, requirements in asked.items():
        lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
        pinned = {line.partition("==")[0] for line in lines}
        wanted = {requirement.split(">")[0].split("=")[0].replace(".", "-").lower() for requirement in requirements}
        assert wanted <= pinned, name


def test_the_version_stands_once():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "src" / "seqpair" / "__init__.py").read_text(encoding="utf-8")
    assert f'__version__ = "{project["version"]}"' in text


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE", "NOTICE"])
def test_what_a_contributor_looks_for_is_there(name):
    assert (ROOT / name).read_text(encoding="utf-8").strip()
