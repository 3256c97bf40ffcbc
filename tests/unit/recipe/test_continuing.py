"""How far two plans train the same, against a comparison of every step."""

from __future__ import annotations

import itertools

import pytest

from seqpair.recipe.continuing import is_longer, shared_steps
from seqpair.recipe.load import load_recipe
from seqpair.recipe.plan import Plan
from seqpair.recipe.resolve import resolve_plan

DECAY = (
    "phases.decay={name: decay, tag: decay, seq_len: 96, budget_tokens: 6k, batch: {sequences: 16}, "
    "mixture: {notes: {share: 1}}, lr: {curve: one_minus_sqrt, end_frac: 0.02}}"
)
MORE = "phases.pretrain.budget_tokens=40k"
UNSET = "start_frac: null, end_frac: null, warmup_tokens: null, decay_tokens: null"
FLAT = f"phases.pretrain.lr={{{UNSET}, curve: constant}}"
COSINE = "phases.pretrain.lr={curve: cosine, warmup_tokens: 5k, end_frac: 0.1, decay_tokens: null}"
POINTS = f"phases.pretrain.lr={{{UNSET}, curve: points, values: [0, 1, 0]}}"
RAMP = "phases.pretrain.batch={sequences: 16, ramp: {from_sequences: 4, over_tokens: 10k}}"


@pytest.fixture
def plan_of(tiny_study):
    """Return the plan of the tiny recipe with a few keys set."""

    def plan(*assignments: str, member: str = "encoder") -> Plan:
        base = ["phases.pretrain.batch.sequences=4", "data.expected_mean_tokens=60"]
        return resolve_plan(load_recipe(str(tiny_study.recipe), [*base, *assignments]), member)

    return plan


def steps_of(plan: Plan) -> list[object]:
    """Return everything that each step of a plan trains by."""
    return [
        (phase.name, phase.positions_of(step), phase.lr_frac(step), phase.mask_frac_of(step), phase.objective_of(step))
        for phase in plan.phases
        for step in range(phase.steps)
    ]


def alike(a: Plan, b: Plan) -> int:
    """Return how many first steps are the same, one by one."""
    pairs = zip(steps_of(a), steps_of(b), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


@pytest.mark.parametrize(
    ("keys", "longer", "ended_by"),
    [
        ([], [MORE], "lr"),
        ([FLAT], [MORE], "steps"),
        ([FLAT, RAMP], [MORE], "steps"),
        ([FLAT, RAMP, "phases.pretrain.budget_tokens=6k"], [MORE], "steps"),
        ([FLAT], [DECAY], "the end of the shorter plan"),
        ([FLAT], ["phases.pretrain.budget_tokens=40k", DECAY], "steps"),
        ([FLAT, DECAY], [MORE], "steps"),
        ([FLAT, DECAY], ["phases.decay.budget_tokens=12k"], "lr"),
        (
            [FLAT, "members.encoder.objective=[{clm: 0.25}, {mlm: 0.75}]"],
            [MORE],
            "objectives",
        ),
        ([COSINE], [MORE], "lr"),
        (
            [FLAT, "members.encoder.mask_frac={curve: steps, values: [0.3, 0.15]}"],
            [MORE],
            "mask_frac",
        ),
        (
            [FLAT, "members.encoder.mask_frac={curve: linear, start: 0.3, end: 0.1}"],
            [MORE],
            "mask_frac",
        ),
        ([POINTS], [MORE], "lr"),
        ([], ["budget=40k"], "lr"),
    ],
)
def test_two_plans_train_the_same_as_far_as_their_steps_are_the_same(plan_of, keys, longer, ended_by):
    short, long = plan_of(*keys), plan_of(*keys, *longer)
    found = shared_steps(short, long)
    assert found.steps == shared_steps(long, short).steps
    assert ended_by in found.ended_by
    # The first step of a linear curve has its first rate in both, and two curves may meet again: never too many.
    assert 0 <= alike(short, long) - found.steps <= (1 if "linear" in " ".join(keys) else 0)
    assert is_longer(long, short)
    assert not is_longer(short, long)


@pytest.mark.parametrize(
    "change",
    ["seed=8", "optimizer.lr=1e-3", "phases.pretrain.seq_len=64", "phases.pretrain.rope_local_theta=500"],
)
def test_whatever_is_learned_otherwise_is_not_shared_and_not_longer(plan_of, change):
    short, long = plan_of(FLAT), plan_of(FLAT, "phases.pretrain.budget_tokens=40k", change)
    assert shared_steps(short, long).steps == 0
    assert not is_longer(long, short)


def test_another_end_of_the_same_length_is_not_a_longer_plan(plan_of):
    steep = plan_of("phases.pretrain.lr.end_frac=0.5")
    assert shared_steps(plan_of(), steep).steps == alike(plan_of(), steep) > 0
    assert not is_longer(steep, plan_of())
    assert not is_longer(plan_of("phases.pretrain.lr.decay_tokens=4k"), plan_of())


def test_a_source_that_only_a_later_phase_reads_changes_nothing_before_it(plan_of):
    more = "data.sources=[{name: notes, kind: jsonl, paths: [n.jsonl]}, {name: tales, kind: text, paths: [t]}, "
    more += "{name: fine, kind: text, paths: [f]}]"
    keys = [FLAT, "data.sources.notes.held_out_frac=0.01", "data.sources.tales.held_out_frac=0.01"]
    short, long = plan_of(*keys), plan_of(*keys, more, DECAY.replace("notes:", "fine:"))
    assert shared_steps(short, long).steps == len(steps_of(short))
    assert is_longer(long, short)
