"""The study's page: one self-contained HTML file that opens from disk with no network.

Owns the page's parts and their order. Must not know how numbers are made. Entry points: `write_page`; for pages
of other kinds `environment` and `page_style`. Templates are in `templates/`; they escape everything that comes
from files.
"""

from __future__ import annotations

import html
from pathlib import Path

import jinja2
from markupsafe import Markup

from seqpair import __version__, atomic
from seqpair.recipe.load import preset_names
from seqpair.report.collect import REPORT_FOLDER, MemberRun, Study, collect_study
from seqpair.report.figures import held_out_figure, train_figure
from seqpair.report.headline import headline_sentences
from seqpair.report.marks import attention_mark, interval_mark
from seqpair.report.plan_view import (
    member_facts,
    order_words,
    plan_differences,
    shared_facts,
    source_facts,
)
from seqpair.report.tables import comparison_rows
from seqpair.report.terminal import signed, verdict_words
from seqpair.units import format_seconds

_TEMPLATES = Path(__file__).parent / "templates"
_MASK = "[MASK]"


def write_page(study_folder: Path) -> Path:
    """Write `<study>/report/index.html` from what the study folder holds, and return its path.

    Raises:
        EvaluationError: The folder is no study.
        DiskFullError: The disk is full; an earlier page is untouched.
    """
    path = study_folder / REPORT_FOLDER / "index.html"
    atomic.write_text(path, render_page(collect_study(study_folder)))
    return path


def render_page(study: Study) -> str:
    """Return the page of a study as HTML."""
    rows = comparison_rows(study.members)
    differences = plan_differences(study.members)
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            study=study,
            style=page_style(),
            headline=headline_sentences(study, rows, differences),
            rows=rows,
            verdict_words=verdict_words,
            differences=differences or [],
            shared=shared_facts(study.members),
            order=order_words(study),
            sources=source_facts(study),
            facts={member.name: member_facts(member) for member in study.members},
            figures={member.name: _figures(member) for member in study.members},
            marks={member.name: Markup(attention_mark(member.direction)) for member in study.members},
            versions=_versions(study),
            commands=_commands(study),
            version=__version__,
        )
    )


def environment() -> jinja2.Environment:
    """Return the templates' environment: everything is escaped, an unknown name is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        signed=signed, masked=_masked, plain=_plain, token=_token, minutes=format_seconds, typographic=_typographic
    )
    made.globals["interval_mark"] = lambda interval, span: Markup(interval_mark(interval, span))
    return made


def page_style() -> Markup:
    """Return the pages' style sheet."""
    return Markup((_TEMPLATES / "page.css").read_text(encoding="utf-8"))


def _figures(member: MemberRun) -> list[Markup]:
    figures = []
    if member.train:
        figures.append(train_figure(member.train, member.name))
    if member.held_out:
        figures.append(held_out_figure(member.held_out, member.name))
    return [Markup(figure) for figure in figures]


def _versions(study: Study) -> dict[str, str]:
    """Return the versions that wrote the newest checkpoints; where members differ, all of them."""
    seen: dict[str, list[str]] = {}
    for member in study.members:
        found = dict(member.checkpoint.versions) if member.checkpoint is not None else {}
        if member.export is not None and "transformers" in member.export:
            found["transformers (export)"] = str(member.export["transformers"])
        for name, version in found.items():
            seen.setdefault(name, []).append(version)
    return {name: ", ".join(dict.fromkeys(versions)) for name, versions in sorted(seen.items())}


def _commands(study: Study) -> list[str]:
    """Return the commands that make this study again, and look into it."""
    name = study.name
    first, *others = [member.name for member in study.members if member.second_of is None]
    commands = [f"seqpair run {name}" if name in preset_names() else "seqpair run RECIPE"]
    recipe = commands[0].removeprefix("seqpair run ")
    commands += [f"seqpair diff {recipe} {first} {other}" for other in others]
    return [*commands, f"seqpair order {recipe} --step 0", f"seqpair report {recipe}"]


def _masked(text: str) -> Markup:
    """Escape a text and mark its `[MASK]`."""
    return Markup(html.escape(text).replace(_MASK, f"<mark>{_MASK}</mark>"))


def _token(text: str) -> str:
    """Return a token with its white space made visible."""
    return (
        text.replace("\n", "\N{RETURN SYMBOL}")
        .replace("\t", "\N{SYMBOL FOR HORIZONTAL TABULATION}")
        .replace(" ", "\N{OPEN BOX}")
    )


def _plain(value: object) -> str:
    """Return a plan's value in words."""
    if value is None:
        return "not used"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _typographic(text: str) -> str:
    """Return a number's text with a real minus sign."""
    return text.replace("-", "\N{MINUS SIGN}")
