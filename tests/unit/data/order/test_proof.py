from __future__ import annotations

import dataclasses
import json
import re

import pytest

from seqpair.data.order.batches import read_batch
from seqpair.data.order.ledger import Ledger, LedgerRecord
from seqpair.data.order.order import PhaseOrder
from seqpair.data.order.proof import prove_ledger, sequence_readings
from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.counts import plan_member
from seqpair.errors import TrainingError
from seqpair.recipe.load import load_recipe


@pytest.fixture(scope="module")
def study(prepared_study):
    recipe = load_recipe(str(prepared_study.recipe))
    return plan_member(recipe, "encoder"), open_recipe_data(recipe).train


def write_ledger(path, plan, stores, steps: int) -> Ledger:
    ledger = Ledger(path)
    order = PhaseOrder(plan.seed, plan.phases[0], stores)
    for step in range(steps):
        ledger.append(LedgerRecord.of(read_batch(order, step)))
    ledger.close()
    return ledger


def test_a_ledger_of_the_plan_is_proven(study, tmp_path):
    plan, stores = study
    seen: list[int] = []
    proof = prove_ledger(plan, write_ledger(tmp_path / "ledger.jsonl", plan, stores, 5), stores, seen.append)
    assert (proof.steps, proof.planned_steps) == (5, plan.phases[0].steps)
    assert len(seen) == 5
    assert seen[-1] == proof.content_tokens


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("digest", lambda value: value[::-1]),
        ("content_tokens", lambda value: value + 1),
        ("stop_position", lambda value: value - 1),
        ("step", lambda value: value + 1),
    ],
)
def test_a_ledger_that_holds_something_else_is_refused(study, tmp_path, field, change):
    plan, stores = study
    path = tmp_path / "ledger.jsonl"
    write_ledger(path, plan, stores, 4)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines[2][field] = change(lines[2][field])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(TrainingError, match="does not hold what its plan and stores give"):
        prove_ledger(plan, Ledger(path), stores)


def test_a_ledger_of_another_seed_is_refused(study, tmp_path):
    plan, stores = study
    other = plan.model_copy(update={"seed": plan.seed + 1})
    ledger = write_ledger(tmp_path / "ledger.jsonl", other, stores, 2)
    with pytest.raises(TrainingError, match=re.escape(str(ledger.path))):
        prove_ledger(plan, ledger, stores)


@pytest.mark.parametrize("epochs", [1, 3])
def test_no_sequence_is_read_more_often_than_epochs_were_begun(study, epochs):
    plan, stores = study
    phase = plan.phases[0]
    order = PhaseOrder(plan.seed, phase, stores)
    longer = phase.model_copy(update={"positions": epochs * order.mixture.round_sequences})
    found = sequence_readings(plan.seed, longer, stores)
    assert [one.source for one in found] == list(order.sources)
    assert sum(one.readings for one in found) == longer.positions
    for one in found:
        assert one.most <= one.allowed
        assert one.most - one.fewest <= 1
    assert max(one.epochs for one in found) == epochs  # a round reads the source that is read most once


def test_more_readings_than_epochs_would_be_seen(study):
    plan, stores = study
    one = sequence_readings(plan.seed, plan.phases[0], stores)[0]
    assert dataclasses.replace(one, readings=one.sequences).allowed == 1
    assert dataclasses.replace(one, readings=one.sequences + 1).allowed == 2
