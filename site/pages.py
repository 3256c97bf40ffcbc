"""The site's pages outside docs/: the README, the results, and the reference generated from the code."""

from __future__ import annotations

import os
import re
from functools import cache
from pathlib import Path

import typer
import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click

from seqpair import api
from seqpair.cli.app import app
from seqpair.recipe.keys import recipe_keys

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = ("Study", "load", "Model", "probe", "evaluate_models", "Evaluation", "compare_members", "Comparisons")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")


@cache
def _site_names() -> dict[Path, str]:
    """Return where each file of the repository stands in the site."""
    names = {path: str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    others = [
        *ROOT.glob("results/*.md"),
        *ROOT.glob("results/*/README.md"),
        *ROOT.glob("results/*/report/figures/*.png"),
    ]
    names |= {path: str(path.relative_to(ROOT)) for path in [*others, *ROOT.glob("bench/results/*.md")]}
    return names | {ROOT / "README.md": "readme.md"}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the README, the results and the generated reference."""
    for path, name in _site_names().items():
        if files.get_file_from_path(name) is None:
            files.append(File.generated(config, name, abs_src_path=str(path)))
    command = typer.main.get_command(app)
    verbs = get_docs_for_click(obj=command, ctx=typer.Context(command), name="seqpair", title="The command line")
    files.append(File.generated(config, "reference/cli.md", content=verbs))
    names = "\n".join(f"::: seqpair.api.{name}" for name in PUBLIC)
    files.append(File.generated(config, "reference/api.md", content=f"# The Python API\n{api.__doc__}\n{names}\n"))
    files.append(File.generated(config, "reference/recipe_keys.md", content=_recipe_keys()))
    return files


def _recipe_keys() -> str:
    """Return the page of a recipe's keys, a table for each section; what belongs to no section comes first."""
    parts: dict[str, list[str]] = {"": []}
    for key in recipe_keys():
        top = re.split(r"\W", key.path)[0]
        part = "" if key.path == top else top
        row = (f"`{key.path}`", key.values, f"`{key.default}`" if key.default else "", key.meaning)
        parts.setdefault(part, []).append(f"| {' | '.join(row)} |")
    head = "| key | values | default | meaning |\n|---|---|---|---|"
    tables = [f"{f'## {part}' if part else ''}\n\n{head}\n" + "\n".join(rows) for part, rows in parts.items()]
    notes = (
        "`[]` stands for an item of a list and `<name>` for a name of your choice. The keys of a section whose default "
        "is `null` apply once the section is written. `seqpair init --keys` prints this list."
    )
    return "\n\n".join(("# The keys of a recipe", notes, *tables))


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at the site's pages; a link to another file of the repository becomes its text."""
    names = _site_names()
    places = {name: path for path, name in names.items()}
    here = places.get(page.file.src_uri)
    if here is None:
        return markdown

    def moved(match: re.Match[str]) -> str:
        image, text, target, anchor = match.groups()
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        path = (here.parent / target).resolve()
        name = names.get(path / "README.md" if path.is_dir() else path)
        if name is None:
            return text
        return f"{image}[{text}]({os.path.relpath(name, Path(page.file.src_uri).parent)}{anchor or ''})"

    return LINK.sub(moved, markdown)
