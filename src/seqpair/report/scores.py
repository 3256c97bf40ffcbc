"""What a study left on disk, as the scores that the questions are asked of.

Owns the way from runs to models and scores. Must not know statistics. Entry point: `scores_of`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from seqpair.compare.values import Model, Scores, Task
from seqpair.recipe.cost import plan_cost
from seqpair.recipe.identity import pair_identity
from seqpair.recipe.plan import Plan
from seqpair.report.collect import MemberRun
from seqpair.report.evaluation_files import Outcome


def scores_of(members: Sequence[MemberRun]) -> list[Scores]:
    """Return every member's scores on every task; a model without a plan is no side of a pair and left out."""
    return [
        _scores(_model(member, member.plan), outcome)
        for member in members
        if member.plan is not None
        for outcome in member.outcomes.values()
    ]


def _model(member: MemberRun, plan: Plan) -> Model:
    name = member.name.removeprefix(f"{member.study}/") if member.study else member.name
    cost = plan_cost(plan)
    return Model(
        member=name,
        size=plan.size,
        seed=plan.seed,
        direction=member.direction,
        identity=pair_identity(plan),
        tokens=member.train[-1].tokens if member.train else None,
        parameters=cost.parameters,
        non_embedding_parameters=cost.non_embedding_parameters,
        train_flops=cost.flops,
        train_seconds=sum(point.seconds for point in member.train) if member.train else None,
    )


def _scores(model: Model, outcome: Outcome) -> Scores:
    result = outcome.result
    mean = float(np.average(outcome.values, weights=outcome.weights))
    return Scores(
        model=model,
        task=Task(
            name=outcome.key,
            version=result.version,
            title=outcome.title,
            metric=result.metric,
            unit=result.unit,
            higher_is_better=result.higher_is_better,
            chance=result.chance,
            settings=result.settings,
        ),
        ids=outcome.ids,
        values=outcome.values,
        weights=outcome.weights,
        value=None if math.isclose(mean, result.value, rel_tol=1e-6, abs_tol=1e-9) else result.value,
    )
