"""A sweep's page: one self-contained HTML file that opens from disk with no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from seqpair import __version__
from seqpair.files import write_text
from seqpair.report.marks import attention_mark
from seqpair.report.page import environment, page_style
from seqpair.report.sweep_curves import MemberCurve
from seqpair.report.sweep_figures import curve_figure
from seqpair.report.sweep_pairs import PairChoice, pair_rows
from seqpair.report.sweep_record import SweepRuns
from seqpair.report.sweep_remarks import sweep_remarks
from seqpair.report.sweep_terminal import figure_names, figures_of, marks_of
from seqpair.report.terminal import verdict_words

PAGE_NAME = "index.html"


def write_sweep_page(runs: SweepRuns, curves: Sequence[MemberCurve], pairs: Sequence[PairChoice]) -> Path:
    """Write `<sweep>/index.html` and return its path.

    Raises:
        DiskFullError: The disk is full; an earlier page is untouched.
    """
    path = runs.folder / PAGE_NAME
    write_text(path, render_sweep_page(runs, curves, pairs))
    return path


def render_sweep_page(runs: SweepRuns, curves: Sequence[MemberCurve], pairs: Sequence[PairChoice]) -> str:
    """Return the page of a sweep as HTML."""
    tables = [(choice, *pair_rows(runs, choice)) for choice in pairs]
    same = len(pairs) > 1 and bool(pairs[0].runs) and pairs[0].runs == pairs[1].runs
    return (
        environment()
        .get_template("sweep.html.jinja")
        .render(
            record=runs.record,
            style=page_style(),
            remarks=sweep_remarks(runs),
            curves=curves,
            figures={curve.member: _figure(curve) for curve in curves},
            marks={curve.member: Markup(attention_mark(curve.direction)) for curve in curves},
            figure_names=figure_names,
            figures_of=figures_of,
            marks_of=marks_of,
            tables=tables[:1] if same else tables,
            same=same,
            verdict_words=verdict_words,
            version=__version__,
        )
    )


def _figure(curve: MemberCurve) -> Markup | None:
    """Return a member's curve; None if nothing touches it or no run is finished."""
    return Markup(curve_figure(curve)) if curve.axes and curve.best is not None else None
