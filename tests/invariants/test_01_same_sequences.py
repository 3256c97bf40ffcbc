"""Invariant 1: all members of a pair that train from scratch see the same sequences at every step."""

from __future__ import annotations

import numpy as np
import pytest

from seqpair.data.order.batches import assemble, read_batch
from seqpair.data.order.ledger import Ledger, LedgerComparison, LedgerRecord, require_same_sequences
from seqpair.data.order.order import PhaseOrder
from seqpair.data.prepared import open_recipe_data
from seqpair.data.store.counts import plan_member
from seqpair.recipe.load import load_recipe


def write_ledger(study, path, member: str, *overrides: str) -> Ledger:
    """Write the ledger of a member by reading its batches, step by step, as training does."""
    recipe = load_recipe(str(study.recipe), list(overrides))
    prepared, plan = open_recipe_data(recipe), plan_member(recipe, member)
    ledger = Ledger(path)
    for phase in plan.phases:
        order = PhaseOrder(plan.seed, phase, prepared.train)
        for step in range(phase.steps):
            ledger.append(LedgerRecord.of(read_batch(order, step)))
    ledger.close()
    return ledger


MEMBERS = [f"members.{name}={{objective: {name}}}" for name in ("mntp", "diffusion", "prefix")]
MEMBERS += ["members.biphasic={objective: [{clm: 0.25}, {mlm: 0.75}]}"]
OTHERS = ["encoder", "mntp", "diffusion", "prefix", "biphasic"]


@pytest.mark.parametrize("member", OTHERS)
def test_same_sequences_at_every_step_as_the_decoder(prepared_study, tmp_path, member):
    encoder = write_ledger(prepared_study, tmp_path / "encoder.jsonl", member, *MEMBERS)
    decoder = write_ledger(prepared_study, tmp_path / "decoder.jsonl", "decoder")
    comparison = require_same_sequences(encoder, decoder)
    steps = plan_member(load_recipe(str(prepared_study.recipe)), "encoder").phases[0].steps
    assert comparison == LedgerComparison(common_steps=steps, only_first=0, only_second=0, parts_at=None)
    assert encoder.path.read_bytes() == decoder.path.read_bytes()


@pytest.mark.parametrize("member", OTHERS)
def test_same_sequences_reach_both_models_but_for_the_declared_sep(prepared_study, member):
    recipe = load_recipe(str(prepared_study.recipe), MEMBERS)
    prepared = open_recipe_data(recipe)
    specials = prepared.tokenizer.specials
    content = []
    for name in (member, "decoder"):
        plan = plan_member(recipe, name)
        phase = plan.phases[0]
        batch = read_batch(PhaseOrder(plan.seed, phase, prepared.train), 0)
        ends_every_piece = phase.objective_of(0).ends_every_piece
        rows = assemble(batch, np.arange(batch.positions.size), specials, ends_every_piece)
        assert np.count_nonzero(rows.ids == specials.cls) == batch.positions.size
        ends = np.count_nonzero(rows.ids == specials.sep)
        assert ends == (batch.positions.size if ends_every_piece else np.count_nonzero(batch.is_last_piece))
        content.append(rows.ids[(rows.ids != specials.cls) & (rows.ids != specials.sep)])
    assert np.array_equal(content[0], content[1])
