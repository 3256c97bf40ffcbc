"""What holds for a whole sweep: what its points share, and what a reader must not overlook."""

from __future__ import annotations

from collections.abc import Sequence

from seqpair.recipe.plan import Plan
from seqpair.report.sweep_record import SweepRuns
from seqpair.text import format_count


def sweep_remarks(runs: SweepRuns) -> list[str]:
    """Return the sentences: what each axis touches, what was read, on which text it was measured."""
    record = runs.record
    remarks = []
    for axis in record.axes:
        if len(axis.touches) < len(record.members):
            others = [member for member in record.members if member not in axis.touches]
            remarks.append(
                f"{', '.join(axis.keys)} touches {_listed(axis.touches)} only: {_listed(others)} "
                f"{'is' if len(others) == 1 else 'are'} not trained again along it."
            )
    remarks += record.order
    plans = [run.plan for run in runs.runs.values() if run.plan is not None]
    remarks += _budget(plans)
    lengths = {plan.phases[-1].seq_len for plan in plans}
    if len(lengths) > 1:
        shown = ", ".join(map(str, sorted(lengths)))
        remarks.append(
            f"The held-out text is cut into sequences of {shown} tokens: points do not answer the same items."
        )
    if any(axis.is_seed for axis in record.axes):
        remarks.append("Each seed has its own order, initial weights, held-out sequences and held-out masks.")
    if runs.left_out:
        remarks.append(
            f"Held-out values are means over {_listed(runs.sources) or 'no source'}; {_listed(runs.left_out)} "
            f"{'is' if len(runs.left_out) == 1 else 'are'} not in every point's mixture and left out."
        )
    elif len(runs.sources) > 1:
        remarks.append(f"Held-out values are plain means over the sources {_listed(runs.sources)}.")
    return remarks


def _budget(plans: Sequence[Plan]) -> list[str]:
    if not plans:
        return []
    asked = {sum(phase.budget_tokens for phase in plan.phases) for plan in plans}
    read = {round(sum(phase.planned_tokens(phase.steps) for phase in plan.phases)) for plan in plans}
    least, most = format_count(min(read)), format_count(max(read))
    span = f"{least} content tokens" if least == most else f"between {least} and {most} content tokens"
    if len(asked) == 1:
        return [f"Every run has the same budget, {format_count(asked.pop())}, which is {span} in whole steps."]
    return [f"The runs do not have one budget: they read {span}."]


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else list(names))
