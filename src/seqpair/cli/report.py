"""The verb `report`: a study's comparison table and page."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seqpair.cli.options import SetOption
from seqpair.cli.table import wide_console
from seqpair.errors import EvaluationError, install_extra, needs_extra
from seqpair.text import note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seqpair.compare.planned import AskedBefore
    from seqpair.compare.values import Comparison
    from seqpair.report.collect import Study
    from seqpair.report.member import MemberRun


def report(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A study in any of its forms, or a folder of several studies.")
    ],
    overrides: SetOption = None,
    also: Annotated[
        list[Path] | None,
        typer.Option(help="Show beside it another study's folder, or `seqpair eval`'s results; repeatable."),
    ] = None,
    published: Annotated[
        bool, typer.Option(help="Add published values of other models as reference lines, with their sources.")
    ] = False,
    questions: Annotated[
        Path | None, typer.Option(help="A YAML file of questions written beforehand; their answers come first.")
    ] = None,
    last: Annotated[
        int, typer.Option(min=1, help="Compare means over this many last evaluated checkpoints of each member.")
    ] = 1,
    out: Annotated[Path | None, typer.Option(help="Write here instead of into `<study>/report`.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Print the table, write nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table and the page's path as JSON.")] = False,
) -> None:
    """Compare a study's members: print the tables, and write a page, tables, figures and a README text.

    The files go to `<study>/report`. Nothing is trained or evaluated.

    Example: seqpair report runs/demo
    """
    _require_statistics()
    from seqpair.compare.planned import read_questions
    from seqpair.report.collect import collect_study
    from seqpair.suite.places import find_study_folder

    collected = collect_study(find_study_folder(study, overrides or []), also or [])
    asked = read_questions(questions) if questions is not None else None
    page = None
    if not dry_run:
        require_page_packages()
        from seqpair.report.page import write_report

        page = str(write_report(collected, published=published, asked=asked, out=out, last=last))
    for what in collected.missing:
        note(f"warning: {what}")
    if as_json:
        from seqpair.report.comparison import comparison_as_json

        rows = comparison_as_json(collected.members, _answers(collected, asked, last))
        print(json.dumps({"study": collected.name, "page": page, "rows": rows, "missing": collected.missing}))
        return
    _print_study(collected, asked, last)
    if page is not None:
        print(f"page: {page}")


def require_page_packages() -> None:
    """Say what is missing if the page cannot be drawn: that is an extra of the package."""
    with needs_extra(
        "the page", "report", EvaluationError, "; with scipy alone, `seqpair report --dry-run` gives the table"
    ):
        import seqpair.report.page  # noqa: F401


def print_comparison(folder: Path) -> None:
    """Print a study's comparison on standard output."""
    _require_statistics()
    from seqpair.report.collect import collect_study

    _print_study(collect_study(folder), None)


def _require_statistics() -> None:
    """Check that the package of the statistics is installed, which is an extra of the package.

    Raises:
        EvaluationError: It is not.
    """
    if importlib.util.find_spec("scipy") is None:
        raise EvaluationError(
            "the comparison needs a package that is not installed",
            seen="no scipy",
            fix=install_extra("report"),
        )


def _answers(study: Study, asked: AskedBefore | None, last: int) -> list[Comparison]:
    from seqpair.compare.planned import answers_to
    from seqpair.compare.progress import over_last
    from seqpair.report.collect import scores_of_members

    return answers_to(over_last(scores_of_members(study.members), last), asked)


def _print_study(study: Study, asked: AskedBefore | None, last: int = 1) -> None:
    if not any(member.outcomes for member in study.members):
        print(f"{study.name}: no results yet; `seqpair eval --suite own` makes them")
        return
    print_tables(study.members, _answers(study, asked, last))


def print_tables(members: Sequence[MemberRun], answers: Sequence[Comparison]) -> None:
    """Print what members reached and how they differ, as wide as the terminal is."""
    from seqpair.report.comparison import differences_table, terminal_tables, values_table
    from seqpair.report.data_table import terminal_table

    console = wide_console()
    for table in terminal_tables(values_table(members), differences_table(answers), console.width):
        console.print(terminal_table(table))
