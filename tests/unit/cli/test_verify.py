from __future__ import annotations

import json
import shutil

import pytest

from seqpair.data.order.batches import read_batch
from seqpair.data.order.ledger import Ledger, LedgerRecord
from seqpair.data.order.order import PhaseOrder
from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.counts import plan_members
from seqpair.recipe.load import load_recipe


@pytest.fixture
def two_ledgers(prepared_study, tmp_path):
    """The tiny study's two members, with the ledgers that training would have written."""
    overrides = [f"runs={tmp_path}"]
    recipe = load_recipe(str(prepared_study.recipe), overrides)
    stores = open_recipe_data(recipe).train
    for member, plan in plan_members(recipe, ["encoder", "decoder"]).items():
        run = tmp_path / "tiny" / member
        run.mkdir(parents=True)
        (run / "plan.json").write_text(plan.model_dump_json(), encoding="utf-8")
        ledger, order = Ledger(run / "ledger.jsonl"), PhaseOrder(plan.seed, plan.phases[0], stores)
        for step in range(4 if member == "encoder" else 3):
            ledger.append(LedgerRecord.of(read_batch(order, step)))
        ledger.close()
    return str(prepared_study.recipe), overrides[0], tmp_path / "tiny"


def test_ledgers_are_proven_and_compared(seqpair, two_ledgers):
    recipe, override, _ = two_ledgers
    code, out, _ = seqpair("verify", recipe, "--set", override, "--json")
    assert code == 0
    found = json.loads(out)
    assert {member: proof["steps"] for member, proof in found["ledgers"].items()} == {"encoder": 4, "decoder": 3}
    assert found["same_sequences"] == [{"members": ["encoder", "decoder"], "common_steps": 3}]
    assert all(one["most"] <= one["allowed"] for one in found["readings"])
    code, out, _ = seqpair("verify", recipe, "--set", override)
    assert code == 0
    line = next(line for line in out.splitlines() if "encoder and decoder: sequences" in line)
    assert line.endswith("ok  the same sequences at all 3 steps that both made")


def test_a_member_without_a_plan_or_a_ledger_is_a_fault(seqpair, two_ledgers):
    recipe, override, study = two_ledgers
    (study / "decoder" / "ledger.jsonl").unlink()
    code, _, messages = seqpair("verify", recipe, "--set", override)
    assert code == 3
    assert "decoder ledger ledger.jsonl: there is no ledger" in messages
    shutil.rmtree(study / "decoder")
    code, _, messages = seqpair("verify", recipe, "--set", override)
    assert code == 3
    assert "decoder plan plan.json: there is no plan.json" in messages
    assert seqpair("verify", recipe, "--set", override, "--member", "encoder")[0] == 0


def test_a_changed_ledger_is_an_error(seqpair, two_ledgers):
    recipe, override, study = two_ledgers
    path = study / "decoder" / "ledger.jsonl"
    text = path.read_text(encoding="utf-8")
    digest = json.loads(text.splitlines()[1])["digest"]
    path.write_text(text.replace(digest, "0" * len(digest)), encoding="utf-8")
    code, _, messages = seqpair("verify", recipe, "--set", override)
    assert code == 3
    assert "does not hold what its plan and stores give" in messages


def test_nothing_to_verify_is_an_error(seqpair, prepared_study, tmp_path):
    code, _, messages = seqpair("verify", prepared_study.recipe, "--set", f"runs={tmp_path}")
    assert code == 3
    assert "there is no ledger to verify" in messages
