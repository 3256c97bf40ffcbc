"""All that a report shows of a study, as tables, figures and items: made once, shown as page, files and README."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from seqpair.compare.planned import AskedBefore, answers_to
from seqpair.compare.progress import over_last
from seqpair.compare.values import Comparison
from seqpair.recipe.diff import Difference
from seqpair.report.collect import Study, scores_of_members
from seqpair.report.comparison import differences_table, values_table
from seqpair.report.cost import cost_drawings, overtakings_table, points_by_cost, quality_table
from seqpair.report.data_table import DataTable
from seqpair.report.figures import Drawing, held_out_drawing, train_drawing
from seqpair.report.items import TaskItems, disagreements_table, task_items
from seqpair.report.member import MemberRun
from seqpair.report.plans import PhaseTree, phase_trees, plan_differences, source_facts
from seqpair.report.published import published_rows
from seqpair.report.scaling import scaling_laws
from seqpair.report.shared_figures import (
    curve_drawings,
    gap_drawings,
    held_out_drawings,
    layer_drawings,
    share_drawings,
    value_drawings,
)
from seqpair.report.study_tables import (
    checkpoints_table,
    cost_table,
    differences_of_plans_table,
    drift_table,
    environment_table,
    member_colours,
    parts_table,
    published_table,
    readings_table,
    seconds_table,
    sources_table,
)
from seqpair.report.words import headline_sentences, verdict_sentences

_MANY_MEMBERS = 6
_POINTS_OF_FEW, _POINTS_OF_MANY = 400, 120


@dataclass
class StudyView:
    """A study's report before it takes a form.

    Attributes:
        study: The study.
        answers: The answers to its questions.
        verdicts: (question, sentences) for the top of the page.
        tables: All tables that there are.
        items: The items behind each task.
        plan_differences: What each plan differs in from the first one.
        tree: The data by phase.
        own_drawings: Each member's own figures.
        shared_drawings, value_drawings, share_drawings: Figures of several members: training, values, shares.
        law_drawings, cost_drawings: Power laws of held-out text; quality by FLOPs, wall time and the cost of scoring.
        overtaking_words: What was found of curves that pass each other.
        published: Published values of other models, where they are asked for.
    """

    study: Study
    answers: list[Comparison] = field(default_factory=list)
    verdicts: list[tuple[str, list[str]]] = field(default_factory=list)
    tables: list[DataTable] = field(default_factory=list)
    items: list[TaskItems] = field(default_factory=list)
    plan_differences: dict[str, list[Difference]] = field(default_factory=dict)
    tree: list[PhaseTree] = field(default_factory=list)
    own_drawings: dict[str, list[Drawing]] = field(default_factory=dict)
    shared_drawings: list[Drawing] = field(default_factory=list)
    value_drawings: list[Drawing] = field(default_factory=list)
    share_drawings: list[Drawing] = field(default_factory=list)
    law_drawings: list[Drawing] = field(default_factory=list)
    cost_drawings: list[Drawing] = field(default_factory=list)
    overtaking_words: str = ""
    published: DataTable | None = None

    @property
    def headline(self) -> list[str]:
        """Return the first sentences."""
        return headline_sentences(self.study, self.answers, next(iter(self.plan_differences.values()), None))

    def table(self, name: str) -> DataTable | None:
        """Return the table with this id, or None if the study has none."""
        return next((table for table in self.tables if table.id == name), None)

    @property
    def drawings(self) -> list[Drawing]:
        """Return all figures."""
        own = [drawing for drawings in self.own_drawings.values() for drawing in drawings]
        return [*self._of_several, *own]

    @property
    def _of_several(self) -> list[Drawing]:
        return [
            *self.value_drawings, *self.share_drawings, *self.shared_drawings, *self.law_drawings, *self.cost_drawings
        ]  # fmt: skip

    @property
    def pictures(self) -> list[Drawing]:
        """Return the figures that a README shows: those of several members, and of few members each one's own."""
        return self.drawings if len(self.own_drawings) <= _MANY_MEMBERS else self._of_several


def view_of(study: Study, *, published: bool = False, asked: AskedBefore | None = None, last: int = 1) -> StudyView:
    """Return all that a report shows of a study.

    Args:
        study: The study.
        published: Whether published values of other models stand beside its own.
        asked: Questions that were written down beforehand.
        last: Over how many of their last evaluated checkpoints members are averaged before they are compared.
    """
    scores = scores_of_members(study.members)
    compared = over_last(scores, last)
    answers = answers_to(compared, asked)
    references = published_rows() if published else []
    view = StudyView(study, answers, verdict_sentences(answers))
    if asked and asked.written:
        view.verdicts = [(f"{view.verdicts[0][0]} ({asked.written})", view.verdicts[0][1]), *view.verdicts[1:]]
    view.plan_differences = plan_differences(study.members)
    view.tree = phase_trees(study)
    view.items = task_items(study.members)
    view.tables = _tables(view)
    laws, view.law_drawings = scaling_laws(study.members)
    points = points_by_cost(scores, study.members)
    view.cost_drawings = cost_drawings(scores, points, study.members)
    passed, view.overtaking_words = overtakings_table(scores)
    further = [laws, quality_table(points), passed, disagreements_table(answers, compared)]
    view.tables += [table for table in further if table is not None]
    view.published = published_table(references) if references else None
    view.own_drawings = _own_drawings(study.members)
    view.value_drawings = value_drawings(study.members)
    view.share_drawings = share_drawings(study.members)
    view.shared_drawings = [
        *held_out_drawings(study.members),
        *curve_drawings(scores, study.members, references),
        *gap_drawings(scores, study.members),
        *layer_drawings(study.members),
    ]
    return view


def _tables(view: StudyView) -> list[DataTable]:
    members = view.study.members
    first = next((member.name for member in members if member.plan is not None), "")
    readings = [reading for phase in view.tree for reading in phase.readings]
    made = [
        values_table(members),
        differences_table(view.answers),
        parts_table(members),
        differences_of_plans_table(first, view.plan_differences),
        checkpoints_table(members),
        cost_table(members),
        drift_table(members),
        environment_table(members),
        seconds_table(view.study.seconds),
        sources_table(source_facts(view.study)),
        readings_table(readings),
    ]
    return [table for table in made if table is not None]


def _own_drawings(members: Sequence[MemberRun]) -> dict[str, list[Drawing]]:
    most = _POINTS_OF_MANY if len(members) > _MANY_MEMBERS else _POINTS_OF_FEW
    colours = member_colours(members)
    drawings: dict[str, list[Drawing]] = {}
    for member in members:
        colour = colours[member.name]
        own = [train_drawing(member.train, member.name, colour, most)] if member.train else []
        own += [held_out_drawing(member.held_out, member.name, colour)] if member.held_out else []
        drawings[member.name] = own
    return drawings
