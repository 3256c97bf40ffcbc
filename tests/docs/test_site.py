"""The site: every page is built from docs/, results/ and the code, and no link is broken."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--quiet",
        "--strict",
        "-f",
        "site/mkdocs.yml",
        "-d",
        str(folder),
    ]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_the_reference_describes_every_verb_and_public_name(site):
    import seqpair
    from seqpair.cli.app import app

    verbs = (site / "reference" / "cli.html").read_text(encoding="utf-8")
    for command in app.registered_commands:
        name = command.name or command.callback.__name__
        assert f">seqpair {name}<" in verbs, name
    names = (site / "reference" / "api.html").read_text(encoding="utf-8")
    for name in set(seqpair.__all__) - {"SeqpairError", "__version__"}:
        assert f'id="seqpair.api.{name}"' in names, name


def test_pages_outside_docs_are_linked(site):
    assert 'href="results/second-study/index.html"' in (site / "readme.html").read_text(encoding="utf-8")
    assert (site / "results" / "second-study" / "report" / "figures" / "flops-causal.png").is_file()


def test_the_pages_ask_no_other_host(site):
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "fonts.g" not in text
        assert '<script src="http' not in text
        assert '<link rel="stylesheet" href="http' not in text
