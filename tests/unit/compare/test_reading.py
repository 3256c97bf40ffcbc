from pathlib import Path

import pytest
import simulated_scores as sim

from seqpair.compare.questions import Options, equal_size
from seqpair.compare.reading import at_seed, model_from_elsewhere, model_of_plan, read_scores, scores_of
from seqpair.evaluate.results import ItemOutcome, write_result
from seqpair.recipe.cost import plan_cost
from seqpair.recipe.load import load_recipe
from seqpair.recipe.resolve import resolve_plan

FOUR = str(Path(__file__).parents[1] / "recipe" / "four_phases.yaml")


def plan_of(member, *overrides):
    return resolve_plan(load_recipe(FOUR, overrides), member)


def items_of(right):
    return [ItemOutcome(id=f"i{n:03d}", value=float(value), detail={"gold": n}) for n, value in enumerate(right)]


def test_a_plans_model_has_its_counts_and_costs():
    plan = plan_of("encoder")
    model = model_of_plan(plan)
    cost = plan_cost(plan)
    assert model.train_flops == pytest.approx(cost.flops)
    assert model.non_embedding_parameters == cost.non_embedding_parameters
    assert model.tokens == round(sum(phase.positions * phase.mean_tokens for phase in plan.phases))
    assert (model.direction, model.label) == ("bidirectional", f"{plan.size} encoder")


def test_a_checkpoint_has_read_and_cost_its_part():
    plan = plan_of("encoder")
    half = model_of_plan(plan, checkpoint="step9", positions={plan.phases[0].name: plan.phases[0].positions // 2})
    assert half.train_flops == pytest.approx(plan_cost(plan).phases[0].flops / 2, rel=0.01)
    assert half.tokens < model_of_plan(plan).tokens
    assert model_of_plan(plan, tokens=77).tokens == 77


def test_results_on_disk_are_compared(tmp_path):
    found = []
    for member, share in (("encoder", 0.9), ("decoder", 0.5)):
        items = items_of([n % 10 < 10 * share for n in range(200)])
        write_result(tmp_path / member, sim.result_of(items, member=member), items)
        found += read_scores(tmp_path / member, model_of_plan(plan_of(member)))
    (comparison,) = equal_size(found)
    assert comparison.on_these_runs.endswith("encoder")
    assert found[0].details["i003"] == {"gold": 3}


def test_a_value_that_is_no_mean_of_items_is_kept_beside_them():
    items = items_of([1, 0, 1])
    assert scores_of(sim.model(), sim.result_of(items), items).value is None
    assert scores_of(sim.model(), sim.result_of(items, value=0.123), items).value == 0.123


def test_a_model_from_elsewhere_is_compared_only_when_asked_for():
    items = items_of([n % 3 == 0 for n in range(60)])
    ours = [scores_of(sim.model(seed=seed), sim.result_of(items), items) for seed in range(3)]
    outside = scores_of(model_from_elsewhere("decoder", size="1m"), sim.result_of(items), items)
    repeated = [at_seed(outside, seed) for seed in range(3)]
    assert equal_size([*ours, *repeated])[0].difference is None
    assert equal_size([*ours, *repeated], options=Options(unpaired=True))[0].difference.seeds == 3
