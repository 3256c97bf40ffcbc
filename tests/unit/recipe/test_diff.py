from pathlib import Path

import pytest

from seqpair.errors import RecipeError
from seqpair.recipe.diff import ABSENT, declared_reason, diff_plans, require_declared
from seqpair.recipe.load import load_recipe
from seqpair.recipe.plan import Plan
from seqpair.recipe.resolve import resolve_plan


def plan_of(member: str, *overrides: str) -> Plan:
    return resolve_plan(load_recipe(str(Path(__file__).with_name("two_sources.yaml")), overrides), member)


def test_a_plan_does_not_differ_from_itself() -> None:
    assert diff_plans(plan_of("encoder"), plan_of("encoder")) == []


def test_where_values_came_from_is_not_compared() -> None:
    assert diff_plans(plan_of("encoder"), plan_of("encoder", "seed=21")) == []


def test_an_undeclared_difference_is_an_error_that_names_it() -> None:
    differences = diff_plans(plan_of("encoder"), plan_of("decoder", "optimizer.lr=1e-3", "seed=3"))
    assert {item.path for item in differences if not item.declared} == {"seed", "optimizer.lr"}
    with pytest.raises(RecipeError, match="encoder and decoder differ in more than their objective") as caught:
        require_declared(differences, ("encoder", "decoder"))
    assert "2 undeclared differences" in str(caught.value)
    assert "optimizer.lr: 0.003 against 0.001" in str(caught.value)
    assert "derived.direction" in str(caught.value)


def test_lists_of_different_length_show_what_is_absent() -> None:
    differences = diff_plans(plan_of("encoder"), plan_of("encoder", "phases.0.mixture={prose: null, code: {share: 1}}"))
    by_path = {item.path: item for item in differences}
    assert by_path["phases[0].mixture[1].source"].b == ABSENT
    assert not by_path["phases[0].mixture[1].source"].declared


def test_two_plans_that_lie_alike_are_still_caught() -> None:
    plan = plan_of("encoder")
    lying = plan.model_copy(update={"derived": plan.derived.model_copy(update={"padding_side": "left"})})
    (difference,) = diff_plans(lying, lying)
    assert (difference.path, difference.declared) == ("derived.padding_side", False)
    (phase,) = plan.phases
    unmasked = plan.model_copy(update={"phases": (phase.model_copy(update={"mask_frac": None}),)})
    with pytest.raises(RecipeError, match="mask_frac"):
        require_declared(diff_plans(plan, unmasked), ("a", "b"))


def test_patterns_cover_a_section_but_not_its_neighbours() -> None:
    assert declared_reason("phases[12].objectives[0].first_step")
    assert declared_reason("phases[0].mask_frac")
    assert declared_reason("member")
    assert not declared_reason("members")
    assert not declared_reason("phases[0].mask_frac_other")
    assert not declared_reason("held_out.mask_frac")
