import json
from pathlib import Path

import pytest

from seqpair.errors import RecipeError
from seqpair.recipe.diff import (
    ABSENT,
    PRESENT,
    PairIdentity,
    declared_reason,
    diff_plans,
    pair_identity,
    plan_digest,
    require_declared,
)
from seqpair.recipe.load import load_recipe, preset_names
from seqpair.recipe.objectives import OBJECTIVES, Objective
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


def test_a_new_column_of_the_objectives_table_enters_the_digest_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wider(Objective):
        tilt: float = 0.0

    plan = of_four("encoder")
    before, row = plan_digest(plan), OBJECTIVES["mlm"].model_dump()
    monkeypatch.setitem(OBJECTIVES, "mlm", Wider(**row))
    assert plan_digest(plan) == before
    monkeypatch.setitem(OBJECTIVES, "mlm", Wider(**row, tilt=0.5))
    assert plan_digest(plan) != before


GOLDEN = Path(__file__).parents[2] / "golden" / "plan_digests.json"


TWO_SOURCES = str(Path(__file__).with_name("two_sources.yaml"))


def digest(*overrides: str, preset: str = TWO_SOURCES, member: str = "encoder") -> str:
    return plan_digest(resolve_plan(load_recipe(preset, overrides), member))


@pytest.mark.parametrize(
    "assignment",
    [
        "runtime.microbatch_tokens=100",
        "runtime.threads=1",
        "runtime.loggers=[tensorboard]",
        "checkpoints.keep.last=1",
        "checkpoints.every_tokens=100k",
        "held_out.sequences=3",
        "runs=/elsewhere",
        "data.stores=/elsewhere",
        "name=other",
    ],
)
def test_what_changes_nothing_that_is_learned(assignment: str) -> None:
    assert digest(assignment) == digest()


@pytest.mark.parametrize(
    "assignment",
    [
        "seed=22",
        "optimizer.lr=1e-3",
        "optimizer.clip_norm=1",
        "optimizer.name=muon",
        "model.attn_out_dropout=0",
        "phases.0.seq_len=256",
        "phases.0.mask_frac=0.2",
        "phases.0.batch.tokens=8k",
        "phases.0.lr.end_frac=0.1",
        "phases.0.rope_local_theta=20000",
        "phases.0.mixture={prose: {share: 0.5}, code: {share: 0.5}}",
        "budget=5M",
        "data.tokenizer.train_vocab_size=2048",
        "data.sources.code.held_out_frac=0.1",
        "size=4m",
    ],
)
def test_what_changes_what_is_learned(assignment: str) -> None:
    assert digest(assignment) != digest()


def test_members_differ() -> None:
    assert digest(member="encoder") != digest(member="decoder")


def test_a_start_counts_but_not_the_name_of_its_member() -> None:
    four = str(Path(__file__).with_name("four_phases.yaml"))
    plain = digest(preset=four, member="encoder-from-decoder")
    renamed = ["members={decoder: null, encoder-from-decoder: null, d: {objective: clm}, "]
    renamed[0] += "e: {from: d, objective: mntp, phases: [cross]}}"
    assert digest(*renamed, preset=four, member="e") == plain
    assert digest("phases.pretrain.budget_tokens=4M", preset=four, member="encoder-from-decoder") != plain
    carried = "members.encoder-from-decoder.optimizer=carried"
    assert digest(carried, preset=four, member="encoder-from-decoder") != plain
    folders = [f"members.x={{from: {folder}, objective: mlm}}" for folder in ("./a", "./b")]
    assert len({digest(folder, preset=four, member="x") for folder in folders}) == 2


def test_the_causal_share_of_a_hybrid_counts() -> None:
    shares = [f"members.x={{objective: {{hybrid: {{causal_frac: {share}}}}}}}" for share in (0.1, 0.2)]
    assert len({digest(share, member="x") for share in shares}) == 2


def test_paths_do_not_count(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "r.yaml"
        path.write_text("extends: 1m\ndata: {sources: [{name: corpus, kind: text, paths: [x.txt]}]}\n")
        found.append(digest(preset=str(path)))
    assert found[0] == found[1]


def test_golden_digests_of_all_presets() -> None:
    found = {
        f"{name}/{member}": digest(preset=name, member=member)
        for name in preset_names()
        if name != "demo"  # its numbers are tuned; the invariants hold it
        for member in load_recipe(name).members
    }
    assert found == json.loads(GOLDEN.read_text(encoding="utf-8")), (
        "a preset's plan has changed: if that was intended, write the new digests; CHANGELOG, Numerics"
    )


def identity(member: str, *overrides: str, preset: str = TWO_SOURCES) -> PairIdentity:
    return pair_identity(resolve_plan(load_recipe(preset, overrides), member))


def test_members_of_a_pair_have_one_fingerprint_at_every_seed() -> None:
    encoder, decoder = identity("encoder"), identity("decoder", "seed=22", "name=other")
    assert encoder.fingerprint == decoder.fingerprint
    assert encoder.differing(decoder) == []


@pytest.mark.parametrize(
    ("assignment", "part"),
    [
        ("optimizer.lr=1e-3", "optimizer"),
        ("size=4m", "shape"),
        ("model.attn_out_dropout=0", "model"),
        ("data.tokenizer.train_vocab_size=2048", "tokenizer"),
        ("phases.0.lr.end_frac=0.1", "phase pretrain"),
    ],
)
def test_what_makes_two_members_no_pair_is_named(assignment: str, part: str) -> None:
    found = identity("encoder").differing(identity("decoder", assignment))
    assert part in found
    assert identity("encoder").fingerprint != identity("decoder", assignment).fingerprint


def test_the_mask_rate_is_the_objectives_own() -> None:
    assert identity("encoder", "phases.0.mask_frac=0.2").differing(identity("decoder")) == []


def test_a_crossed_member_shares_all_but_its_own_phases() -> None:
    four = str(Path(__file__).with_name("four_phases.yaml"))
    encoder, crossed = (identity(name, preset=four) for name in ("encoder", "encoder-from-decoder"))
    assert not crossed.from_scratch
    assert encoder.differing(crossed) == crossed.differing(encoder) == []
    other = identity("encoder-from-decoder", "optimizer.lr=1e-3", preset=four)
    assert encoder.differing(other) == ["optimizer"]
