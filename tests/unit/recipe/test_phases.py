from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpair.errors import RecipeError
from seqpair.recipe.cost import plan_cost
from seqpair.recipe.diff import diff_plans, plan_digest, require_declared
from seqpair.recipe.load import load_recipe
from seqpair.recipe.member_spec import ObjectivePart
from seqpair.recipe.phases import training_order
from seqpair.recipe.plan import Plan, Start, StoreStats
from seqpair.recipe.resolve import resolve_plan, resolve_plans

FOUR = str(Path(__file__).with_name("four_phases.yaml"))
STATS = {
    "corpus": StoreStats(
        source="corpus",
        digest="d",
        documents=900,
        tokens=9_000_000,
        text_bytes=27_000_000,
        sequences={1024: 11_250, 8000: 4_500},
    )
}


def plan_of(member: str, *overrides: str, estimated: bool = False) -> Plan:
    recipe = load_recipe(FOUR, overrides)
    return resolve_plan(recipe, member) if estimated else resolve_plan(recipe, member, STATS, 4096)


def spans(plan: Plan) -> list[tuple[str, int, str]]:
    return [(phase.name, span.first_step, span.objective) for phase in plan.phases for span in phase.objectives]


def test_a_member_from_scratch_runs_all_but_the_cross_phases() -> None:
    assert spans(plan_of("encoder")) == [("pretrain", 0, "mlm"), ("extend", 0, "mlm"), ("decay", 0, "mlm")]
    assert plan_of("encoder").start is None
    assert spans(plan_of("x", "members.x={objective: clm, phases: [extend, pretrain]}")) == [
        ("extend", 0, "clm"),
        ("pretrain", 0, "clm"),
    ]


def test_a_cross_member_starts_afresh_from_the_last_checkpoint() -> None:
    plan = plan_of("encoder-from-decoder")
    assert plan.start is not None
    assert plan.start.plan_digest
    assert plan.start.model_copy(update={"plan_digest": ""}) == Start(kind="member", member="decoder")
    assert plan.start.place == "decoder's last checkpoint"
    assert spans(plan) == [("cross", 0, "mntp")]
    assert (plan.phases[0].mask_frac, plan.derived.predicts) == (0.15, "masked_next")
    assert spans(plan_of("decoder-from-encoder")) == [("cross", 0, "clm")]


def test_a_start_rests_on_the_plan_of_the_member_it_starts_from() -> None:
    plain, other = (
        plan_of("encoder-from-decoder", *overrides) for overrides in ((), ("phases.pretrain.budget_tokens=4M",))
    )
    assert plain.start is not None
    assert other.start is not None
    assert plain.start.plan_digest != other.start.plan_digest
    assert plain.phases == other.phases


def test_a_branch_goes_on_with_objective_and_optimiser() -> None:
    name = f"step{plan_of('encoder').phases[0].checkpoint_steps[-2]}"
    plan = plan_of("early", f"members.early={{from: encoder@{name}, phases: [decay]}}")
    assert plan.start is not None
    assert (plan.start.checkpoint, plan.start.optimizer, plan.start.place) == (name, "carried", f"encoder@{name}")
    assert spans(plan) == [("decay", 0, "mlm")]
    assert plan.phases[0] == plan_of("encoder").phase("decay")
    assert plan.keep.names == ()


def test_what_others_start_from_is_kept() -> None:
    plan = plan_of("encoder", "members.early={from: encoder@step40, phases: [decay]}", estimated=True)
    assert plan.keep.names == ("step40",)


@pytest.mark.parametrize(
    ("member", "optimizer"),
    [
        ("{from: encoder, objective: mlm, phases: [cross]}", "carried"),
        ("{from: encoder, phases: [cross]}", "carried"),
        ("{from: encoder, objective: mntp, phases: [cross]}", "fresh"),
        ("{from: encoder, objective: clm, phases: [cross], optimizer: carried}", "carried"),
        ("{from: encoder, phases: [cross], optimizer: fresh}", "fresh"),
    ],
)
def test_the_optimiser_is_carried_where_the_objective_stays(member: str, optimizer: str) -> None:
    start = plan_of("x", f"members.x={member}").start
    assert start is not None
    assert start.optimizer == optimizer


def test_a_branch_off_a_schedule_takes_the_objective_of_its_checkpoint() -> None:
    both = "members.both={objective: [{clm: 0.5}, {mlm: 0.5}]}"
    steps = plan_of("both", both).phases[0].checkpoint_steps
    for name, objective in ((f"step{steps[1]}", "clm"), (f"step{steps[-1]}", "mlm")):
        plan = plan_of("branch", both, f"members.branch={{from: both@{name}, phases: [decay]}}")
        assert spans(plan) == [("decay", 0, objective)]
        assert plan.start is not None
        assert plan.start.optimizer == "carried"


def test_a_member_may_start_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "r.yaml"
    (tmp_path / "bare").mkdir()
    (tmp_path / "encoder").mkdir()
    (tmp_path / "models" / "modernbert").mkdir(parents=True)
    recipe.write_text(
        f"extends: {FOUR}\nmembers:\n"
        "  a: {from: models/modernbert, objective: mlm}\n"
        "  b: {from: ./there, objective: clm, phases: [decay]}\n"
        "  c: {from: bare, objective: mlm}\n"
        "  d: {from: encoder, phases: [decay]}\n",
        encoding="utf-8",
    )
    loaded = load_recipe(str(recipe))
    plans = {name: resolve_plan(loaded, name) for name in "abcd"}
    starts = {name: plan.start for name, plan in plans.items()}
    for name, folder in (("a", "models/modernbert"), ("b", "there"), ("c", "bare")):
        assert starts[name] == Start(kind="folder", path=str(tmp_path / folder), optimizer="fresh")
    assert starts["d"] is not None
    assert starts["d"].member == "encoder"  # a member goes before a folder of its name
    assert [phase.name for phase in plans["a"].phases] == ["pretrain", "extend", "decay"]
    monkeypatch.chdir(tmp_path)
    start = plan_of("x", "members.x={from: ./here, objective: mlm}").start
    assert start is not None
    assert start.path == str(tmp_path / "here")


def test_a_schedule_switches_on_the_step_border_nearest_to_its_fraction() -> None:
    plan = plan_of("both", "members.both={objective: [{clm: 0.25}, {mlm: 0.75}]}")
    pretrain = plan.phases[0]
    (first, second) = pretrain.objectives
    assert (first.objective, first.first_step, second.objective) == ("clm", 0, "mlm")
    target = 0.25 * pretrain.planned_tokens(pretrain.steps)
    distances = [abs(pretrain.planned_tokens(step) - target) for step in range(pretrain.steps + 1)]
    assert second.first_step == distances.index(min(distances))
    assert [pretrain.objective_of(second.first_step + delta).name for delta in (-1, 0)] == ["clm", "mlm"]
    assert spans(plan)[2:] == [("extend", 0, "mlm"), ("decay", 0, "mlm")]
    assert (pretrain.mask_frac, plan.derived.direction) == (0.3, "bidirectional")


@given(st.lists(st.integers(5, 100), min_size=1, max_size=5))
def test_every_border_of_a_schedule_is_the_nearest(weights: list[int]) -> None:
    parts = tuple(
        ObjectivePart(("clm", "mlm")[index % 2], weight / sum(weights)) for index, weight in enumerate(weights)
    )
    spec = RECIPE.members["encoder"].model_copy(update={"objective": parts})
    recipe = RECIPE.model_copy(update={"members": {"x": spec}})
    phase = resolve_plan(recipe, "x", STATS, 4096).phases[0]
    assert len(phase.objectives) == len(parts)
    total, done = phase.planned_tokens(phase.steps), 0.0
    largest = max(phase.planned_tokens(step + 1) - phase.planned_tokens(step) for step in range(phase.steps))
    for part, span in zip(parts, phase.objectives, strict=True):
        assert abs(phase.planned_tokens(span.first_step) - done * total) <= largest / 2 + 1e-6
        assert span.objective == part.objective
        done += part.frac


RECIPE = load_recipe(FOUR)


def test_a_schedule_without_a_pretraining_phase_spans_all_its_phases() -> None:
    plan = plan_of("x", "members.x={objective: [{mlm: 0.9}, {clm: 0.1}], phases: [extend, decay]}")
    assert spans(plan)[:2] == [("extend", 0, "mlm"), ("decay", 0, "mlm")]
    assert spans(plan)[2][0::2] == ("decay", "clm")
    assert plan.derived.direction == "causal"
    assert plan.phases[0].mask_frac == 0.3


def test_a_switch_may_fall_on_the_border_of_two_phases() -> None:
    (extend, decay) = plan_of("x", "members.x={objective: mlm, phases: [extend, decay]}").phases
    tokens = [phase.planned_tokens(phase.steps) for phase in (extend, decay)]
    frac = tokens[0] / sum(tokens)
    plan = plan_of("x", f"members.x={{objective: [{{mlm: {frac}}}, {{clm: {1 - frac}}}], phases: [extend, decay]}}")
    assert spans(plan) == [("extend", 0, "mlm"), ("decay", 0, "clm")]
    assert [phase.mask_frac for phase in plan.phases] == [0.3, None]


def test_a_hybrid_is_exported_as_both() -> None:
    plan = plan_of("h", "members.h={objective: {hybrid: {causal_frac: 0.0625}}}")
    for phase in plan.phases:
        (span,) = phase.objectives
        assert (span.objective, span.causal_frac) == ("hybrid", 0.0625)
        assert phase.span_of(phase.steps - 1) == span
    assert plan.phases[0].mask_frac == 0.3
    derived = plan.derived
    assert (derived.hub_class, derived.predicts, derived.also_exports) == (
        "ModernBertForMaskedLM",
        "masked_next",
        "clm",
    )
    assert plan_of("encoder").derived.also_exports is None


def test_a_member_may_have_a_mask_rate_of_its_own() -> None:
    plan = plan_of("x", "members.x={objective: mlm, mask_frac: 0.2}")
    assert [phase.mask_frac for phase in plan.phases] == [0.2, 0.2, 0.2]
    assert plan_of("x", "members.x={objective: clm, mask_frac: 0.2}").phases[0].mask_frac is None


def test_an_untrained_member_is_its_start_read_by_another_objective() -> None:
    plan = plan_of("x", "members.x={from: decoder, objective: mntp, phases: []}")
    (phase,) = plan.phases
    decay = plan_of("decoder").phase("decay")
    assert (phase.steps, phase.positions, phase.checkpoint_steps, phase.tag) == (0, 0, (0,), "cross")
    assert (phase.seq_len, phase.rope_global_theta) == (decay.seq_len, decay.rope_global_theta)
    assert plan.derived.hub_class == "ModernBertForMaskedLM"
    assert plan_cost(plan).flops == 0
    require_declared(diff_plans(plan, plan_of("encoder-from-decoder")), ("x", "encoder-from-decoder"))
    early = plan_of("x", "members.x={from: decoder@ext4, objective: mntp, phases: []}", estimated=True)
    assert early.phases[0].seq_len == plan_of("decoder").phase("extend").seq_len
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_the_layers_that_are_trained_are_in_the_digest_of_those_that_say_them() -> None:
    whole, some, same = (
        plan_of("x", f"members.x={{from: decoder, objective: clm, phases: [cross]{more}}}")
        for more in ("", ", train_layers: [0, head]", ", train_layers: [0, head]")
    )
    assert plan_digest(some) == plan_digest(same) != plan_digest(whole)
    assert whole.start is not None
    assert some.start is not None
    assert (whole.start.optimizer, some.start.optimizer) == ("carried", "fresh")  # moments of all are not those of some
    assert {difference.path for difference in diff_plans(whole, some)} >= {"start.train_layers[0]"}


def test_training_order_puts_each_member_after_its_start() -> None:
    recipe = load_recipe(
        FOUR,
        [
            "members={z: {from: y, phases: [cross]}, y: {from: decoder@ext4, phases: [decay]}, "
            "f: {from: ./folder, objective: mlm}}",
        ],
    )
    assert list(recipe.members)[-3:] == ["z", "y", "f"]
    order = training_order(recipe)
    assert sorted(order) == sorted(recipe.members)
    assert order == ["encoder", "decoder", "encoder-from-decoder", "decoder-from-encoder", "y", "z", "f"]
    assert training_order(recipe, ["z"]) == ["decoder", "y", "z"]
    assert training_order(recipe, ["f", "encoder"]) == ["encoder", "f"]
    with pytest.raises(RecipeError, match="no member 'encodr' .did you mean 'encoder'"):
        training_order(recipe, ["encodr"])


@pytest.mark.parametrize(
    ("assignment", "parts"),
    [
        ("members.x={objective: nonsense}", ["'members.x.objective'", "'nonsense' is not an objective", "hybrid"]),
        ("members.x={objective: mlmm}", ["did you mean 'mlm'"]),
        ("members.x={objective: hybrid}", ["'hybrid' needs its causal share"]),
        ("members.x={objective: difusion}", ["'difusion' is not an objective", "diffusion"]),
        ("members.x={objective: {hybrid: {causal_frac: 1}}}", ["causal_frac must be above 0 and below 1", "is 1"]),
        ("members.x={objective: {hybrid: {share: 0.5}}}", ["'hybrid' takes one key"]),
        ("members.x={objective: {clm: 1.0}}", ["not an objective", "a list such as"]),
        ("members.x={objective: []}", ["not an objective"]),
        ("members.x={objective: [{clm: 0.25}, {mlm: 0.7}]}", ["must sum to 1", "sum to 0.95"]),
        ("members.x={objective: [{clm: 1.5}]}", ["above 0 and at most 1", "is 1.5"]),
        ("members.x={objective: [{clm: yes}]}", ["must be a number", "'yes'"]),
        ("members.x={objective: [clm, mlm]}", ["one objective with its fraction"]),
        ("members.x={objective: [{clm: 0.5}, {hybrid: 0.5}]}", ["stands alone"]),
        ("members.x={}", ["'objective' is missing", "only a member that starts from another one"]),
        ("members.x={from: ./folder}", ["'objective' is missing"]),
        ("members.x={from: encoder}", ["'phases' is missing", "phases: [cross]"]),
        ("members.x={objective: mlm, phases: []}", ["'phases' is empty", "a start from another member"]),
        ("members.x={from: encoder, objective: [{clm: 0.5}, {mlm: 0.5}], phases: []}", ["'phases' is empty"]),
        ("members.x={objective: mlm, phases: [decay, decay]}", ["no phase twice", "['decay', 'decay']"]),
        ("members.x={objective: mlm, train_layers: [1]}", ["'train_layers' belongs to members with 'from'"]),
        ("members.x={from: encoder, phases: [cross], optimizer: carried, train_layers: [1]}", ["is fresh"]),
        ("members.x={from: encoder, phases: [cross], train_layers: [1, head, 1]}", ["none twice"]),
        ("members.x={from: encoder, phases: [cross], train_layers: [99]}", ["no layer 99", "the last is"]),
        ("members.x={from: encoder, phases: [cross], train_layers: [tail]}", ["train_layers"]),
        (
            "members.x={objective: mlm, phases: [dekay]}",
            ["members.x.phases", "'dekay'", "did you mean 'decay'", "cross"],
        ),
        ("members.x={from: encodr, phases: [cross]}", ["members.x.from", "'encodr'", "did you mean 'encoder'", "'/'"]),
        ("members.x={from: x, phases: [cross]}", ["in a circle: x -> x"]),
        (
            "members={x: {from: y, phases: [cross]}, y: {from: x, phases: [cross]}}",
            ["in a circle: x -> y -> x"],
        ),
        ("members.x={from: encoder@last, phases: [cross]}", ["member@step1200", "'encoder@last'"]),
        ("members.x={from: encoder@, phases: [cross]}", ["member@step1200", "'encoder@'"]),
        ("members.x={objective: mlm, optimizer: fresh}", ["'optimizer' belongs to members with 'from'"]),
        ("members.x={objective: mlm, from: ./f, optimizer: carried}", ["no optimiser state"]),
        ("members.x={objective: mlm, mask_frac: 1.0}", ["'members.x.mask_frac'", "less than 1"]),
        ("members.x={objective: mlm, form: encoder}", ["unknown key 'members.x.form' (did you mean 'from'?)"]),
    ],
)
def test_members_that_cannot_be(assignment: str, parts: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(FOUR, [assignment])
    for part in [*parts, "next:"]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["members.x={from: encoder@cross4, phases: [cross]}"], ["no checkpoint 'cross4'", "step, ext, decay"]),
        (["members.x={from: encoder@step7, phases: [cross]}"], ["no checkpoint 'step7'", "the nearest are step"]),
        (
            ["members.x={objective: [{clm: 0.0001}, {mlm: 0.9999}]}"],
            ["no step is left to the objective 'clm' of the member 'x'", "0.0001", "raise the fraction"],
        ),
        (
            ["phases.extend.tag=step", "members.x={objective: mlm}"],
            ["'pretrain' and 'extend' both have tag 'step'", "another `tag`"],
        ),
        (
            [f"phases.{name}.tag=cross" for name in ("pretrain", "extend", "decay")] + ["members.x={objective: mlm}"],
            ["the member 'x' runs no phase", "members.x.phases"],
        ),
    ],
)
def test_members_that_cannot_be_resolved(overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        plan_of("x", *overrides)
    for part in parts:
        assert part in str(caught.value)


def test_in_an_estimate_only_the_phase_of_a_checkpoint_is_checked() -> None:
    start = plan_of("x", "members.x={from: encoder@step7, phases: [decay]}", estimated=True).start
    assert start is not None
    assert start.checkpoint == "step7"
    with pytest.raises(RecipeError, match="no checkpoint 'cross7'"):
        plan_of("x", "members.x={from: encoder@cross7, phases: [decay]}", estimated=True)


def test_plans_with_starts_and_spans_survive_json() -> None:
    overrides = ["members.h={objective: {hybrid: {causal_frac: 0.5}}}", "members.f={from: ./f, objective: mlm}"]
    for member in ("encoder-from-decoder", "h", "f"):
        plan = plan_of(member, *overrides)
        assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_an_objective_is_written_back_as_it_was_read() -> None:
    written = {
        "a": "mlm",
        "b": [{"clm": 0.25}, {"mlm": 0.75}],
        "c": {"hybrid": {"causal_frac": 0.25}},
    }
    recipe = load_recipe(
        FOUR,
        [
            "members.a={objective: mlm}",
            "members.b={objective: [{clm: 0.25}, {mlm: 0.75}]}",
            "members.c={objective: {hybrid: {causal_frac: 0.25}}}",
        ],
    )
    dumped = recipe.model_dump(mode="json", by_alias=True)["members"]
    assert {name: dumped[name]["objective"] for name in written} == written
    assert dumped["encoder-from-decoder"]["from"] == "decoder"
    assert recipe.origins["members.b.objective.0.clm"] == "--set"


CURVE = "{curve: linear, start: 0.3, end: 0.05}"


def test_a_mask_rate_may_change_over_a_phase() -> None:
    (phase, *_) = plan_of("encoder", f"phases.0.mask_frac={CURVE}").phases
    rates = [phase.mask_frac_of(step) for step in range(phase.steps)]
    assert rates[0] == 0.3
    assert rates == sorted(rates, reverse=True)
    assert 0.05 < rates[-1] < 0.06
    assert phase.highest_mask_frac == 0.3
    assert plan_of("decoder", f"phases.0.mask_frac={CURVE}").phases[0].mask_frac is None
    number = plan_of("encoder").phases[0]
    assert {number.mask_frac_of(step) for step in range(number.steps)} == {number.mask_frac}
    assert plan_of("x", f"members.x={{objective: mlm, mask_frac: {CURVE}}}").phases[0].mask_frac == phase.mask_frac


def test_a_changing_mask_rate_is_in_the_digest_and_declared_in_a_diff() -> None:
    plain = plan_of("encoder")
    linear, again = (plan_of("encoder", f"phases.0.mask_frac={CURVE}") for _ in range(2))
    assert plan_digest(linear) == plan_digest(again) != plan_digest(plain)
    decoder = plan_of("decoder", f"phases.0.mask_frac={CURVE}")
    differences = diff_plans(linear, decoder)
    require_declared(differences, ("encoder", "decoder"))
    name = linear.phases[0].name
    paths = {item.path for item in differences}
    assert {f"phases[{name}].mask_frac.{key}" for key in ("curve", "start", "end")} <= paths
    assert diff_plans(linear, again) == []


def test_a_control_differs_from_a_crossed_member_in_where_it_starts_and_its_objective_alone() -> None:
    plans = resolve_plans(load_recipe("study-1m"), ["encoder-from-decoder", "encoder-continued", "decoder-continued"])
    crossed, encoder, decoder = plans.values()
    for control, parent in ((encoder, "encoder"), (decoder, "decoder")):
        assert (control.start.member, control.start.optimizer) == (parent, crossed.start.optimizer)
        require_declared(diff_plans(control, crossed), (control.member, crossed.member))
        bare = [plan.phases[0].model_copy(update={"objectives": (), "mask_frac": None}) for plan in (control, crossed)]
        assert bare[0] == bare[1]
    assert {encoder.start.place, crossed.start.place} == {"encoder's last checkpoint", "decoder's last checkpoint"}
