import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpair.errors import RecipeError
from seqpair.recipe.load import load_recipe, preset_names
from seqpair.recipe.phases import expected_mean_tokens
from seqpair.recipe.plan import Plan, StoreStats
from seqpair.recipe.resolve import expected_vocab_size, resolve_plan, resolve_plans

TWO_SOURCES = str(Path(__file__).with_name("two_sources.yaml"))


def store(source: str, tokens: int, sequences: int, seq_len: int = 512) -> StoreStats:
    return StoreStats(
        source=source,
        digest=f"digest-of-{source}",
        documents=sequences // 2,
        tokens=tokens,
        text_bytes=3 * tokens,
        sequences={seq_len: sequences},
    )


STATS = {"prose": store("prose", 700_000, 7_000), "code": store("code", 4_000_000, 10_000)}


def pair(*overrides: str, stats: dict[str, StoreStats] | None = STATS) -> Plan:
    return resolve_plan(load_recipe(TWO_SOURCES, overrides), "encoder", stats, None if stats is None else 4096)


@pytest.mark.parametrize("name", preset_names())
def test_presets_resolve_for_both_members(name: str) -> None:
    recipe = load_recipe(name)
    for member in recipe.members:
        plan = resolve_plan(recipe, member)
        assert plan.estimated
        for phase in plan.phases:
            last = phase.batch_stages[-1]
            assert len(phase.batch_stages) <= 64
            assert phase.positions * phase.mean_tokens == pytest.approx(
                phase.budget_tokens, abs=0.51 * last.sequences * phase.mean_tokens
            )
            assert phase.checkpoint_steps[-1] == phase.held_out_steps[-1] == phase.steps
        assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_the_published_checkpoints_are_as_far_apart_as_the_original_ones() -> None:
    phase = resolve_plan(
        load_recipe("150m", ["phases.pretrain.batch.ramp=null", "checkpoints.early=false"]), "encoder"
    ).phases[0]
    assert phase.mean_tokens == 615.0
    assert phase.steps == 599_876  # 1.7e12 / (4608 * 615); the original's last name is step599525
    assert phase.checkpoint_steps[:2] == (3000, 5999)
    assert len(phase.checkpoint_steps) == 200


def test_real_counts_replace_the_estimate() -> None:
    plan = pair()
    assert not plan.estimated
    (phase,) = plan.phases
    # Shares are of content tokens: 0.3 tokens in pieces of 100 and 0.7 in pieces of 400.
    assert phase.mean_tokens == pytest.approx(1 / (0.3 / 100 + 0.7 / 400))
    assert [(item.source, item.digest, item.tokens) for item in plan.stores] == [
        ("prose", "digest-of-prose", 700_000),
        ("code", "digest-of-code", 4_000_000),
    ]
    assert phase.batch_stages[0].sequences == round(16_384 / phase.mean_tokens)
    assert phase.steps == round(2_500_000 / phase.mean_tokens / phase.batch_stages[0].sequences)


def test_without_a_store_digests_are_empty() -> None:
    assert [item.digest for item in pair(stats=None).stores] == ["", ""]
    assert pair(stats=None).estimated
    assert resolve_plan(load_recipe(TWO_SOURCES), "encoder", STATS).estimated


def test_epochs_count_as_tokens() -> None:
    (phase,) = pair("phases.0.mixture={prose: {share: null, epochs: 2}, code: {share: null, epochs: 1}}").phases
    tokens = 2 * 700_000 + 4_000_000
    assert phase.mean_tokens == pytest.approx(tokens / (2 * 7_000 + 10_000))


def test_epochs_take_what_the_shares_leave() -> None:
    (phase,) = pair("phases.0.mixture={prose: {share: null, epochs: 1}, code: {share: 0.5}}").phases
    assert phase.mean_tokens == pytest.approx(1 / (0.5 / 100 + 0.5 / 400))


def test_shares_within_half_a_percent_are_normalised() -> None:
    (phase,) = pair("phases.0.mixture={prose: {share: 0.302}, code: {share: 0.702}}").phases
    assert sum(part.share or 0 for part in phase.mixture) == pytest.approx(1.0, abs=1e-12)


def test_one_source_needs_no_mixture() -> None:
    (phase,) = resolve_plan(load_recipe("1m"), "decoder").phases
    assert [(part.source, part.share) for part in phase.mixture] == [("corpus", 1.0)]


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["phases.0.mixture.prose.share=0.4"], ["do not sum to 1", "seen: 1.1", "within 0.005"]),
        (["phases.0.mixture={prose: null, prosa: {share: 0.3}}"], ["'prosa'", "did you mean 'prose'", "prose, code"]),
        (["phases.0.mixture=null"], ["'phases.pretrain.mixture' is missing", "2 sources"]),
        (
            ["phases.0.mixture={prose: {share: 1.0}, code: {share: null, epochs: 1}}"],
            ["leave nothing for its epochs"],
        ),
        (["phases.0.lr.warmup_tokens=2M"], ["shorter than its schedule", "warmup_tokens 2000000", "`budget`"]),
        (["phases.0.seq_len=256"], ["no sequences of length 256", "counts for [512]", "seqpair prepare"]),
        (
            ["phases.0.batch.ramp={from_sequences: 5000, over_tokens: 1M}"],
            ["the batch ramp does not grow", "from 5000"],
        ),
    ],
)
def test_recipes_that_cannot_be_resolved(overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        pair(*overrides)
    for part in parts:
        assert part in str(caught.value)


def test_a_missing_store_and_an_unknown_member() -> None:
    with pytest.raises(RecipeError, match="source 'code' has no store"):
        pair(stats={"prose": STATS["prose"]})
    with pytest.raises(RecipeError, match="no member 'encodr' .did you mean 'encoder'"):
        resolve_plan(load_recipe(TWO_SOURCES), "encodr")


def test_the_budget_dial_scales_everything_but_the_batch() -> None:
    whole, tenth = (
        [phase for member in ("encoder", "encoder-from-decoder") for phase in plans[member].phases]
        for plans in (four_plans(), four_plans("budget=200B"))
    )
    assert [phase.budget_tokens for phase in tenth] == [170e9, 25e9, 5e9, 5e9]
    assert [phase.lr.warmup_tokens for phase in tenth] == [400_000_000, 0, 0, 300_000_000]
    assert [phase.lr.decay_tokens for phase in tenth] == [0, 0, 0, 1_000_000_000]
    for before, after in zip(whole, tenth, strict=True):
        assert after.steps == pytest.approx(before.steps / 10, rel=2e-3)
        assert after.batch_stages[-1].sequences == before.batch_stages[-1].sequences == 4608
        ramps = [phase.batch_stages[-1].first_position for phase in (before, after)]
        assert ramps[1] == pytest.approx(ramps[0] / 10, rel=2e-3)
        assert (after.lr.start_frac, after.lr.end_frac) == (before.lr.start_frac, before.lr.end_frac)
        assert len(after.held_out_steps) == len(before.held_out_steps)
        late = [
            [step for step in phase.checkpoint_steps if phase.planned_tokens(step) >= every]
            for phase, every in ((before, 8.5e9), (after, 0.85e9))
        ]
        assert len(late[0]) == len(late[1])


def four_plans(*overrides: str) -> dict[str, Plan]:
    recipe = load_recipe("17m", overrides)
    return resolve_plans(recipe, list(recipe.members))


def test_the_dial_sets_what_a_member_from_scratch_reads() -> None:
    plans = four_plans("budget=2M", "phases.pretrain.batch.sequences=8", "phases.pretrain.batch.ramp=null")
    assert sum(phase.budget_tokens for phase in plans["encoder"].phases) == 2_000_000
    assert plans["encoder-from-decoder"].phases[0].budget_tokens == 50_000
    only_cross = load_recipe("17m", ["budget=5M", "phases={pretrain: null, extend: null, decay: null}", ONLY_CROSS])
    assert resolve_plan(only_cross, "encoder").phases[0].budget_tokens == 5_000_000


ONLY_CROSS = (
    "members={encoder: {phases: [cross]}, decoder: null, encoder-from-decoder: null, decoder-from-encoder: null}"
)


def test_the_dial_scales_the_keep_rule() -> None:
    keep = "checkpoints.keep={last: 2, every_tokens: 85B}"
    assert four_plans(keep, "budget=200B")["encoder"].keep.every_tokens == 8_500_000_000
    assert four_plans(keep)["encoder"].keep.every_tokens == 85_000_000_000


def test_early_checkpoints_double_until_the_cadence_takes_over() -> None:
    plain, early = (pair(f"checkpoints.early={value}") for value in ("no", "yes"))
    cadence = plain.phases[0].checkpoint_steps
    assert early.phases[0].checkpoint_steps == (
        *(1 << power for power in range(20) if 1 << power < cadence[0]),
        *cadence,
    )
    assert cadence[0] > 16
    plans = four_plans()
    assert plans["encoder"].phases[0].checkpoint_steps[:4] == (1, 2, 4, 8)
    for phase in (*plans["encoder"].phases[1:], *plans["encoder-from-decoder"].phases):
        assert phase.planned_tokens(phase.checkpoint_steps[0]) >= 8.5e9


def test_a_longer_budget_continues_the_same_batches() -> None:
    short, long = (pair(f"phases.0.budget_tokens={budget}").phases[0] for budget in ("2M", "3M"))
    assert [short.positions_of(step) for step in range(short.steps)] == [
        long.positions_of(step) for step in range(short.steps)
    ]


def test_rates_run_from_the_warmup_to_the_stated_end() -> None:
    (phase,) = pair().phases
    rates = [phase.lr_frac(step) for step in range(phase.steps)]
    assert 0 < rates[0] < 0.5
    assert max(rates) == 1.0
    assert rates[-1] == pytest.approx(0.02)


@given(
    st.integers(1, 40),
    st.integers(0, 200),
    st.integers(0, 400_000),
    st.integers(3_000_000, 6_000_000),
)
def test_positions_and_steps_are_inverse(first: int, growth: int, ramp: int, budget: int) -> None:
    (phase,) = PAIR.phases
    recipe = PAIR.model_copy(
        update={
            "phases": (
                phase.model_copy(
                    update={
                        "budget_tokens": budget,
                        "batch": phase.batch.model_validate(
                            {
                                "sequences": first + growth,
                                "ramp": {"from_sequences": first, "over_tokens": ramp} if ramp else None,
                            }
                        ),
                    }
                ),
            )
        }
    )
    plan = resolve_plan(recipe, "decoder", STATS, 4096).phases[0]
    assert len(plan.batch_stages) <= 64
    borders = {stage.first_step + delta for stage in plan.batch_stages for delta in (-1, 0, 1)} | {plan.steps - 1}
    for step in sorted(border for border in borders if 0 <= border < plan.steps):
        span = plan.positions_of(step)
        assert plan.step_of(span.start) == plan.step_of(span.stop - 1) == step
        if step:
            assert plan.positions_of(step - 1).stop == span.start
            assert plan.step_of(span.start - 1) == step - 1
    assert plan.positions_of(0).start == 0
    assert plan.positions_of(plan.steps - 1).stop == plan.positions
    for outside in (plan.positions, -1):
        with pytest.raises(IndexError):
            plan.step_of(outside)


PAIR = load_recipe(TWO_SOURCES)


@given(st.floats(1, 1022), st.integers(8, 100_000))
def test_the_expected_mean_lies_within_the_sequence(mean: float, seq_len: int) -> None:
    found = expected_mean_tokens(mean, seq_len)
    assert 0 < found <= seq_len - 2
    assert expected_mean_tokens(mean, 1024) == pytest.approx(mean, rel=1e-3)
    assert expected_mean_tokens(mean, 2 * seq_len) >= found


def test_vocabulary_from_the_tokenizer(tmp_path: Path) -> None:
    spec = load_recipe(TWO_SOURCES).data.tokenizer
    assert expected_vocab_size(spec) == 4096
    assert expected_vocab_size(spec.model_copy(update={"train_vocab_size": 1001})) == 1024
    assert expected_vocab_size(spec.model_copy(update={"path": str(tmp_path / "none")})) == 50_368
    content = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"id": 70, "content": "[CLS]"}]}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        assert expected_vocab_size(spec.model_copy(update={"path": str(path)})) == 128
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RecipeError, match="is not a tokenizer"):
        expected_vocab_size(spec.model_copy(update={"path": str(tmp_path)}))


def test_three_phases_chain_their_rates(tmp_path: Path) -> None:
    phase = "batch: {sequences: 10}"
    path = tmp_path / "phases.yaml"
    path.write_text(
        "extends: 1m\nname: chained\nphases:\n"
        f"  - {{name: pretrain, seq_len: 512, budget_tokens: 2M, {phase}, "
        "lr: {curve: warmup_stable_decay, warmup_tokens: 100k}}\n"
        f"  - {{name: extend, tag: ext, seq_len: 2048, budget_tokens: 1M, {phase}, rope_global_theta: 160_000, "
        "lr: {curve: one_minus_sqrt, start_frac: 1.0, end_frac: 0.5}}\n"
        f"  - {{name: decay, tag: decay, seq_len: 2048, budget_tokens: 1M, {phase}, mask_frac: 0.15, "
        "lr: {curve: one_minus_sqrt, start_frac: 0.5, end_frac: 0.02}}\n",
        encoding="utf-8",
    )
    plan = resolve_plan(load_recipe(str(path), ["budget=8M"]), "encoder")
    assert [phase.budget_tokens for phase in plan.phases] == [4_000_000, 2_000_000, 2_000_000]
    assert [phase.lr_frac(phase.steps - 1) for phase in plan.phases] == pytest.approx([1.0, 0.5, 0.02])
    assert [phase.mask_frac for phase in plan.phases] == [0.3, 0.3, 0.15]
    assert plan.phases[1].mean_tokens > plan.phases[0].mean_tokens
    assert plan.phase("extend").rope_global_theta == 160_000


def test_states_between_layers_in_bf16_need_that_precision():
    with pytest.raises(RecipeError, match="residual: bf16 needs precision: bf16"):
        pair("runtime.residual=bf16")
    plan = pair("runtime.residual=bf16", "runtime.precision=bf16")
    assert plan.runtime.numbers == "bf16 with bf16 between layers"
