"""What a study left on disk, as the scores that the questions are asked of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from seqpair.compare.reading import model_of_plan, scores_of_columns
from seqpair.compare.values import Model, Scores
from seqpair.recipe.plan import Plan
from seqpair.report.collect import MemberRun
from seqpair.report.evaluation_files import Outcome


def scores_of_members(members: Sequence[MemberRun]) -> list[Scores]:
    """Return every member's scores on every task, at its end and at evaluated checkpoints.

    A model without a plan is no side of a pair and left out.
    """
    found = []
    for member in members:
        if member.plan is None:
            continue
        found += [_scores(final_model(member, member.plan), outcome) for outcome in member.outcomes.values()]
        for evaluated in member.evaluated:
            model = model_of_plan(
                member.plan,
                checkpoint=evaluated.manifest.name,
                positions=evaluated.manifest.positions,
                tokens=evaluated.manifest.content_tokens,
                train_seconds=_seconds_until(member, evaluated.manifest.content_tokens),
            )
            found += [_scores(model, outcome) for outcome in evaluated.outcomes.values()]
    return found


def final_model(member: MemberRun, plan: Plan) -> Model:
    """Return the model at the end of a member's run."""
    return model_of_plan(
        plan,
        tokens=member.train[-1].tokens if member.train else None,
        train_seconds=sum(point.seconds for point in member.train) if member.train else None,
        objective=member.objective,
    )


def _seconds_until(member: MemberRun, tokens: int) -> float | None:
    """Return the seconds of the training steps that read a member's first tokens; None without steps."""
    steps = [point.seconds for point in member.train if point.tokens <= tokens]
    return math.fsum(steps) if steps else None


def _scores(model: Model, outcome: Outcome) -> Scores:
    found = scores_of_columns(model, outcome.result, outcome.ids, outcome.values, outcome.weights, outcome.details)
    return replace(found, task=replace(found.task, name=outcome.key, title=outcome.title))
