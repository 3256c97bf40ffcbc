from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpair.recipe.cost import (
    checkpoint_bytes,
    flops_per_token,
    forward_flops,
    kept_checkpoints,
    loss_chunk_rows,
    mean_keys,
    memory_bytes,
    plan_cost,
    scoring_cost,
    settings_that_fit,
)
from seqpair.recipe.load import load_recipe, preset_names
from seqpair.recipe.objectives import OBJECTIVES
from seqpair.recipe.plan import KeepRule, Plan
from seqpair.recipe.resolve import resolve_plan
from seqpair.recipe.sizes import parameter_count

TWO_SOURCES = str(Path(__file__).with_name("two_sources.yaml"))


def plan_of(recipe: str, member: str, *overrides: str) -> Plan:
    return resolve_plan(load_recipe(recipe, overrides), member)


@given(st.integers(1, 400), st.one_of(st.none(), st.integers(1, 100)))
def test_mean_keys_equals_counting(tokens: int, window: int | None) -> None:
    reach = tokens if window is None else window
    for name in ("mlm", "clm"):
        after = 0 if name == "clm" else reach
        seen = [min(t, reach) + 1 + min(tokens - 1 - t, after) for t in range(tokens)]
        assert mean_keys(tokens, window, OBJECTIVES[name]) == pytest.approx(sum(seen) / tokens)


@given(st.integers(1, 60), st.one_of(st.none(), st.integers(1, 40)))
def test_mean_keys_of_a_prefix_equals_counting_over_its_cuts(tokens: int, window: int | None) -> None:
    reach = tokens if window is None else window
    cuts = range(1, max(2, tokens))
    seen = [
        sum(abs(k - q) <= reach and (k <= q or k < cut) for q in range(tokens) for k in range(tokens)) for cut in cuts
    ]
    assert mean_keys(tokens, window, OBJECTIVES["prefix"]) == pytest.approx(sum(seen) / len(cuts) / tokens)


def test_flops_of_a_token_by_hand() -> None:
    plan = plan_of("17m", "encoder", "data.expected_mean_tokens=1022")
    phase = plan.phases[0]
    # 1,024 tokens: three global layers see all, four local ones 129 less what the two ends cut off.
    keys = 3 * 1024 + 4 * (129 - 64 * 65 / 1024)
    matrices = 7 * (4 * 256**2 + 3 * 256 * 384) + 0.3 * (256**2 + 50_368 * 256)
    assert phase.mean_tokens == pytest.approx(1022)
    assert flops_per_token(plan.model, phase) == pytest.approx(6 * matrices + 12 * 256 * keys, rel=1e-6)


def test_a_decoder_pays_for_the_head_everywhere_and_an_encoder_for_both_sides() -> None:
    small = [flops_per_token(p.model, p.phases[0]) for p in (plan_of("17m", "encoder"), plan_of("17m", "decoder"))]
    assert small[1] > 2 * small[0] * 0.8
    head = 6 * 0.7 * (256**2 + 50_368 * 256)
    assert small[1] - head < small[0]


def test_cost_of_a_plan() -> None:
    plan = plan_of(TWO_SOURCES, "decoder")
    cost = plan_cost(plan)
    (phase,) = plan.phases
    assert cost.parameters == 1_103_104
    assert checkpoint_bytes(plan) == cost.checkpoint_bytes == 12 * 1_103_104
    assert cost.flops == cost.phases[0].flops
    assert cost.flops == pytest.approx(flops_per_token(plan.model, phase) * phase.positions * (phase.mean_tokens + 2))
    assert cost.memory_bytes > 16 * cost.parameters
    assert cost.checkpoints_kept == 3
    assert cost.disk_bytes == 4 * cost.checkpoint_bytes


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        (KeepRule(), 5),
        (KeepRule(last=1), 1),
        (KeepRule(last=2), 2),
        (KeepRule(last=9), 5),
        (KeepRule(last=1, every_tokens=1_000_000), 3),
        (KeepRule(last=3, every_tokens=1_000_000), 4),
        (KeepRule(last=1, every_tokens=10**12), 1),
    ],
)
def test_kept_checkpoints(keep: KeepRule, kept: int) -> None:
    plan = plan_of(TWO_SOURCES, "decoder", "phases.0.budget_tokens=2.6M", "checkpoints.every_tokens=520k")
    assert len(plan.phases[0].checkpoint_steps) == 5
    assert kept_checkpoints(plan.model_copy(update={"keep": keep})) == kept


def test_a_phase_of_several_objectives_costs_what_its_parts_cost() -> None:
    clm, mlm, mntp = (plan_of(TWO_SOURCES, "x", f"members.x={{objective: {name}}}") for name in ("clm", "mlm", "mntp"))
    each = {name: flops_per_token(plan.model, plan.phases[0]) for name, plan in (("clm", clm), ("mlm", mlm))}
    assert flops_per_token(mntp.model, mntp.phases[0]) == each["mlm"]
    hybrid = plan_of(TWO_SOURCES, "x", "members.x={objective: {hybrid: {causal_frac: 0.25}}}")
    mixed = 0.25 * each["clm"] + 0.75 * each["mlm"]
    assert flops_per_token(hybrid.model, hybrid.phases[0]) == pytest.approx(mixed, rel=1e-12)
    both = plan_of(TWO_SOURCES, "x", "members.x={objective: [{clm: 0.25}, {mlm: 0.75}]}")
    assert flops_per_token(both.model, both.phases[0]) == pytest.approx(mixed, rel=0.005)


def test_checkpoints_that_others_start_from_are_counted() -> None:
    overrides = ["phases.0.budget_tokens=2.6M", "checkpoints.every_tokens=520k"]
    plan = plan_of(TWO_SOURCES, "decoder", *overrides)
    first, *_, last = plan.phases[0].checkpoint_steps
    for names, kept in (((), 1), ((f"step{first}",), 2), ((f"step{last}",), 1), (("step99999",), 1)):
        rule = KeepRule(last=1, names=names)
        assert kept_checkpoints(plan.model_copy(update={"keep": rule})) == kept


def test_scoring_costs_an_encoder_a_row_for_each_token() -> None:
    model = plan_of("17m", "encoder").model
    rows, flops = scoring_cost(model, OBJECTIVES["mlm"], 20, 5)
    assert rows == 5
    by_hand = [
        tokens * forward_flops(model, tokens, OBJECTIVES["mlm"], 1 / tokens) for tokens in range(1 + 20 + 3 + 1, 30)
    ]
    assert flops == pytest.approx(sum(by_hand))
    row, once = scoring_cost(model, OBJECTIVES["clm"], 20, 5)
    assert row == 1
    assert once == pytest.approx(26 * forward_flops(model, 26, OBJECTIVES["clm"], 5 / 26))
    layers = 7 * (4 * 256**2 + 3 * 256 * 384)
    assert flops > 4 * 2 * layers * 26
    assert once < 2 * 2 * layers * 26 + 2 * 5 * 256 * 51_000


def test_training_costs_three_forward_passes() -> None:
    plan = plan_of("17m", "decoder")
    tokens = plan.phases[0].mean_tokens + 2
    assert flops_per_token(plan.model, plan.phases[0]) == pytest.approx(
        3 * forward_flops(plan.model, tokens, OBJECTIVES["clm"], 1.0)
    )


@pytest.mark.parametrize("preset", [name for name in preset_names() if name.startswith("ettin-")])
def test_a_published_preset_fits_one_gpu_of_80_gb_with_room(preset):
    recipe = load_recipe(preset)
    for member in recipe.members:
        assert plan_cost(resolve_plan(recipe, member)).memory_bytes < 0.92 * 74.5 * 2**30


def test_memory_of_shards_and_of_recomputed_layers_by_hand() -> None:
    plan = plan_of("1b", "decoder")
    shape, tokens = plan.model.shape, plan.runtime.microbatch_tokens
    count = parameter_count(shape, plan.model.vocab_size).total
    layer = 4 * shape.width**2 + 3 * shape.width * shape.inner

    def of(ranks: int = 1, **runtime: object) -> float:
        return memory_bytes(plan.model_copy(update={"runtime": plan.runtime.model_copy(update=runtime)}), ranks)

    saved = 16 * count * 7 / 8 - 8 * (count - shape.layers * layer) - 12 * layer
    assert of(8, sharding="full") == pytest.approx(of() - saved)
    assert of(8) == of(1, sharding="full") == of()
    lighter = 6 * shape.width + 4 * shape.inner
    assert of(checkpoint_layers=3) == pytest.approx(of() - 2 * tokens * lighter * 2 + 2 * tokens * 2 * shape.width)


def test_the_loss_holds_on_a_gpu_what_the_plan_says() -> None:
    assert [loss_chunk_rows(size, 4, gpu=False) for size in (1024, 50_368)] == [2048, 512]
    for logit_bytes in (2, 4):  # logits and their gradients
        assert loss_chunk_rows(50_368, logit_bytes, gpu=True) * 50_368 * 2 * logit_bytes == pytest.approx(
            2**30, rel=1e-3
        )
    plan = plan_of("17m", "decoder")
    assert plan.runtime.microbatch_tokens > 5328
    on_cpu = 512 * plan.model.vocab_size * 4
    assert memory_bytes(plan) - memory_bytes(plan, gpu=False) == pytest.approx(2**30 - on_cpu, rel=1e-3)
    small = plan.model_copy(update={"runtime": plan.runtime.model_copy(update={"microbatch_tokens": 1024})})
    logits = 1024 * plan.model.vocab_size * (2 if plan.runtime.precision == "bf16" else 4)
    assert memory_bytes(small) - memory_bytes(small, gpu=False) == 2 * logits - on_cpu


def test_the_least_change_that_fits_is_named() -> None:
    plan = plan_of("1b", "decoder")
    assert settings_that_fit(plan, 1e12, 8) == {}
    assert settings_that_fit(plan, memory_bytes(plan) - 1, 8) == {"sharding": "full"}
    assert settings_that_fit(plan, memory_bytes(plan) - 1, 1) == {"checkpoint_layers": "all"}
    assert settings_that_fit(plan, 16e9, 8) == {"sharding": "full", "checkpoint_layers": "all"}
    assert settings_that_fit(plan, 1e6, 8) is None
    muon = plan_of("1b", "decoder", "optimizer.name=muon")
    assert settings_that_fit(muon, memory_bytes(muon) - 1, 8) == {"checkpoint_layers": "all"}
