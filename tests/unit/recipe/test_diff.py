from pathlib import Path

import pytest

from seqpair.errors import RecipeError
from seqpair.recipe.diff import ABSENT, PRESENT, declared_reason, diff_plans, require_declared
from seqpair.recipe.load import load_recipe
from seqpair.recipe.plan import Plan
from seqpair.recipe.resolve import resolve_plan

FOUR = str(Path(__file__).with_name("four_phases.yaml"))


def of_four(member: str, *overrides: str) -> Plan:
    return resolve_plan(load_recipe(FOUR, overrides), member)


def paths(a: Plan, b: Plan, *, declared: bool) -> set[str]:
    return {item.path for item in diff_plans(a, b) if item.declared == declared}


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
    assert by_path["phases[pretrain].mixture[1].source"].b == ABSENT
    assert not by_path["phases[pretrain].mixture[1].source"].declared


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
    assert declared_reason("phases[extend].objectives[0].first_step")
    assert declared_reason("phases[pretrain].mask_frac")
    assert declared_reason("member")
    assert not declared_reason("members")
    assert not declared_reason("phases[pretrain].mask_frac_other")
    assert not declared_reason("held_out.mask_frac")


def test_what_a_start_adds_is_declared_only_where_there_is_a_start() -> None:
    for path in ("start", "start.member", "phases[cross]"):
        assert declared_reason(path, started=True)
        assert not declared_reason(path)
    for path in ("phases", "phases[cross].seq_len", "starts", "phases[a].phases[b]"):
        assert not declared_reason(path, started=True)


def test_a_cross_member_against_the_member_it_became() -> None:
    encoder, made = of_four("encoder"), of_four("encoder-from-decoder")
    found = {item.path: item for item in diff_plans(encoder, made)}
    require_declared(list(found.values()), ("encoder", "encoder-from-decoder"))
    phases = {"phases[pretrain]", "phases[extend]", "phases[decay]", "phases[cross]"}
    assert set(found) == {"member", "start", "derived.predicts", *phases}
    assert (found["start"].a, found["start"].b) == ("scratch", "decoder's last checkpoint")
    assert (found["phases[cross]"].a, found["phases[cross]"].b) == (ABSENT, PRESENT)


def test_two_cross_members_run_the_same_phase() -> None:
    one, other = of_four("encoder-from-decoder"), of_four("decoder-from-encoder")
    assert paths(one, other, declared=False) == set()
    assert paths(one, other, declared=True) >= {
        "start.member",
        "start.plan_digest",
        "phases[cross].objectives[0].objective",
        "phases[cross].mask_frac",
    }
    assert paths(one, of_four("decoder-from-encoder", "phases.cross.seq_len=4096"), declared=False) == {
        "phases[cross].seq_len",
        "phases[cross].mean_tokens",
        "phases[cross].steps",
        "phases[cross].positions",
        "phases[cross].checkpoint_steps[0]",
        "phases[cross].checkpoint_steps[1]",
        "phases[cross].held_out_steps[0]",
        "phases[cross].held_out_steps[1]",
    }


def test_through_the_same_phases_both_carry_their_optimiser_or_neither() -> None:
    one = of_four("encoder-from-decoder")
    carried = of_four("decoder-from-encoder", "members.decoder-from-encoder.optimizer=carried")
    assert paths(one, carried, declared=False) == {"start.optimizer"}
    branch = of_four("b", "members.b={from: encoder, phases: [decay], optimizer: carried}")
    assert paths(one, branch, declared=False) == set()


def test_phases_that_differ_without_a_start_are_not_declared() -> None:
    short = of_four("x", "members.x={objective: mlm, phases: [pretrain, extend]}")
    assert paths(of_four("encoder"), short, declared=False) == {"phases[decay]"}
    turned = of_four("x", "members.x={objective: mlm, phases: [pretrain, decay, extend]}")
    assert paths(of_four("encoder"), turned, declared=False) == {"phases"}


def test_a_shared_phase_is_held_to_the_same_values_with_a_start_too() -> None:
    branch = of_four("b", "members.b={from: encoder, phases: [decay]}", "phases.decay.lr.end_frac=0.1")
    assert paths(of_four("encoder"), branch, declared=False) == {"phases[decay].lr.end_frac"}


def test_the_checkpoints_that_others_start_from_may_differ() -> None:
    branched = "members.b={from: encoder@step40, phases: [decay]}"
    assert paths(of_four("encoder", branched), of_four("decoder", branched), declared=False) == set()
